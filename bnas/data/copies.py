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
    """Each file of `of` that has the bytes of an earlier one of `among`; images in memory have none."""
    files = images.images
    if not isinstance(files, FileImages):
        return []
    digests = files.digests
    shared = among[np.isin(digests[among], digests[of])]
    first = {int(digests[row]): int(row) for row in shared[::-1]}
    copies = []
    for row in of[np.isin(digests[of], digests[among])].tolist():
        path, other = files.paths[row], files.paths[first[int(digests[row])]]
        if path != other and filecmp.cmp(files.root / path, files.root / other, shallow=False):
            copies.append(FileProblem(path, f"expected no image of the test split, found the bytes of {other}"))
    return copies
