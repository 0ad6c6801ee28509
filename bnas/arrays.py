"""Arrays on disk, opened without believing what their header says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_ANY_TROUBLE = (ValueError, TypeError, SyntaxError, EOFError, OverflowError, RecursionError, MemoryError)


def open_array(path: Path) -> NDArray[Any]:
    """The array in a `.npy` file, memory-mapped and read-only.

    Nothing is allocated by what the header says: its shape has to account for the file's very bytes. Raises ValueError,
    naming the file, for anything else than one plain array of numbers.
    """
    with path.open("rb") as file:
        try:
            version = npy.read_magic(file)
            shape, fortran, dtype = _HEADERS[version](file)
        except KeyError:
            raise ValueError(f"{path}: expected version 1 or 2 of the npy format, found {version}") from None
        except _ANY_TROUBLE as error:
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


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as `.npy`; raises OSError, naming the file, where that fails."""
    try:
        np.save(path, array)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error
