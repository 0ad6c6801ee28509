"""The comparison of a packed network with the PyTorch network that it was made from; needs torch.

The two round in different orders, so a value within rounding of a sign's threshold may get one sign here and the other
there. From that sign on the two compute different things, and no tolerance covers that. Such images are counted. Each
of them is then checked: up to the first sign that differs, both must have computed the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas.nn.network import Network
from bnas.nn.operations import BinaryBlock
from bnas.packed.machine import Machine
from bnas.packed.parameters import BlockParameters, Floats, Parameters
from bnas.packed.reference import signs
from bnas.packed.thresholds import on_threshold, room
from bnas.space.layout import Block, Step, Sum

TOLERANCE = 1e-4
"""The largest difference of two equal logits, relative to the largest logit of the image."""

MOST_DEVIATING = 0.01
"""The largest share of images on which rounding may decide a sign; one image is always allowed. `bnas.packed.ties` sees
to it that no more do."""

TOGETHER = 256
"""Images of one forward pass in PyTorch."""


class Packed(Protocol):
    """A packed network: its steps, what they hold, and the logits of images."""

    @property
    def steps(self) -> Sequence[Step]:
        """What it computes, in order."""

    @property
    def parameters(self) -> Sequence[Parameters]:
        """What each step holds."""

    def __call__(self, images: Floats, /) -> Floats:
        """Logits `[N, classes]`."""


class BlockSigns(NamedTuple):
    """What a packed network and PyTorch compute before the signs of a block, `[R, C, H, W]` but for name and shift.

    Attributes:
        name: Of the block.
        shift: That of its first BatchNorm, `[C]`.
        same: Whether both values are equal but for rounding.
        differs: Whether the signs differ.
        on_threshold: Whether the packed network's value is on the threshold but for rounding.
        room: What rounding may make of a value.
    """

    name: str
    shift: Floats
    same: NDArray[np.bool_]
    differs: NDArray[np.bool_]
    on_threshold: NDArray[np.bool_]
    room: NDArray[np.float64]


def deviating(network: Network, packed: Packed, inputs: Floats) -> NDArray[np.int64]:
    """The numbers of the images on which rounding decided a sign; on all others logits and class are PyTorch's.

    `inputs` are normalised images `[N, C, H, W]`. Raises ValueError if there are too many such images, or if an image
    deviates although no value before a sign lies within rounding of its threshold.
    """
    deviate = answered_otherwise(network, packed, inputs)
    if len(deviate) > max(1, MOST_DEVIATING * len(inputs)):
        raise ValueError(
            f"expected the packed network's logits to differ from PyTorch's on at most {MOST_DEVIATING:.0%} of "
            f"{len(inputs)} images or on one, found {len(deviate)}"
        )
    unexplained = deviate[~undecided(network, packed, inputs, deviate)] if len(deviate) else deviate
    if len(unexplained):
        raise ValueError(
            f"expected the packed network to answer as PyTorch but where a value lies within rounding of a sign's "
            f"threshold, found {len(unexplained)} images that differ otherwise, the first is number {unexplained[0]}"
        )
    return deviate


def answered_otherwise(network: Network, packed: Packed, inputs: Floats) -> NDArray[np.int64]:
    """The numbers of the images of which the packed network's logits or class are not PyTorch's."""
    expected, logits = torch_logits(network, inputs), packed(inputs)
    difference = np.abs(logits - expected).max(axis=1) / np.abs(expected).max(axis=1)
    return np.flatnonzero((difference > TOLERANCE) | (logits.argmax(axis=1) != expected.argmax(axis=1)))


def torch_logits(network: Network, inputs: Floats) -> Floats:
    """Logits of the PyTorch network, float32 `[N, classes]`."""
    with torch.inference_mode():
        x = torch.from_numpy(inputs).contiguous(memory_format=torch.channels_last)
        logits: Floats = torch.cat([network(part) for part in torch.split(x, TOGETHER)]).numpy()
    return logits


def undecided(network: Network, packed: Packed, inputs: Floats, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether rounding alone explains that an image deviates, bool `[R]`.

    `inputs` `[N, C, H, W]` are all images that were compared, `rows` `[R]` the ascending numbers of those to explain.
    An image is explained by its first block in which a sign differs: every sign that differs there must belong to a
    value within rounding of its threshold, and all values before must be equal within rounding.
    """
    unseen, explained = np.ones(len(rows), bool), np.zeros(len(rows), bool)
    for block in block_signs(network, packed, inputs, rows):
        first = unseen & block.differs.any(axis=(1, 2, 3))
        excused = block.same & (~block.differs | block.on_threshold)
        explained |= first & excused.all(axis=(1, 2, 3))
        unseen &= block.same.all(axis=(1, 2, 3)) & ~first
    return explained


def block_signs(network: Network, packed: Packed, inputs: Floats, rows: NDArray[np.int64]) -> Iterator[BlockSigns]:
    """The comparison before every block in turn, of the images with these ascending numbers."""
    seen = before_signs(network, inputs, rows)
    for index, (step, values) in enumerate(zip(packed.steps, packed.parameters, strict=True)):
        if not (isinstance(step, Block) and isinstance(values, BlockParameters)):
            continue
        scale, shift = values.scale_in, values.shift_in
        x, plus = seen[step.name]
        ours = map_before(packed.steps[:index], packed.parameters[:index], step, inputs[rows])
        bound = room(ours, scale, shift)
        same = np.abs(scale.astype(np.float64))[:, None, None] * np.abs(ours.astype(np.float64) - x) <= bound
        differs = signs(ours, scale, shift) != plus
        yield BlockSigns(step.name, shift, same, differs, on_threshold(ours, scale, shift), bound)


def before_signs(
    network: Network, inputs: Floats, rows: NDArray[np.int64]
) -> dict[str, tuple[Floats, NDArray[np.bool_]]]:
    """Name of a block → its input in PyTorch `[R, C, H, W]`, and where its sign is +1. `rows` are ascending.

    Each forward pass has as many images as in `torch_logits`, since PyTorch's rounding depends on their number.
    """
    seen: dict[str, list[tuple[Floats, NDArray[np.bool_]]]] = {}
    blocks = {name: module for name, module in network.named_modules() if isinstance(module, BinaryBlock)}
    names: dict[nn.Module, str] = {block.norm_in: name for name, block in blocks.items()}

    def look(norm: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        seen.setdefault(names[norm], []).append((given[0][here].numpy(), (out[here] >= 0).numpy()))

    hooks = [norm.register_forward_hook(look) for norm in names]
    try:
        for start in range(0, len(inputs), TOGETHER):
            here = rows[(rows >= start) & (rows < start + TOGETHER)] - start
            if len(here):
                torch_logits(network, inputs[start : start + TOGETHER])
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: (np.concatenate([x for x, _ in parts]), np.concatenate([plus for _, plus in parts]))
        for name, parts in seen.items()
    }


def map_before(steps: Sequence[Step], parameters: Sequence[Parameters], block: Block, inputs: Floats) -> Floats:
    """The input of a block `[N, C, H, W]`, computed by the fast kernels; `steps` are those before it."""
    # Doubled and halved, which is exact: an identity or a concatenation makes no map that could be the last.
    twice = Sum("twice", block.source, block.source, block.shape, block.shape)
    made = Machine([*steps, twice], [*parameters, None], threads=1)(inputs)
    return made.reshape(len(inputs), *block.shape) / np.float32(2)
