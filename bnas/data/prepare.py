"""From labelled images to prepared splits on disk, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas.data.file_images import BadFilesError, FileImages, Problem, save_index
from bnas.data.image_array import DataError, Selected, chunks
from bnas.data.image_folder import leaks, without_copies
from bnas.data.labelled_images import Images, ProblemsError
from bnas.data.npy import ContentHash, save_array, saved_array
from bnas.data.split_rows import SPLITS, Cut
from bnas.storage.files import atomic_write

SAMPLE = 4096
"""Images from which the statistics of files that are never copied come."""


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
            raise DataError(f"data: channel {spread.index(0)}: expected images that differ, found one colour")
        mean = tuple(round(value / (255 * self._count), 6) for value in self._total)
        return mean, tuple(round(math.sqrt(value) / (255 * self._count), 6) for value in spread)


@dataclass(frozen=True)
class Prepared:
    """What was written: images in each split, statistics of the training images, and a hash of all."""

    counts: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hash: str
    skipped: tuple[Problem, ...]
    """Files that were left out."""


def prepare(found: Images, cut: Cut, folder: Path, *, skip: bool) -> Prepared:
    """Split the images and write `images.npy`, `labels.npy` and `sha256` of each split into a folder.

    Raises ProblemsError with everything that is wrong with files; with `skip`, files that are broken, and those of
    training that are equal to one of the test split, are left out instead.
    """
    root = found.images.root if isinstance(found.images, FileImages) else Path()
    skipped: list[Problem] = []
    if skip:
        skipped += [problem for problem in found.problems if problem.skippable]
        found, copies = without_copies(found)
        skipped += copies
    problems = [problem for problem in found.problems if not (skip and problem.skippable)]
    while True:
        try:
            rows = cut.rows(found)
        except DataError as error:
            if not problems and not skipped:
                raise
            raise ProblemsError(root, [Problem("", str(error), False), *problems, *skipped]) from None
        if skip and problems:
            raise ProblemsError(root, problems)
        wrong = [*problems, *leaks(found, rows)]
        try:
            written = _write(found, rows, folder)
        except BadFilesError as error:
            wrong += error.problems
        else:
            if not wrong:
                return Prepared({name: len(rows[name]) for name in SPLITS}, *written, tuple(sorted(skipped)))
        if not skip:
            raise ProblemsError(root, sorted(wrong))
        skipped += wrong
        found = found.without(wrong)


def _write(
    found: Images, rows: dict[str, NDArray[np.int64]], folder: Path
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean, deviation and hash; raises BadFilesError with all files that cannot be read."""
    total, statistics = ContentHash(), ChannelStatistics(found.images.shape[3])
    bad: list[Problem] = []
    for name in SPLITS:
        images, labels = Selected(found.images, rows[name]), found.labels[rows[name]]
        try:
            if found.streamed:
                _save_index(folder / name, found, rows[name], total)
                if name == "train":
                    _look_at_some(images, statistics)
                continue
            save_split(folder / name, images, labels, total, statistics.add if name == "train" else _ignore)
        except BadFilesError as error:
            bad += error.problems
    if bad:
        raise BadFilesError(folder, bad)
    return *statistics.result(), total.text()


def _save_index(folder: Path, found: Images, rows: NDArray[np.int64], total: ContentHash) -> None:
    """Write the names of a split's files instead of their pixels."""
    assert isinstance(found.images, FileImages)
    assert found.digests is not None
    folder.mkdir(exist_ok=True)
    content = np.frombuffer(save_index(folder, found.images, rows, found.digests), np.uint8)
    own, labels = ContentHash(), found.labels[rows]
    for digest in (own, total):
        digest.array(content)
        digest.array(labels)
    save_array(folder / "labels.npy", labels)
    atomic_write(folder / "sha256", own.text() + "\n")


def _look_at_some(images: Selected, statistics: ChannelStatistics) -> None:
    """Statistics of at most `SAMPLE` training images, drawn evenly [ours]: nobody waits for a million."""
    rows = np.unique(np.linspace(0, len(images) - 1, SAMPLE).round().astype(np.int64))
    some, bad = Selected(images, rows), list[Problem]()
    for chunk in chunks(some):
        try:
            statistics.add(some[chunk])
        except BadFilesError as error:
            bad += error.problems
    if bad:
        raise BadFilesError(Path(), bad)


def _ignore(rows: NDArray[np.uint8]) -> None:
    pass


def save_split(
    folder: Path,
    images: Selected,
    labels: NDArray[np.int64],
    total: ContentHash,
    each: Callable[[NDArray[np.uint8]], None] = _ignore,
) -> None:
    """Write a split and, for `Split.verify`, its hash; `total` goes on over it, and `each` sees the rows as they pass.

    Raises BadFilesError with all files of the split that cannot be read.
    """
    folder.mkdir(exist_ok=True)
    own, bad = ContentHash(), list[Problem]()
    for digest in (own, total):
        digest.begin(images.dtype, images.shape)
    with saved_array(folder / "images.npy", images.dtype, images.shape) as write:
        for chunk in chunks(images):
            try:
                rows = images[chunk]
            except BadFilesError as error:
                bad += error.problems
                continue
            write(rows)
            each(rows)
            own.rows(rows)
            total.rows(rows)
    if bad:
        raise BadFilesError(folder, bad)
    for digest in (own, total):
        digest.array(labels)
    save_array(folder / "labels.npy", labels)
    atomic_write(folder / "sha256", own.text() + "\n")
