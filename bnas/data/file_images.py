"""Images that stay in their files: pictures that are read when they are asked for, and the index that names them.

Nothing here holds more than the rows it was asked for. An index is a folder with `files.txt`, a line for each picture
(16 hexadecimal digits of its bytes' BLAKE2b, a space, its path below the data set's folder), and `index.json`, which
says how they are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.data.picture import ImageError, read_image, without_warnings
from bnas.data.problems import DataError, FileProblem, ProblemsError
from bnas.storage.files import atomic_write, read_json, read_text
from bnas.storage.terminal import printable

FILES, INDEX = "files.txt", "index.json"

DIGEST = 16
"""Hexadecimal digits in front of a path."""

_WAY_OUT = re.compile(rb"^.{17}/|(^.{17}|/)\.\.(/|$)|\0", re.MULTILINE)
_LINES = re.compile(rb"(?:[0-9a-f]{16} [^\n]+\n)*")

MOST_PIXELS = 1024
"""Side of the largest images."""


@dataclass(frozen=True)
class FileImages:
    """Pictures below a folder as an array uint8 `[N, H, W, C]` that is read row by row.

    A picture is scaled and cropped as `bnas.data.picture.read_image` does, by `resize`. Rows are asked for by number,
    slice or array of numbers, and read by `loader_workers` threads at a time. `digests`, uint64 `[N]`, are equal where
    files are; empty where they are not known. Raises ProblemsError, which names each file that fails.
    """

    root: Path
    paths: Sequence[str]
    height: int
    width: int
    channels: int
    resize: int | None = None
    loader_workers: int = 1
    digests: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    dtype: np.dtype[np.uint8] = field(default=np.dtype(np.uint8), init=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, H, W, C)`."""
        return (len(self.paths), self.height, self.width, self.channels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        numbers = np.arange(len(self))[rows]
        if numbers.ndim == 0:
            one: NDArray[np.uint8] = self[numbers[None]][0]
            return one
        names = [self.paths[i] for i in numbers.tolist()]
        images = np.empty((len(names), *self.shape[1:]), np.uint8)
        jobs = zip(names, images, strict=True)
        problems = [problem for problem in side_by_side(self._read, jobs, self.loader_workers) if problem]
        if problems:
            raise ProblemsError(self.root, problems)
        return images

    def _read(self, job: tuple[str, NDArray[np.uint8]]) -> FileProblem | None:
        name, target = job
        path = self.root / name
        try:
            target[:] = read_image(path, self.height, self.width, self.channels, self.resize)
        except ImageError as error:
            return FileProblem(name, str(error).removeprefix(f"{path}: "))
        return None

    def chosen(self, rows: NDArray[np.int64]) -> FileImages:
        """The files of these rows, in that order; their digests have to be known."""
        return replace(self, paths=[self.paths[i] for i in rows.tolist()], digests=self.digests[rows])


def side_by_side(call: Callable[[Any], Any], values: Iterable[Any], threads: int) -> list[Any]:
    """`[call(value) for value in values]`, so many at a time; what Pillow remarks is not shown."""
    if threads <= 1:
        return [call(value) for value in values]
    with without_warnings(), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, values))


class Lines(Sequence[str]):
    """The paths in the text of `files.txt`, of which only the place of each line is held beside the text."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: Any) -> Any:
        start = self._ends[row - 1] + 1 if row > 0 else 0
        return self._text[start + DIGEST + 1 : self._ends[row]].decode()


def save_index(folder: Path, images: FileImages) -> bytes:
    """Write the index of these files; returns what to hash. Raises ProblemsError for names that no line can hold."""
    unfit = [name for name in images.paths if printable(name) != name]
    if unfit:
        text = "expected a name of printable characters"
        raise ProblemsError(images.root, [FileProblem(name, text) for name in unfit])
    lines = zip(images.digests.tolist(), images.paths, strict=True)
    content = "".join(f"{digest:016x} {name}\n" for digest, name in lines).encode()
    how = {name: getattr(images, name) for name in ("height", "width", "channels", "resize")}
    description = json.dumps(how, indent=1) + "\n"
    atomic_write(folder / FILES, content)
    atomic_write(folder / INDEX, description)
    return description.encode() + content


def open_index(folder: Path, root: Path | None, loader_workers: int = 1) -> FileImages:
    """The pictures that an index names, below `root`; raises DataError for a file that is no index of such."""
    path = folder / INDEX
    how = read_json(path)
    sizes = ("height", "width", "channels", "resize")
    whole = isinstance(how, dict) and set(how) == set(sizes) and all(type(how[name]) is int for name in sizes[:3])
    if not whole or not (how["resize"] is None or type(how["resize"]) is int) or how["channels"] not in (1, 3):
        raise DataError(f"{path}: expected height, width, channels (1 or 3) and resize, found {how!s:.80}")
    height, width, resize = how["height"], how["width"], how["resize"]
    if not (min(height, width) > 0 and max(height, width) <= MOST_PIXELS):
        raise DataError(f"{path}: expected sides of 1 to {MOST_PIXELS} pixels, found {height}x{width}")
    if resize is not None and not min(height, width) <= resize <= 2 * MOST_PIXELS:
        raise DataError(f"{path}: expected resize from {min(height, width)} to {2 * MOST_PIXELS}, found {resize}")
    text = (folder / FILES).read_bytes()
    if not text or not _LINES.fullmatch(text) or _WAY_OUT.search(text):
        raise DataError(f"{folder / FILES}: expected a digest and a path below the data set's folder in each line")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{folder / FILES}: expected text in UTF-8, found byte {error.start}") from None
    if root is None or not root.is_dir():
        raise DataError(f"{folder}: expected the folder {root} with the images that it names, found none")
    return FileImages(root, Lines(text), height, width, how["channels"], resize, loader_workers)


def index_bytes(folder: Path) -> bytes:
    """What `save_index` returned."""
    return read_text(folder / INDEX).encode() + (folder / FILES).read_bytes()
