"""Files with the same bytes: what is tested on must not be learnt from."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bnas.data.file_images import FileImages
from bnas.data.labelled_images import LabelledImages
from bnas.data.problems import FileProblem

Rows = NDArray[np.int64]


def in_two_classes(images: LabelledImages) -> list[FileProblem]:
    """Files that are, byte for byte, files of another class: what they show is not known."""
    files, labels = images.images, images.labels
    if not isinstance(files, FileImages):
        return []
    digests, counts = np.unique(files.digests, return_counts=True)
    repeated = np.flatnonzero(np.isin(files.digests, digests[counts > 1])).tolist()
    first: dict[int, dict[int, int]] = {}  # digest → class → row
    for row in repeated:
        first.setdefault(int(files.digests[row]), {}).setdefault(int(labels[row]), row)
    problems = []
    for row in repeated:
        others = (other for label, other in first[int(files.digests[row])].items() if label != labels[row])
        if twin := next((files.paths[other] for other in others if _equal(files, row, other)), None):
            problems.append(FileProblem(files.paths[row], f"expected a picture in one class, found it in two ({twin})"))
    return problems


def leaks(images: LabelledImages, rows: Mapping[str, Rows]) -> list[FileProblem]:
    """Files to learn from that are, byte for byte, files of the test split; `rows` are those of each split."""
    learnt = np.sort(np.concatenate([part for name, part in rows.items() if name != "test"]))
    return _copies(images, learnt, rows["test"])


def possible_leaks(images: LabelledImages) -> list[FileProblem]:
    """Files that could be learnt from while an equal one is tested on.

    Of equal files the one in the data set's own test split may stay, or the first, where there is no such split.
    """
    everyone = np.arange(len(images.labels))
    if not images.own_test:
        return _copies(images, everyone, everyone)
    return _copies(images, everyone[: images.learnt], everyone[images.learnt :])


def _copies(images: LabelledImages, of: Rows, among: Rows) -> list[FileProblem]:
    """Each file of `of` with the bytes of an earlier one of `among` and its class; images in memory have none."""
    files, labels = images.images, images.labels
    if not isinstance(files, FileImages):
        return []
    digests = files.digests
    shared = among[np.isin(digests[among], digests[of])]
    first = {int(digests[row]): int(row) for row in shared[::-1]}
    copies = []
    for row in of[np.isin(digests[of], digests[among])].tolist():
        other = first[int(digests[row])]
        if row != other and labels[row] == labels[other] and _equal(files, row, other):
            text = f"expected no image of the test split, found a copy of one ({files.paths[other]})"
            copies.append(FileProblem(files.paths[row], text))
    return copies


def _equal(files: FileImages, a: int, b: int) -> bool:
    return filecmp.cmp(files.root / files.paths[a], files.root / files.paths[b], shallow=False)
