"""Rows of a data set dealt to train, validation and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnas.data.image_array import DataError
from bnas.data.labelled_images import Images

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Cut:
    """How images are split: shares of all (of those that are not the data set's own test split, where it has one).

    No more than `images_per_class` of each class are used, and of a data set's own test split again as many; 0 = all.
    """

    seed: int
    test: float
    validation: float
    images_per_class: int

    def rows(self, found: Images) -> dict[str, NDArray[np.int64]]:
        """Sorted rows of `train`, `validation` and `test`."""
        learnt = len(found.labels) - found.own_test
        for part in (found.labels[:learnt], found.labels[learnt:] if found.own_test else found.labels):
            images = np.bincount(part, minlength=len(found.classes))
            if not images.all():
                name = found.classes[int(images.argmin())]
                raise DataError(f"data: class {name}: expected at least one image in every split, found none")
        if not found.own_test:
            fractions = {"validation": self.validation, "test": self.test}
            return stratified_split(found.labels, fractions, self.seed, self.images_per_class, found.classes)
        rows = stratified_split(
            found.labels[:learnt], {"validation": self.validation}, self.seed, self.images_per_class, found.classes
        )
        test = stratified_split(found.labels[learnt:], {}, self.seed, self.images_per_class, found.classes)["train"]
        return rows | {"test": test + learnt}


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
    more than so many of each class. `classes` names them in messages. Raises DataError where a class has too few images
    to be in every split.
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
                    f"data: class {classes[label] if classes else label}: expected at least one image in every split, "
                    f"found none for {name} among its {len(order)}"
                )
    return {name: np.sort(np.concatenate(chunks)) for name, chunks in parts.items()}
