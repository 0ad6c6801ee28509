"""From labelled images to prepared splits on disk, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas.data.copies import in_two_classes, leaks, possible_leaks
from bnas.data.file_images import FileImages, save_index
from bnas.data.image_array import ImageArray, Selected, chunks
from bnas.data.labelled_images import LabelledImages
from bnas.data.npy import ContentHash, save_array, saved_array
from bnas.data.problems import DataError, FileProblem, ProblemsError
from bnas.data.split_rows import SPLITS, Cut
from bnas.storage.files import atomic_write

SAMPLE = 4096
"""Training images from which the statistics of files that are never copied come, drawn evenly [ours]."""


@dataclass(frozen=True)
class Prepared:
    """What was written: images in each split, statistics of the training images, and a hash of all."""

    counts: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    skipped: tuple[FileProblem, ...]
    """Files that were left out."""


def prepare(images: LabelledImages, cut: Cut, folder: Path, *, skip: bool) -> Prepared:
    """Split the images and write each split into a folder of its own: `labels.npy`, `sha256`, and the images.

    These are `images.npy` or, of images that are streamed, an index. Raises ProblemsError with everything that is wrong
    with files; with `skip`, files that are broken, and those of training that are equal to one of the test split, are
    left out instead.
    """
    root = images.images.root if isinstance(images.images, FileImages) else Path()
    problems, left_out = [*images.problems, *in_two_classes(images)], list[FileProblem]()
    if skip:
        left_out = [problem for problem in problems if problem.skippable]
        problems = [problem for problem in problems if not problem.skippable]
        images = _without(images, left_out)
        copied = possible_leaks(images)
        left_out += copied
        images = _without(images, copied)
    while True:
        try:
            rows = cut.rows(images)
        except DataError as error:
            if not problems and not left_out:
                raise
            raise ProblemsError(root, [FileProblem("", str(error), False), *problems, *left_out]) from None
        if skip and problems:
            raise ProblemsError(root, problems)
        total, statistics = ContentHash(), ChannelStatistics(images.images.shape[3])
        wrong = leaks(images, rows)
        for name in SPLITS:
            part = Part(images, rows[name], total, statistics if name == "train" else None)
            wrong += part.write(folder / name)
        if not problems and not wrong:
            counts = {name: len(rows[name]) for name in SPLITS}
            return Prepared(counts, *statistics.result(), total.text(), tuple(sorted(left_out)))
        if not skip:
            raise ProblemsError(root, sorted([*problems, *wrong]))
        left_out += wrong
        images = _without(images, wrong)


def _without(images: LabelledImages, problems: Sequence[FileProblem]) -> LabelledImages:
    return images.without({problem.path for problem in problems}) if problems else images


class ChannelStatistics:
    """Mean and standard deviation per channel of images `[N, H, W, C]`, as shares of 255, of which it sees a few rows
    at a time."""

    def __init__(self, channels: int) -> None:
        self._count, self._total, self._squares = 0, [0] * channels, [0] * channels

    def add(self, images: NDArray[np.uint8]) -> None:
        """More images."""
        self._count += images[..., 0].size
        for channel in range(len(self._total)):
            values = images[..., channel].astype(np.int64)
            self._total[channel] += int(values.sum())
            self._squares[channel] += int((values**2).sum())

    def result(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(means, deviations), rounded to six digits; raises DataError for a channel of one colour."""
        # In whole numbers, so that a channel of one colour is told from one of nearly one colour.
        pairs = zip(self._squares, self._total, strict=True)
        spread = [self._count * square - value**2 for square, value in pairs]
        if 0 in spread:
            raise DataError(f"channel {spread.index(0)}: expected images that differ, found one colour")
        mean = tuple(round(value / (255 * self._count), 6) for value in self._total)
        return mean, tuple(round(math.sqrt(value) / (255 * self._count), 6) for value in spread)


@dataclass(frozen=True)
class Part:
    """The rows of one split on their way to disk. `total` goes on over them; `statistics` sees those of training."""

    images: LabelledImages
    rows: NDArray[np.int64]
    total: ContentHash
    statistics: ChannelStatistics | None

    def write(self, folder: Path) -> list[FileProblem]:
        """Write images, labels and, for `Split.verify`, their hash; returns what is wrong with files."""
        folder.mkdir(exist_ok=True)
        own, labels = ContentHash(), self.images.labels[self.rows]
        write = self._write_index if self.images.streamed else self._write_pixels
        problems = write(folder, (own, self.total))
        if not problems:
            for digest in (own, self.total):
                digest.array(labels)
            save_array(folder / "labels.npy", labels)
            atomic_write(folder / "sha256", own.text() + "\n")
        return problems

    def _write_pixels(self, folder: Path, digests: tuple[ContentHash, ...]) -> list[FileProblem]:
        images, problems = Selected(self.images.images, self.rows), list[FileProblem]()
        for digest in digests:
            digest.begin(images.dtype, images.shape)
        with saved_array(folder / "images.npy", images.dtype, images.shape) as write:
            for pixels in _readable(images, problems):
                write(pixels)
                for digest in digests:
                    digest.rows(pixels)
                if self.statistics:
                    self.statistics.add(pixels)
        return problems

    def _write_index(self, folder: Path, digests: tuple[ContentHash, ...]) -> list[FileProblem]:
        assert isinstance(self.images.images, FileImages)
        files, problems = self.images.images.chosen(self.rows), list[FileProblem]()
        try:
            content = np.frombuffer(save_index(folder, files), np.uint8)
        except ProblemsError as error:
            return list(error.problems)
        for digest in digests:
            digest.array(content)
        if self.statistics:
            some = np.unique(np.linspace(0, len(files) - 1, SAMPLE).round().astype(np.int64))
            for pixels in _readable(Selected(files, some), problems):
                self.statistics.add(pixels)
        return problems


def _readable(images: ImageArray, problems: list[FileProblem]) -> Iterator[NDArray[np.uint8]]:
    """Images `[N, H, W, C]`, a few at a time; files that cannot be read are noted among the problems instead."""
    for chunk in chunks(images):
        try:
            pixels = images[chunk]
        except ProblemsError as error:
            problems += error.problems
        else:
            yield pixels
