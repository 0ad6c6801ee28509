"""The reference of every step, slow and in plain numpy. The fast kernels equal it bit for bit.

The order of operations is part of the definition. All arithmetic is float32 and rounded after every operation; products
are added one after another in the order that each function states; nothing is fused. Maps are `[N, C, H, W]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bnas.packed.parameters import BlockParameters, ClassifierParameters, Floats, Parameters, StemParameters
from bnas.space.layout import Block, Classifier, Concat, Pool, Shuffle, Stem, Step, Sum

ONE = np.float32(1)
Value = TypeVar("Value", bound=np.generic)


def run(steps: Sequence[Step], parameters: Sequence[Parameters], images: Floats) -> Floats:
    """The last map for normalised images `[N, C, H, W]`; logits `[N, classes]` if the last step is a classifier."""
    return maps(steps, parameters, images)[-1]


def maps(steps: Sequence[Step], parameters: Sequence[Parameters], images: Floats) -> list[Floats]:
    """Every map, numbered as in `bnas.space.layout`; the first are the images."""
    made = [images]
    for step, values in zip(steps, parameters, strict=True):
        match step, values:
            case Stem(), StemParameters():
                sums = stem(made[step.source], values, step.stride)
                made.append(np.where(sums > 0, sums, np.float32(0)) if step.relu else sums)
            case Block(), BlockParameters():
                made.append(block(made[step.source], values, step))
            case Pool(), None:
                made.append(pool(made[step.source], step.kind, step.stride))
            case Shuffle(), None:
                made.append(shuffle(made[step.source], step.groups))
            case Sum(), None:
                made.append(made[step.source] + made[step.other])
            case Concat(), None:
                made.append(np.concatenate([made[source] for source in step.sources], axis=1))
            case Classifier(), ClassifierParameters():
                made.append(classify(made[step.source], values))
            case _:
                raise ValueError(f"{step.name}: parameters {type(values).__name__} do not belong to this step")
    return made


def stem(x: Floats, parameters: StemParameters, stride: int) -> Floats:
    """Zero-padded convolution: starts from the bias, adds weight × value over input channels, rows, columns."""
    weight, bias = parameters
    made, channels, kernel, _ = weight.shape
    taps = [window(padded(x, kernel // 2, 0), at, stride, x.shape) for at in product(range(kernel), repeat=2)]
    total = np.broadcast_to(bias[None, :, None, None], (len(x), made, *taps[0].shape[2:])).copy()
    for o, c in product(range(made), range(channels)):
        for tap, values in enumerate(taps):
            total[:, o] += weight[o, c].ravel()[tap] * values[:, c]
    return total


def signs(x: Floats, scale: Floats, shift: Floats) -> NDArray[np.bool_]:
    """Where `scale · x + shift ≥ 0` in exact arithmetic; `[N, C, H, W]` and `[C]` → the shape of x.

    In float64 the product is exact and the sum's rounding keeps its sign.
    """
    by_channel = (None, slice(None), None, None)
    exact = x.astype(np.float64) * scale.astype(np.float64)[by_channel] + shift.astype(np.float64)[by_channel]
    return exact >= 0


def binary_conv2d(
    x: NDArray[np.bool_],
    weight: NDArray[np.int8],
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> NDArray[np.int32]:
    """Convolution of ±1 (`x` `[N, C, H, W]`, True for +1) with ±1 (`weight` `[O, C / groups, k, k]`), whole numbers.

    Zero padding in the ±1 domain: a tap over the border contributes nothing.
    """
    made, depth, kernel, _ = weight.shape
    values = padded(np.where(x, 1, -1).astype(np.int32), padding, 0)
    height, width = ((side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in x.shape[2:])
    total = np.zeros((len(x), made, height, width), np.int32)
    for ky, kx in product(range(kernel), repeat=2):
        rows = slice(ky * dilation, ky * dilation + (height - 1) * stride + 1, stride)
        columns = slice(kx * dilation, kx * dilation + (width - 1) * stride + 1, stride)
        seen = values[:, :, rows, columns]
        for o in range(made):
            group = o // (made // groups)
            for c in range(depth):
                total[:, o] += weight[o, c, ky, kx] * seen[:, group * depth + c]
    return total


def block(x: Floats, parameters: BlockParameters, step: Block) -> Floats:
    """`PReLU(s · scale + shift + shortcut)` of the binary convolution s; the product first, then the sums in order."""
    p, by_channel = parameters, (None, slice(None), None, None)
    bits = signs(x, p.scale_in, p.shift_in)
    whole = binary_conv2d(bits, p.weight, step.stride, step.padding, step.dilation, step.groups)
    y = whole.astype(np.float32) * p.scale_out[by_channel] + p.shift_out[by_channel]
    y = y + match_channels(pool(x, "skip", step.stride), step.out.channels)
    return np.where(y > 0, y, p.slope[by_channel] * y)


def match_channels(x: Floats, channels: int) -> Floats:
    """Tiles when widening; when narrowing, the sum over each group of value × (1 / group's size), in order."""
    have = x.shape[1]
    if channels >= have:
        return np.concatenate([x] * -(-channels // have), axis=1)[:, :channels]
    made = np.zeros((len(x), channels, *x.shape[2:]), np.float32)
    for j in range(channels):
        first, end = group(j, have, channels)
        share = ONE / np.float32(end - first)
        for c in range(first, end):
            made[:, j] += x[:, c] * share
    return made


def group(index: int, have: int, channels: int) -> tuple[int, int]:
    """First channel and end of the group that `match_channels` averages into channel `index`."""
    return index * have // channels, -(-(index + 1) * have // channels)


def pool(x: Floats, kind: str, stride: int) -> Floats:
    """Averages add row by row what lies inside the map and then divide by its number; at the border −∞ for a maximum.

    `skip` is x itself at stride 1, the average of 2×2 at stride 2; `none` is +0 everywhere.
    """
    if kind == "none":
        return np.zeros_like(x[:, :, ::stride, ::stride])
    if kind == "skip" and stride == 1:
        return x
    kernel = 2 if kind == "skip" else 3
    border = 0 if kind == "skip" else 1
    fill = -np.inf if kind == "max" else 0
    # One more on the far sides: at an odd size the last window of stride 2 reaches past the map.
    wide = np.pad(x, ((0, 0), (0, 0), (border, 2), (border, 2)), constant_values=fill)
    inside = np.pad(np.ones_like(x[:1, :1]), ((0, 0), (0, 0), (border, 2), (border, 2)))
    taps = list(product(range(kernel), repeat=2))
    total = window(wide, taps[0], stride, x.shape).copy()
    count = window(inside, taps[0], stride, x.shape).copy()
    for tap in taps[1:]:
        seen = window(wide, tap, stride, x.shape)
        total = np.where(seen > total, seen, total) if kind == "max" else total + seen
        count += window(inside, tap, stride, x.shape)
    return total if kind == "max" else total / count


def shuffle(x: Floats, groups: int) -> Floats:
    """The first channel of every group, then the second of every group, and so on."""
    width = x.shape[1] // groups
    return x[:, [group * width + i for i in range(width) for group in range(groups)]]


def classify(x: Floats, parameters: ClassifierParameters) -> Floats:
    """Sum over the pixels row by row, divided by their number; from the bias, add weight × mean over the channels."""
    weight, bias = parameters
    n, channels, height, width = x.shape
    mean = np.zeros((n, channels), np.float32)
    for at in range(height * width):
        mean += x.reshape(n, channels, -1)[:, :, at]
    mean = mean / np.float32(height * width)
    logits = np.broadcast_to(bias, (n, len(bias))).copy()
    for c in range(channels):
        logits += weight[:, c] * mean[:, c, None]
    return logits


def padded(x: NDArray[Value], border: int, fill: float) -> NDArray[Value]:
    """x with a border of `fill` on all four sides."""
    return np.pad(x, ((0, 0), (0, 0), (border, border), (border, border)), constant_values=fill)


def window(wide: NDArray[Value], tap: Sequence[int], stride: int, shape: Sequence[int]) -> NDArray[Value]:
    """What `tap` (row, column) sees of a padded map of `shape` `[…, H, W]`: `[N, C, ⌈H/stride⌉, ⌈W/stride⌉]`."""
    ky, kx = tap
    height, width = (-(-side // stride) for side in shape[2:])
    rows = slice(ky, ky + (height - 1) * stride + 1, stride)
    return wide[:, :, rows, kx : kx + (width - 1) * stride + 1 : stride]
