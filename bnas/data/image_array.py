"""Images as arrays that need not be in memory: chosen rows of another array, and two arrays one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bnas.data.problems import DataError


class ImageArray(Protocol):
    """uint8 `[N, H, W, C]`, in memory or not; rows are asked for by number, slice or array of numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, H, W, C)`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@dataclass(frozen=True)
class Selected:
    """Rows of another array, `rows` int64 `[N]`, in that order."""

    images: ImageArray
    rows: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, H, W, C)`."""
        return (len(self.rows), *self.images.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the array."""
        return self.images.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any, /) -> Any:
        return self.images[self.rows[rows]]


@dataclass(frozen=True)
class Joined:
    """Two arrays of equally shaped images, one after the other."""

    first: ImageArray
    second: ImageArray

    def __post_init__(self) -> None:
        a, b = (part.shape[1:] for part in (self.first, self.second))
        if a != b:
            raise DataError(f"images: expected images of one shape to be joined, found {list(a)} and {list(b)}")

    @property
    def shape(self) -> tuple[int, ...]:
        """`(N, H, W, C)`."""
        return (len(self), *self.first.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the arrays."""
        return self.first.dtype

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, rows: Any, /) -> Any:
        numbers = np.arange(len(self))[rows]
        if numbers.ndim == 0:
            return self[numbers[None]][0]
        images = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        behind = numbers >= len(self.first)
        if not behind.all():
            images[~behind] = self.first[numbers[~behind]]
        if behind.any():
            images[behind] = self.second[numbers[behind] - len(self.first)]
        return images


def chunks(images: ImageArray, bytes_at_once: int = 2**20) -> list[slice]:
    """Slices that cover all rows in order, each of about so many bytes."""
    rows = max(1, bytes_at_once // max(1, int(np.prod(images.shape[1:]))))
    return [slice(start, min(start + rows, len(images))) for start in range(0, len(images), rows)]
