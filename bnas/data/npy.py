"""Arrays on disk, opened without believing what their header says."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bnas.data.image_array import ImageArray

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def open_array(path: Path) -> NDArray[Any]:
    """The array in a `.npy` file, memory-mapped and read-only.

    Nothing is allocated by what the header says: its shape has to account for the file's very bytes. Raises ValueError,
    naming the file, for anything else than one plain array of numbers.
    """
    with path.open("rb") as file:
        try:
            version = npy.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"version {version} of the format")
            shape, fortran, dtype = _HEADERS[version](file)
        except Exception as error:  # numpy reads the header as Python: tokens, syntax, types, memory may all be wrong
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path}: expected an array, found a file that is none ({text:.150})") from None
        offset = file.tell()
    if dtype.hasobject or dtype.names or dtype.itemsize == 0:
        raise ValueError(f"{path}: expected an array of numbers, found one of {dtype.str:.40}")
    promised, present = math.prod(shape) * dtype.itemsize, path.stat().st_size - offset
    if promised != present or min(shape, default=0) < 1:
        raise ValueError(
            f"{path}: expected {promised} bytes for its shape {list(shape)!s:.80} of {dtype}, found {present}"
        )
    array: NDArray[Any] = np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    return array


@contextmanager
def saved_array(path: Path, dtype: np.dtype[Any], shape: Sequence[int]) -> Iterator[Callable[[NDArray[Any]], object]]:
    """Write a `.npy` file row by row: yields what is to be called with all rows of the shape, in order.

    Not through `numpy.lib.format.open_memmap`, where a full disk kills the process. Raises OSError, naming the file.
    """
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(shape)}
    try:
        with path.open("wb") as file:
            npy.write_array_header_1_0(file, header)
            yield lambda rows: file.write(np.ascontiguousarray(rows, dtype).data)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as `.npy`; raises OSError, naming the file, where that fails."""
    with saved_array(path, array.dtype, array.shape) as write:
        write(array)


class ContentHash:
    """SHA-256 over dtype, shape and bytes of arrays in order, which need not be in memory."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def begin(self, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
        """The next array is one of this type and shape."""
        self._digest.update(f"{dtype.str}{tuple(shape)}".encode())

    def rows(self, rows: NDArray[Any]) -> None:
        """The next rows of the array that was begun."""
        self._digest.update(np.ascontiguousarray(rows).data)

    def array(self, array: NDArray[Any] | ImageArray) -> None:
        """A whole array, a few rows at a time."""
        self.begin(array.dtype, array.shape)
        for start in range(0, len(array), 4096):
            self.rows(array[start : start + 4096])

    def text(self) -> str:
        """The hash in hexadecimal."""
        return self._digest.hexdigest()


def content_hash(arrays: Iterable[NDArray[Any] | ImageArray]) -> str:
    """SHA-256, in hexadecimal, over dtype, shape and bytes of the arrays in order."""
    digest = ContentHash()
    for array in arrays:
        digest.array(array)
    return digest.text()
