"""A block's first BatchNorm and sign as a comparison of each value with a threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bnas.packed.parameters import BlockParameters, Floats


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
