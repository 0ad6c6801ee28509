"""Labelled images before they are split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas.data.file_images import FileImages, Problem
from bnas.data.image_array import DataError, ImageArray


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
