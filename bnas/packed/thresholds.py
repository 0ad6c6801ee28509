"""A block's first BatchNorm and sign as a comparison of each value with a threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bnas.packed.parameters import BlockParameters, Floats

ROUNDING = 2e-6
"""The largest difference that rounding makes of a value before a sign, relative to its terms (8.3e-7 was measured)."""


def thresholded(values: BlockParameters, groups: int) -> tuple[Floats, NDArray[np.bool_]]:
    """The thresholds of the inputs `[in]`, and the weights as bits `[out, in / groups, k, k]`.

    Where an input is below its threshold for +1, the weights that see it are turned over instead.
    """
    found, flip = thresholds(values.scale_in, values.shift_in)
    made, depth, *_ = values.weight.shape
    by_output = flip.reshape(groups, 1, depth).repeat(made // groups, 1).reshape(made, depth)
    bits: NDArray[np.bool_] = (values.weight > 0) ^ by_output[:, :, None, None]
    return found, bits


def thresholds(scale: Floats, shift: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """For each channel a threshold t and whether to flip: `scale · x + shift ≥ 0` exactly where `(x ≥ t) ≠ flip`.

    t is the smallest float32 on its side: −shift / scale, moved by units in the last place until it is right.
    """
    wide_scale, wide_shift = scale.astype(np.float64), shift.astype(np.float64)
    flip = scale < 0
    # Where scale > 0: x ≥ t ⇔ holds(x). Where scale < 0: x ≥ t ⇔ not holds(x).
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        t = (-wide_shift / wide_scale).astype(np.float32)
    flat = scale == 0
    t[flat] = -np.inf
    flip = np.where(flat, shift < 0, flip)

    def reached(x: Floats) -> NDArray[np.bool_]:
        with np.errstate(invalid="ignore", over="ignore"):
            holds: NDArray[np.bool_] = (x.astype(np.float64) * wide_scale + wide_shift >= 0) != flip
        return holds

    low, high = np.float32(-np.inf), np.float32(np.inf)
    with np.errstate(over="ignore", under="ignore"):
        for _ in range(4):
            t = np.where(~flat & np.isfinite(t) & reached(t), np.nextafter(t, low), t)
        for _ in range(8):
            t = np.where(~flat & np.isfinite(t) & ~reached(t), np.nextafter(t, high), t)
    return t, flip


def room(maps: Floats, scale: Floats, shift: Floats) -> NDArray[np.float64]:
    """The largest difference that another order of sums makes of `scale · x + shift`, for all x of maps `[N, C, H, W]`.

    A value is itself a sum, in which rounding is relative to the largest terms: the map's own size.
    """
    wide, offset = (np.abs(each.astype(np.float64))[:, None, None] for each in (scale, shift))
    most = np.abs(maps).max(axis=(1, 2, 3), keepdims=True).astype(np.float64)
    within: NDArray[np.float64] = ROUNDING * (wide * (np.abs(maps) + most) + offset)
    return within


def on_threshold(maps: Floats, scale: Floats, shift: Floats) -> NDArray[np.bool_]:
    """Where `scale · x + shift` is zero but for rounding, `[N, C, H, W]`: its sign is then the order's of the sums."""
    exact = maps * scale.astype(np.float64)[:, None, None] + shift[:, None, None]
    on: NDArray[np.bool_] = np.abs(exact) <= room(maps, scale, shift)
    return on
