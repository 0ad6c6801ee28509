"""Images that stay in their files: pictures that are read when they are asked for, and the index that names them.

Nothing here holds more than the rows it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnas.images import ImageError, read_image, without_warnings


class Problem(NamedTuple):
    """What is wrong with a data set: where (a path within it, "" for the whole), and what.

    `skippable`: the data set is whole again without that file.
    """

    path: str
    text: str
    skippable: bool = True

    def __str__(self) -> str:
        """One line, whatever a file is called."""
        text = f"{self.path}: {self.text}" if self.path else self.text
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class BadFilesError(ValueError):
    """Files that are no pictures that can be used, all of those that were asked for."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


@dataclass(frozen=True)
class FileImages:
    """Pictures below a folder as an array uint8 `[N, H, W, C]` that is read row by row.

    A picture is scaled and cropped as `bnas.images.read_image` does, by `resize`. Rows are asked for by number, slice
    or array of numbers, and read by `threads` at a time. Raises BadFilesError, which names each file that fails.
    """

    root: Path
    paths: Sequence[str]
    height: int
    width: int
    channels: int
    resize: int | None = None
    threads: int = 1
    dtype: np.dtype[np.uint8] = field(default=np.dtype(np.uint8), init=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, H, W, C)`."""
        return (len(self.paths), self.height, self.width, self.channels)

    @property
    def ndim(self) -> int:
        """4."""
        return 4

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        numbers = np.arange(len(self))[rows]
        if numbers.ndim == 0:
            one: NDArray[np.uint8] = self[numbers[None]][0]
            return one
        names = [self.paths[i] for i in numbers.tolist()]
        found = np.empty((len(names), *self.shape[1:]), np.uint8)
        problems = [each for each in side_by_side(self._read, zip(names, found, strict=True), self.threads) if each]
        if problems:
            raise BadFilesError(problems)
        return found

    def _read(self, job: tuple[str, NDArray[np.uint8]]) -> Problem | None:
        name, target = job
        path = self.root / name
        try:
            target[:] = read_image(path, self.height, self.width, self.channels, self.resize)
        except ImageError as error:
            return Problem(name, str(error).removeprefix(f"{path}: "))
        return None


def side_by_side(call: Callable[[Any], Any], values: Iterable[Any], threads: int) -> list[Any]:
    """`[call(value) for value in values]`, so many at a time; what Pillow remarks is not shown."""
    if threads <= 1:
        return [call(value) for value in values]
    with without_warnings(), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, values))
