"""Labelled images before they are split, and what is asked of those who load them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas.data.file_images import FileImages
from bnas.data.image_array import ImageArray
from bnas.data.problems import DataError, FileProblem


@dataclass(frozen=True)
class Request:
    """What is wanted of a data set.

    It lies in the folder `root`. Files are read by `loader_workers` threads at a time and become `image_size` pixels
    square; 0 leaves them as they are. Of files, no more than `images_per_class` of each class and split, drawn by
    `seed`, are looked into (0 = all).
    """

    root: Path
    image_size: int = 0
    images_per_class: int = 0
    seed: int = 0
    loader_workers: int = 1


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images: `images` uint8 `[N, H, W, C]`, `labels` int64 `[N]` in 0 … len(classes) − 1.

    The last `own_test` of them are the data set's own test split; with none, one is cut. `problems` is what
    is wrong with files, or with the data set as a whole.
    """

    title: str
    classes: tuple[str, ...]
    images: ImageArray
    labels: NDArray[np.int64]
    own_test: int = 0
    problems: tuple[FileProblem, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user should know of how a folder was read, a line each."""
    streamed: bool = False
    """Whether the files are never copied: an index is prepared."""

    def __post_init__(self) -> None:
        shape, count = self.images.shape, len(self.labels)
        if len(shape) != 4 or self.images.dtype != np.uint8 or shape[0] != count:
            raise DataError(
                f"{self.title}: expected uint8 images [N, H, W, C] and N labels, "
                f"found {self.images.dtype} {list(shape)} and {count} labels"
            )
        outside = (self.labels < 0) | (self.labels >= len(self.classes))
        if outside.any():
            raise DataError(
                f"{self.title}: expected labels from 0 to {len(self.classes) - 1}, found {int(self.labels[outside][0])}"
            )

    @property
    def learnt(self) -> int:
        """How many images come before the data set's own test split."""
        return len(self.labels) - self.own_test

    @property
    def resize(self) -> int | None:
        """What the shorter side of its pictures becomes before the middle is cut out; None: as long as that."""
        return self.images.resize if isinstance(self.images, FileImages) else None

    def without(self, paths: Collection[str]) -> LabelledImages:
        """The same without the files at these paths; its images have to be files."""
        assert isinstance(self.images, FileImages)
        keep = np.flatnonzero([path not in paths for path in self.images.paths])
        own_test = int((keep >= self.learnt).sum())
        return replace(self, images=self.images.chosen(keep), labels=self.labels[keep], own_test=own_test)
