"""Labelled images as they come, before they are split, and how they are split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas.indexed import FileImages, Problem
from bnas.views import DataError, ImageArray

SPLITS = ("train", "validation", "test")


class ProblemsError(DataError):
    """Everything that is wrong with the data set in a folder; its text is one line, and says the first few only."""

    SHOWN = 10

    def __init__(self, root: Path, problems: Iterable[Problem]) -> None:
        self.root, self.problems = root, tuple(dict.fromkeys(problems))
        count = len(self.problems)
        shown = "; ".join(map(str, self.problems[: self.SHOWN]))
        more = f"; and {count - self.SHOWN} more" if count > self.SHOWN else ""
        super().__init__(f"{root}: found {count} problem{'s' * (count > 1)}: {shown}{more}")


@dataclass(frozen=True)
class Images:
    """Labelled images: `images` uint8 `[N, H, W, C]`, `labels` int64 `[N]` in 0 … len(classes) − 1.

    The last `own_test` of them are the data set's own test split; with none, one is cut. `digests` (uint64 `[N]`) are
    equal where files are, `problems` is what was found wrong with files, or is wrong without a file.
    """

    title: str
    classes: tuple[str, ...]
    images: ImageArray
    labels: NDArray[np.int64]
    own_test: int = 0
    digests: NDArray[np.uint64] | None = None
    problems: tuple[Problem, ...] = ()
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
    def resize(self) -> int | None:
        """What the shorter side of its pictures becomes before the middle is cut out; None: as long as that."""
        return self.images.resize if isinstance(self.images, FileImages) else None

    def kept(self, keep: NDArray[np.bool_]) -> Images:
        """Those of its rows, `[N]`; they have to be files."""
        assert isinstance(self.images, FileImages)
        assert self.digests is not None
        learnt = len(self.labels) - self.own_test
        return replace(
            self,
            images=replace(self.images, paths=[p for p, kept in zip(self.images.paths, keep, strict=True) if kept]),
            labels=self.labels[keep],
            own_test=int(keep[learnt:].sum()),
            digests=self.digests[keep],
        )

    def without(self, problems: Sequence[Problem]) -> Images:
        """Without the files that have these problems."""
        assert isinstance(self.images, FileImages)
        bad = {problem.path for problem in problems}
        return self.kept(np.array([path not in bad for path in self.images.paths], bool))


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
