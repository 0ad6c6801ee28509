"""A network's configuration, and with its genotype its architecture: plain data, no torch, for packed models, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bnas.space.genotype import Genotype
from bnas.space.shipped import SHIPPED

SIGN_NAMES = ("approx", "ste")
"""Gradients of the activations' sign; `bnas.nn.binarize.SIGNS` holds the functions."""

STEM_STRIDES = (1, 2, 4, 8)
"""How far the stem may reduce an image."""


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is beside its genotype. Raises ValueError naming the field that is out of range.

    `channels` is the width of the first cells; it doubles at both reductions, at 1/3 and 2/3 of the `cells`.
    `stem_stride` 2 halves the image first, 4 and 8 twice and three times (see `stem`). `sign` names the gradient of the
    activations' sign (`approx`, `ste`), `shipped` how the file stores what is not binary (`bnas.space.shipped`).
    """

    in_channels: int
    classes: int
    channels: int
    cells: int
    stem_stride: int = 1
    sign: str = "approx"
    shipped: str = "float32"

    def __post_init__(self) -> None:
        limits = {"in_channels": 1, "classes": 2, "channels": 1, "cells": 3}
        for field, least in limits.items():
            if getattr(self, field) < least:
                raise ValueError(f"NetworkConfig.{field}: expected at least {least}, found {getattr(self, field)}")
        if self.stem_stride not in STEM_STRIDES:
            expected = ", ".join(map(str, STEM_STRIDES[:-1])) + f" or {STEM_STRIDES[-1]}"
            raise ValueError(f"NetworkConfig.stem_stride: expected {expected}, found {self.stem_stride}")
        if self.sign not in SIGN_NAMES:
            raise ValueError(f"NetworkConfig.sign: expected one of {', '.join(SIGN_NAMES)}, found {self.sign!r}")
        if self.shipped not in SHIPPED:
            raise ValueError(f"NetworkConfig.shipped: expected one of {', '.join(SHIPPED)}, found {self.shipped!r}")

    @property
    def reductions(self) -> tuple[int, int]:
        """Indices of the two cells that halve the resolution and double the width."""
        return self.cells // 3, 2 * self.cells // 3

    @property
    def stem(self) -> tuple[tuple[int, int], ...]:
        """Channels and stride of the stem's 3×3 convolutions, each with a BatchNorm, ReLU between them.

        One for strides 1 and 2. Two and three convolutions of stride 2 make strides 4 and 8, the first with half the
        channels, as in the stem of DARTS for ImageNet, except that [ours] both first cells read its end.
        """
        if self.stem_stride <= 2:
            return ((self.channels, self.stem_stride),)
        more = ((self.channels, 2),) * (2 if self.stem_stride == 8 else 1)
        return ((max(1, self.channels // 2), 2), *more)


class Architecture(NamedTuple):
    """All that determines what a network computes, but its weights: `Network(*architecture)` builds it."""

    config: NetworkConfig
    genotype: Genotype
