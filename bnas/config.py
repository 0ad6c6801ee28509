"""What a network is beside its genotype: plain data, no torch, so that packed models can carry it."""

from __future__ import annotations

from dataclasses import dataclass

SIGN_NAMES = ("approx", "ste")
"""Gradients of the activations' sign; `bnas.binarize.SIGNS` holds the functions."""


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is beside its genotype. Raises ValueError naming the field that is out of range.

    `channels` is the width of the first cells; it doubles at both reductions, at 1/3 and 2/3 of the `cells`.
    `stem_stride` 2 halves the image first. `sign` names the gradient of the activations' sign (`approx`, `ste`).
    """

    in_channels: int
    classes: int
    channels: int
    cells: int
    stem_stride: int = 1
    sign: str = "approx"

    def __post_init__(self) -> None:
        limits = {"in_channels": 1, "classes": 2, "channels": 1, "cells": 3}
        for field, least in limits.items():
            if getattr(self, field) < least:
                raise ValueError(f"NetworkConfig.{field}: expected at least {least}, found {getattr(self, field)}")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"NetworkConfig.stem_stride: expected 1 or 2, found {self.stem_stride}")
        if self.sign not in SIGN_NAMES:
            raise ValueError(f"NetworkConfig.sign: expected one of {', '.join(SIGN_NAMES)}, found {self.sign!r}")

    @property
    def reductions(self) -> tuple[int, int]:
        """Indices of the two cells that halve the resolution and double the width."""
        return self.cells // 3, 2 * self.cells // 3
