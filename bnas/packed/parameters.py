"""The numbers of a packed network: cut out of the two arrays of a file, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnas.space.layout import Block, Classifier, Stem, Step, payload

Floats = NDArray[np.float32]
Bits = NDArray[np.uint8]


class StemParameters(NamedTuple):
    """Weights `[out, in, 3, 3]` and biases `[out]`."""

    weight: Floats
    bias: Floats


class BlockParameters(NamedTuple):
    """The sign sees `scale_in · x + shift_in` `[in]`; `weight` is ±1, int8 `[out, in / groups, k, k]`.

    The sum of products is multiplied by `scale_out`, `shift_out` is added, and after the shortcut negative values are
    multiplied by `slope`, each `[out]`.
    """

    scale_in: Floats
    shift_in: Floats
    weight: NDArray[np.int8]
    scale_out: Floats
    shift_out: Floats
    slope: Floats


class ClassifierParameters(NamedTuple):
    """Weights `[classes, channels]` and biases `[classes]`."""

    weight: Floats
    bias: Floats


Parameters = StemParameters | BlockParameters | ClassifierParameters | None


def split(steps: Sequence[Step], bits: Bits, floats: Floats) -> list[Parameters]:
    """The parameters of every step (None where it has none); `bits` are packed, the first in the highest bit.

    Raises ValueError if the arrays do not hold just as much as the steps need.
    """
    need_bits, need_floats = payload(steps)
    if bits.dtype != np.uint8 or bits.shape != (-(-need_bits // 8),):
        raise ValueError(f"bits: expected uint8 [{-(-need_bits // 8)}], found {bits.dtype} {list(bits.shape)}")
    if floats.dtype != np.float32 or floats.shape != (need_floats,):
        raise ValueError(f"floats: expected float32 [{need_floats}], found {floats.dtype} {list(floats.shape)}")
    signs = np.unpackbits(bits, count=need_bits).astype(np.int8) * np.int8(2) - np.int8(1)
    parameters: list[Parameters] = []
    bit = value = 0
    for step in steps:
        parameters.append(_parameters(step, signs[bit : bit + step.bits], floats[value : value + step.floats]))
        bit, value = bit + step.bits, value + step.floats
    return parameters


def _parameters(step: Step, signs: NDArray[np.int8], floats: Floats) -> Parameters:
    match step:
        case Stem():
            shape = (step.out.channels, step.shape.channels, step.kernel, step.kernel)
            weight, bias = np.split(floats, [step.floats - step.out.channels])
            return StemParameters(weight.reshape(shape), bias)
        case Block():
            have, made = step.shape.channels, step.out.channels
            cuts = np.cumsum([have, have, made, made])
            scale_in, shift_in, scale_out, shift_out, slope = np.split(floats, cuts)
            bits = signs.reshape(made, have // step.groups, step.kernel, step.kernel)
            return BlockParameters(scale_in, shift_in, bits, scale_out, shift_out, slope)
        case Classifier():
            weight, bias = np.split(floats, [step.floats - step.out.channels])
            return ClassifierParameters(weight.reshape(step.out.channels, step.shape.channels), bias)
        case _:
            return None


def joined(parameters: Sequence[Parameters]) -> tuple[Bits, Floats]:
    """The inverse of `split`: the two arrays of a file."""
    signs: list[NDArray[np.bool_]] = []
    floats: list[Floats] = []
    for values in parameters:
        for value in values or ():
            if value.dtype == np.int8:
                signs.append(value.ravel() > 0)
            else:
                floats.append(value.astype(np.float32, copy=False).ravel())
    return np.packbits(np.concatenate(signs)), np.concatenate(floats)
