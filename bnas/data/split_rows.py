"""Rows of a data set dealt to train, validation and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnas.data.labelled_images import LabelledImages
from bnas.data.problems import DataError

SPLITS = ("train", "validation", "test")

UNEVEN = 1.5
"""Times as many images in the largest class as in the smallest, above which classes are no longer even."""

CLASSES_NAMED = 12
"""Classes whose images are counted one by one; of more, the ends and the median are named."""


@dataclass(frozen=True)
class Cut:
    """How images are split: shares of all (of those that are not the data set's own test split, where it has one).

    No more than `images_per_class` of each class are used, and of a data set's own test split again as many; 0 = all.
    """

    seed: int
    test: float
    validation: float
    images_per_class: int = 0

    def rows(self, images: LabelledImages) -> dict[str, NDArray[np.int64]]:
        """Sorted rows of `train`, `validation` and `test`. Raises DataError for classes that one of them lacks."""
        labels, learnt, classes = images.labels, images.learnt, images.classes
        for part in (labels[:learnt], labels[learnt:]) if images.own_test else (labels,):
            count = np.bincount(part, minlength=len(classes))
            _require_none([f"{classes[label]} (0)" for label in np.flatnonzero(count == 0)])
        fractions = {"validation": self.validation} | ({} if images.own_test else {"test": self.test})
        rows = stratified_split(labels[:learnt], fractions, self.seed, self.images_per_class, classes)
        if images.own_test:
            chosen = stratified_split(labels[learnt:], {}, self.seed, self.images_per_class, classes)["train"]
            rows["test"] = chosen + learnt
        return rows


def stratified_split(
    labels: NDArray[np.int64],
    fractions: Mapping[str, float],
    seed: int,
    images_per_class: int = 0,
    classes: Sequence[str] | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Disjoint, seeded index sets that hold every class in the same proportion; what is left over is `train`.

    `fractions` gives the share of all images in each split other than `train`. Each class is shuffled and cut by
    itself, so shares hold to within one image a class; indices come back sorted. `images_per_class` above 0 takes no
    more than so many of each class. `classes` names them in messages. Raises DataError where classes have too few
    images to be in every split.
    """
    rng = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in (*fractions, "train")}
    lacking = []
    for label in np.unique(labels):
        order = rng.permutation(np.flatnonzero(labels == label))[: images_per_class or None]
        start, share = 0, 0.0
        for name, fraction in fractions.items():
            share += fraction
            end = round(share * len(order))
            parts[name].append(order[start:end])
            start = end
        parts["train"].append(order[start:])
        if empty := [name for name, chunks in parts.items() if len(chunks[-1]) == 0]:
            lacking.append(f"{classes[label] if classes else label} ({len(order)}: none for {' and '.join(empty)})")
    _require_none(lacking)
    return {name: np.sort(np.concatenate(chunks)) for name, chunks in parts.items()}


def _require_none(lacking: Sequence[str]) -> None:
    """Raises DataError for classes that lack images."""
    if lacking:
        more = f" and {len(lacking) - CLASSES_NAMED} more" if len(lacking) > CLASSES_NAMED else ""
        named = ", ".join(lacking[:CLASSES_NAMED]) + more
        remedy = "add images, or leave these classes out"
        raise DataError(f"expected images of each class in every split, found too few of {named}: {remedy}")


def balancing(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """A weight for each label, `[N]`, by which all classes that occur weigh the same; the mean is 1."""
    counts = np.bincount(labels)
    return len(labels) / (np.count_nonzero(counts) * counts[labels])


def uneven(counts: NDArray[np.int64]) -> bool:
    """Whether so many images of each class are no longer even."""
    return bool(counts.max() > UNEVEN * counts.min())


def counted(classes: Sequence[str], counts: NDArray[np.int64]) -> str:
    """The images of each class in words, most first; of many classes the ends and the median."""
    order = np.argsort(-counts, kind="stable")
    named = [f"{classes[i]} {counts[i]}" for i in order]
    if len(named) <= CLASSES_NAMED:
        return ", ".join(named)
    return f"{named[0]} to {named[-1]} (median {np.median(counts):g}, {len(named)} classes)"
