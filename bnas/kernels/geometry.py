"""Where the taps of a convolution lie in memory, for `bnas.kernels.convolution`: whole numbers, by shapes alone.

An image is copied into a frame of zeros before it is convolved: its signs as bits (forward) or floats (gradient of the
weights), each with the padding around it, and the gradient of the result with a border that is as wide as its reader
needs (gradient of the input).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnas.kernels.vectors import LANES

# A plan is one array of integers: these, then lists, whose places in it are among these.
C, O, H, W, HIGH, WIDE, STRIDE = range(7)  # noqa: E741
"""Channels, output channels, rows, columns, rows and columns of the result, stride."""
PADDING, ROWS, LINE, BYTES, WORDS, WORD_OFFSETS, WORD_MASKS, ROW_CLASSES, COLUMN_CLASSES, CLASSES = range(7, 17)
"""Frame of an image: zeros on each side, its rows and columns, bytes of a pixel's bits; words of 32 bits that a result
is counted from, how many bytes they lie from it and which of their bits count; for each row and column of the result
the class of those that lack the same taps, in classes of pixels, and how many classes of pixels there are."""
CHUNKS, CHUNK_OFFSETS, CHUNK_COUNTS, CHUNK_STARTS = range(17, 21)
"""Chunks of at most 16 weights that lie together: floats from the pixel in the frame, how many, which is the first."""
UP, LEFT, GRADIENT_ROWS, GRADIENT_LINE, TAPS, TAP_OFFSETS, TAP_ORDER, PHASES = range(21, 29)
"""Frame of the result's gradient: zeros above and to the left, rows and columns; taps, by phase: how far from the pixel
they find the gradient, and which they are. For each of the `stride²` phases of input pixels: first tap, taps."""
HEADER = 29


@dataclass(frozen=True)
class Shape:
    """A convolution of square kernels `[channels, rows, columns]` → `[made, …]`, with the same padding on all sides."""

    channels: int
    made: int
    rows: int
    columns: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def together(self) -> int:
        """Taps of a row whose bits lie together."""
        return self.kernel if self.dilation == 1 and self.channels % 8 == 0 else 1

    def result(self, side: int) -> int:
        """Rows or columns of the result."""
        return (side + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@dataclass(frozen=True)
class Plan:
    """`table` as above; `lacking` `[classes, taps]` says which taps a class of pixels lacks."""

    shape: Shape
    table: NDArray[np.int64]
    lacking: NDArray[np.bool_]

    def __getitem__(self, field: int) -> int:
        return int(self.table[field])

    @property
    def address(self) -> int:
        """Of the table."""
        return int(self.table.ctypes.data)

    @property
    def bits(self) -> int:
        """Bytes of a frame of bits, and as many more as may be read past its end."""
        return (self[ROWS] * self[LINE] * self[BYTES] + 4 * LANES) // 64 * 64 + 64

    @property
    def floats(self) -> int:
        """Floats of a frame of signs, of one of the gradient, and as many more as may be read past their ends."""
        return self.seen + -(-self.shape.made // LANES) * LANES * self[GRADIENT_ROWS] * self[GRADIENT_LINE] + LANES

    @property
    def seen(self) -> int:
        """Floats of a frame of signs alone."""
        return (self[ROWS] * self[LINE] * self.shape.channels + LANES) // LANES * LANES + LANES


@functools.lru_cache(maxsize=1024)
def plan(shape: Shape) -> Plan:
    """The plan of a convolution."""
    s = shape
    high, wide = s.result(s.rows), s.result(s.columns)
    line, rows, pixel = s.columns + 2 * s.padding, s.rows + 2 * s.padding, -(-s.channels // 8)
    header = [s.channels, s.made, s.rows, s.columns, high, wide, s.stride, s.padding, rows, line, pixel]
    numbers = np.zeros(HEADER, np.int64)
    numbers[: len(header)] = header
    lists: list[int] = []

    def add(field: int, values: list[int]) -> None:
        numbers[field] = HEADER + len(lists)
        lists.extend(values)

    words = list(_words(s, line, pixel))
    numbers[WORDS] = len(words)
    add(WORD_OFFSETS, [offset for offset, _ in words])
    add(WORD_MASKS, [mask for _, mask in words])
    by_row, rows_lack = _classes(s, s.rows)
    by_column, columns_lack = _classes(s, s.columns)
    add(ROW_CLASSES, [each * len(columns_lack) for each in by_row])
    add(COLUMN_CLASSES, by_column)
    lacking = [
        [row[y] or column[x] for y in range(s.kernel) for x in range(s.kernel)]
        for row in rows_lack
        for column in columns_lack
    ]
    numbers[CLASSES] = len(lacking)
    chunks = list(_chunks(s, line))
    numbers[CHUNKS] = len(chunks)
    for field, values in zip((CHUNK_OFFSETS, CHUNK_COUNTS, CHUNK_STARTS), zip(*chunks, strict=True), strict=True):
        add(field, list(values))
    up, below = _border(s, s.rows, high)
    left, right = _border(s, s.columns, wide)
    numbers[[UP, LEFT, GRADIENT_ROWS, GRADIENT_LINE]] = up, left, high + up + below, wide + left + right
    numbers[TAPS] = s.kernel**2
    offsets: list[int] = []
    order: list[int] = []
    phases: list[int] = []
    for row in range(s.stride):
        for column in range(s.stride):
            first = len(order)
            for ky, y in _reached(s, row):
                for kx, x in _reached(s, column):
                    offsets.append(((y + up) * (wide + left + right) + x + left) * LANES)
                    order.append(ky * s.kernel + kx)
            phases += [first, len(order) - first]
    add(TAP_OFFSETS, offsets)
    add(TAP_ORDER, order)
    add(PHASES, phases)
    return Plan(s, np.concatenate([numbers, np.array(lists, np.int64)]), np.array(lacking))


def _words(s: Shape, line: int, pixel: int) -> Iterator[tuple[int, int]]:
    """Bytes from the pixel, and which bits count, of every word; taps that lie together share words."""
    for y in range(s.kernel):
        for x in range(0, s.kernel, s.together):
            start, width = (y * line + x) * s.dilation * pixel, 8 * pixel * s.together
            for bit in range(0, width, 32):
                yield start + bit // 8, (1 << min(32, width - bit)) - 1


def _classes(s: Shape, side: int) -> tuple[list[int], list[tuple[bool, ...]]]:
    """For every row (or column) of the result its class, and the taps that each class lacks."""
    found: dict[tuple[bool, ...], int] = {}
    by_row = []
    for y in range(s.result(side)):
        at = [y * s.stride - s.padding + k * s.dilation for k in range(s.kernel)]
        by_row.append(found.setdefault(tuple(not 0 <= place < side for place in at), len(found)))
    return by_row, list(found)


def _chunks(s: Shape, line: int) -> Iterator[tuple[int, int, int]]:
    """Floats from the pixel, number of weights, and the first of them, of every chunk."""
    together = s.kernel if s.dilation == 1 else 1
    width = together * s.channels
    for y in range(s.kernel):
        for x in range(0, s.kernel, together):
            for first in range(0, width, LANES):
                start = (y * line + x) * s.dilation * s.channels + first
                yield start, min(LANES, width - first), (y * s.kernel + x) * s.channels + first


def _reached(s: Shape, phase: int) -> Iterator[tuple[int, int]]:
    """Taps by which a row (or column) `stride · i + phase` of the input is seen, and from which `i + …` of it."""
    for tap in range(s.kernel):
        place = phase + s.padding - s.dilation * tap
        if place % s.stride == 0:
            yield tap, place // s.stride


def _border(s: Shape, side: int, made: int) -> tuple[int, int]:
    """Zeros before and behind the rows (or columns) of the result that the input's gradient is summed from."""
    before, behind = 0, 0
    for phase in range(s.stride):
        for _, offset in _reached(s, phase):
            last = (side - phase + s.stride - 1) // s.stride - 1
            before, behind = max(before, -offset), max(behind, last + offset - (made - 1))
    return before, behind
