"""Predictions from a packed network: numpy and numba only."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from bnas.data.picture import normalise
from bnas.packed.card import ModelCard
from bnas.packed.content import PackedContent
from bnas.packed.file import read
from bnas.packed.machine import Machine, available_cores
from bnas.packed.parameters import Floats, split


class PackedNetwork:
    """A network read from a file. `network(images)` returns logits `[N, classes]`, float32.

    Images are `[N, C, H, W]` of the size that `card.image` names: uint8 pixels, which are normalised as in testing, or
    float32 that has been normalised already. Raises ValueError for another shape or type, and for nan or infinity.
    """

    def __init__(self, content: PackedContent, threads: int | None = None) -> None:
        self.card: ModelCard = content.card
        self.content = content
        self.steps = self.card.steps()
        self.parameters = split(self.steps, content.bits, content.floats)
        self._machine = Machine(self.steps, self.parameters, threads or available_cores())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.card.classes

    def __call__(self, images: NDArray[np.uint8] | Floats) -> Floats:
        """Logits `[N, classes]`."""
        return self._machine(self.inputs(images))

    def inputs(self, images: NDArray[np.uint8] | Floats) -> Floats:
        """Images as the first layer reads them: normalised, float32 `[N, C, H, W]`."""
        shape = self.card.image.shape
        if images.ndim != 4 or images.shape[1:] != shape or images.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"images: expected uint8 or float32 [N, {', '.join(map(str, shape))}], "
                f"found {images.dtype} {list(images.shape)}"
            )
        if images.dtype == np.uint8:
            pixels = images.astype(np.uint8, copy=False).transpose(0, 2, 3, 1)
            return normalise(pixels, self.card.mean, self.card.std)
        if not np.isfinite(images).all():
            raise ValueError("images: expected finite values, found nan or infinity")
        # Writable, too: for arrays that are not, numba would compile everything again.
        return np.require(images, np.float32, ("C", "W"))

    def probabilities(self, images: NDArray[np.uint8] | Floats) -> NDArray[np.float64]:
        """Softmax of the logits, `[N, classes]`."""
        logits = self(images).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return shares


def load(path: str | os.PathLike[str], threads: int | None = None) -> PackedNetwork:
    """The network in a file, predicting on so many threads (None: all cores). Raises PackedError for a bad file."""
    return PackedNetwork(read(path), threads)
