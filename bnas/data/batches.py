"""Prepared splits, and the mini-batches that training and scoring see.

Images are uint8 `[N, H, W, C]` on disk and memory-mapped, or stay in files that an index names; a mini-batch becomes
float `[N, C, H, W]` (channels last in memory) only when it is used. A data set is a value: nothing here knows which one
it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.data.augmentation import EVERYTHING
from bnas.data.augmentation import Augmentation as Augmentation
from bnas.data.problems import DataError as DataError
from bnas.data.reader_processes import file_parts, streamed
from bnas.data.split import Normalise, Split
from bnas.data.split_rows import balancing


@dataclass(frozen=True)
class TrainingFeed:
    """Shuffled, augmented mini-batches of equal size; a remainder smaller than a mini-batch waits for another epoch.

    Raises DataError if the split holds fewer images than one mini-batch.
    """

    split: Split
    batch_size: int
    normalise: Normalise
    augmentation: Augmentation

    def __post_init__(self) -> None:
        if self.batch_size > len(self.split):
            raise DataError(
                f"batch_size: expected at most the {len(self.split)} images to train on, found {self.batch_size}"
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

    def load(
        self, rows: NDArray[np.int64], generator: torch.Generator, part: slice = EVERYTHING
    ) -> tuple[Tensor, Tensor]:
        """This part of these rows, augmented: (inputs `[B, C, H, W]`, labels `[B]`).

        Changes are drawn for all rows, so that they do not depend on the part; only the part is read.
        """
        here, total = rows[part], len(rows)
        images = self.augmentation(torch.from_numpy(self.split.images[here]), generator, part, total)
        inputs = self.augmentation.cut_out(self.normalise(images), generator, part, total)
        return inputs, torch.from_numpy(self.split.labels[here]).to(self.normalise.device)

    def epoch(self, generator: torch.Generator, part: slice = EVERYTHING) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs `[B, C, H, W]`, labels `[B]`) of one pass over the split; only this part of every mini-batch.

        Files are read ahead by other processes; an image's draws then follow from its place in the epoch and one draw
        of the generator, not from who reads it.
        """
        parts = file_parts(self.split.images)
        if not parts:
            for rows in self.rows(generator):
                yield self.load(rows, generator, part)
            return
        batches = list(self.rows(generator))
        seed = int(torch.randint(0, 2**62, (1,), generator=generator))
        for rows, images in zip(batches, streamed(parts, self.augmentation, batches, seed, part), strict=True):
            inputs = self.augmentation.cut_out(self.normalise(images), generator, part, len(rows))
            yield inputs, torch.from_numpy(self.split.labels[rows[part]]).to(self.normalise.device)


KEPT_BYTES = 2**28
"""Of mini-batches read from files, as many of the first as fit: every individual is scored on them."""


class MiniBatches(Sequence[tuple[Tensor, Tensor]]):
    """A split cut once, after a seeded shuffle, into ⌈N / batch_size⌉ mini-batches of nearly equal sizes.

    None holds a single image, which has no statistics: fewer are cut where that would be.
    Scoring on mini-batches' own statistics is sound only if each mixes the classes as the split does; hence the
    shuffle, also for a split that lies sorted by class. With `balanced` images weigh the more
    the rarer their class is in the split, 1 otherwise. Item i is (inputs `[B, C, H, W]`, labels `[B]`). Raises
    DataError if the split holds fewer images than one mini-batch.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        normalise: Normalise,
        seed: int,
        balanced: bool = False,
    ) -> None:
        if batch_size > len(split):
            raise DataError(f"batch_size: expected at most the {len(split)} images there are, found {batch_size}")
        order = np.random.default_rng(seed).permutation(len(split))
        self.split, self.normalise = split, normalise
        weights = balancing(split.labels) if balanced else np.ones(len(split))
        count = max(1, min(-(-len(split) // batch_size), len(split) // 2))
        self._rows = [np.sort(rows) for rows in np.array_split(order, count)]
        self._images = [0, *itertools.accumulate(len(rows) for rows in self._rows)]
        self._weights = [torch.from_numpy(weights[rows]).to(normalise.device) for rows in self._rows]
        sums = [float(each.sum()) for each in self._weights]
        self._weight = [math.fsum(sums[:count]) for count in range(len(sums) + 1)]
        self._kept: dict[int, NDArray[np.uint8]] = {}
        fit = KEPT_BYTES // (int(np.prod(split.images.shape[1:])) * len(self._rows[0]))
        self._keep = range(fit if file_parts(split.images) else 0)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # no slices
        rows = self._rows[index]
        images = self._kept.get(index)
        if images is None:
            images = self.split.images[rows]
            if index in self._keep:
                self._kept[index] = images
        labels = torch.from_numpy(self.split.labels[rows]).to(self.normalise.device)
        return self.normalise(torch.from_numpy(images)), labels

    def images(self, count: int) -> int:
        """Images in the first `count` mini-batches."""
        return self._images[min(count, len(self))]

    def weights(self, index: int) -> Tensor:
        """What a mistake in each image of mini-batch `index` weighs: float64 `[B]`."""
        return self._weights[index]

    def weight(self, count: int) -> float:
        """What all images in the first `count` mini-batches weigh."""
        return self._weight[min(count, len(self))]
