"""Prepared splits, and the mini-batches that training and scoring see.

Images are uint8 `[N, H, W, C]` on disk and memory-mapped; a mini-batch becomes float `[N, C, H, W]` (channels last in
memory) only when it is used. A data set is a value: nothing here knows which one it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.arrays import content_hash, open_array
from bnas.files import read_text
from bnas.views import DataError as DataError  # also for those who import it from here
from bnas.views import ImageArray, Joined


@dataclass(frozen=True)
class Split:
    """One part of a prepared data set: `images` uint8 `[N, H, W, C]` and `labels` int64 `[N]`."""

    images: ImageArray
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, folder: Path) -> Split:
        """The split that `prepare` wrote to a folder, its images memory-mapped."""
        try:
            images, labels = open_array(folder / "images.npy"), open_array(folder / "labels.npy")
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: expected images.npy and labels.npy, found {error}") from None
        fits = images.dtype == np.uint8 and images.ndim == 4 and np.issubdtype(labels.dtype, np.integer)
        if not fits or labels.shape != images.shape[:1]:
            raise DataError(
                f"{folder}: expected uint8 images [N, H, W, C] and N whole labels, "
                f"found {images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}"
            )
        return cls(images, labels.astype(np.int64))

    def verify(self, folder: Path) -> None:
        """Raises DataError unless the split's content is what `save` wrote to the folder."""
        written = read_text(folder / "sha256")
        if written != content_hash([self.images, self.labels]) + "\n":
            raise DataError(f"{folder}: expected the arrays that were written, found other content than sha256 says")

    def joined(self, other: Split) -> Split:
        """Both splits as one; the images stay where they are."""
        return Split(Joined(self.images, other.images), np.concatenate([self.labels, other.labels]))


@dataclass(frozen=True)
class Normalise:
    """uint8 images → network input: `(x / 255 − mean) / std` per channel. The same for training and testing."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 `[N, H, W, C]` → float32 `[N, C, H, W]`, channels last in memory, on the device."""
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=self.device)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=self.device)
        return (images.to(self.device).float() * scale + shift).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Augmentation:
    """Changes that leave the class of a training image alone.

    `shift`: moved by up to so many pixels along both axes, uniformly, the border filled with zeros. `flip`: mirrored
    left to right with probability 1/2. `cutout`: a square of so many pixels a side around a uniformly drawn pixel, cut
    off at the border, is set to the mean colour (DeVries & Taylor, 2017, arXiv:1708.04552).
    """

    shift: int
    flip: bool
    cutout: int = 0

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 `[N, H, W, C]` → the same shape, each image changed by a draw of its own."""
        n, h, w, c = images.shape
        if self.shift:
            s = self.shift
            padded = images.new_zeros(n, h + 2 * s, w + 2 * s, c)
            padded[:, s : s + h, s : s + w] = images
            dy, dx = torch.randint(0, 2 * s + 1, (2, n, 1), generator=generator)
            rows, columns = torch.arange(h) + dy, torch.arange(w) + dx
            images = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        if self.flip:
            mirrored = torch.rand(n, generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        return images

    def cut_out(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Normalised inputs `[N, C, H, W]`, of which 0 is the mean colour, with a square of zeros in each, in place."""
        if not self.cutout:
            return inputs
        n, _, h, w = inputs.shape
        first = [torch.randint(0, side, (n, 1), generator=generator) - self.cutout // 2 for side in (h, w)]
        rows, columns = (
            (torch.arange(side) >= start) & (torch.arange(side) < start + self.cutout)
            for side, start in zip((h, w), first, strict=True)
        )
        hidden = (rows[:, :, None] & columns[:, None, :])[:, None]
        return inputs.masked_fill_(hidden.to(inputs.device), 0.0)


@dataclass(frozen=True)
class TrainingFeed:
    """Shuffled, augmented mini-batches of equal size; a remainder smaller than a mini-batch waits for another epoch.

    Raises DataError if the split holds fewer images than one mini-batch.
    """

    split: Split
    batch_size: int
    normalise: Normalise
    augmentation: Augmentation
    where: str
    """The parameter that set the batch size, for the message."""

    def __post_init__(self) -> None:
        if self.batch_size > len(self.split):
            raise DataError(
                f"{self.where}: expected at most the {len(self.split)} images to train on, found {self.batch_size}"
            )

    @property
    def steps(self) -> int:
        """Mini-batches in one epoch."""
        return len(self.split) // self.batch_size

    def rows(self, generator: torch.Generator) -> Iterator[NDArray[np.int64]]:
        """Sorted rows of each mini-batch of one pass over the split; draws its order once, before the first."""
        order = torch.randperm(len(self.split), generator=generator).numpy()
        for step in range(self.steps):
            yield np.sort(order[step * self.batch_size : (step + 1) * self.batch_size])

    def load(self, rows: NDArray[np.int64], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """These rows, augmented: (inputs `[B, C, H, W]`, labels `[B]`)."""
        images = self.augmentation(torch.from_numpy(self.split.images[rows]), generator)
        inputs = self.augmentation.cut_out(self.normalise(images), generator)
        return inputs, torch.from_numpy(self.split.labels[rows]).to(self.normalise.device)

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs `[B, C, H, W]`, labels `[B]`) of one pass over the split."""
        for rows in self.rows(generator):
            yield self.load(rows, generator)


class MiniBatches(Sequence[tuple[Tensor, Tensor]]):
    """A split cut once, after a seeded shuffle, into ⌈N / batch_size⌉ mini-batches of nearly equal sizes.

    None holds a single image, which has no statistics: fewer are cut where that would be.
    Scoring on mini-batches' own statistics is sound only if each mixes the classes as the split does; hence the
    shuffle, also for a split that lies sorted by class. Item i is (inputs `[B, C, H, W]`, labels `[B]`). Raises
    DataError if the split holds fewer images than one mini-batch.
    """

    def __init__(self, split: Split, batch_size: int, normalise: Normalise, seed: int, where: str) -> None:
        if batch_size > len(split):
            raise DataError(f"{where}: expected at most the {len(split)} images there are, found {batch_size}")
        order = np.random.default_rng(seed).permutation(len(split))
        self.split, self.normalise = split, normalise
        count = max(1, min(-(-len(split) // batch_size), len(split) // 2))
        self._rows = [np.sort(rows) for rows in np.array_split(order, count)]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # no slices
        rows = self._rows[index]
        labels = torch.from_numpy(self.split.labels[rows]).to(self.normalise.device)
        return self.normalise(torch.from_numpy(self.split.images[rows])), labels

    def images(self, count: int) -> int:
        """Images in the first `count` mini-batches."""
        return sum(len(rows) for rows in self._rows[:count])
