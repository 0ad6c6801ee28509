"""Where the taps of a convolution lie in memory, for `bnas.kernels.convolution`: whole numbers, by shapes alone.

An image is copied into a frame of zeros before it is convolved: its signs as bits (forward) or floats (gradient of the
weights), each with the padding around it, and the gradient of the result with a border that is as wide as its reader
needs (gradient of the input).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnas.kernels.emitter import LANES
from bnas.kernels.records import Geometry


@dataclass(frozen=True)
class ConvolutionShape:
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


@dataclass
class ConvolutionPlan:
    """What the kernels read of a convolution (`geometry`, which points into `lists`).

    `lacking` bool `[classes, taps]` says which taps a class of pixels of the result lacks, `tap_order` `[taps]` which
    tap each of the geometry's `tap_offsets` belongs to.
    """

    shape: ConvolutionShape
    geometry: Geometry
    lacking: NDArray[np.bool_]
    tap_order: NDArray[np.int64]
    lists: list[NDArray[np.int64]] = field(repr=False)

    @property
    def bits(self) -> int:
        """Bytes of a frame of bits, and as many more as may be read past its end."""
        g = self.geometry
        return int((g.frame_rows * g.frame_line * g.pixel_bytes + 4 * LANES) // 64 * 64 + 64)

    @property
    def floats(self) -> int:
        """Floats of a frame of signs, of one of the gradient, and as many more as may be read past their ends."""
        g = self.geometry
        made = -(-self.shape.made // LANES) * LANES
        return int(g.seen_floats + made * g.gradient_rows * g.gradient_line + LANES)


@functools.lru_cache(maxsize=1024)
def plan(shape: ConvolutionShape) -> ConvolutionPlan:
    """The plan of a convolution."""
    s = shape
    high, wide = s.result(s.rows), s.result(s.columns)
    line, rows, pixel = s.columns + 2 * s.padding, s.rows + 2 * s.padding, -(-s.channels // 8)
    lists: list[NDArray[np.int64]] = []

    def address(values: Sequence[int]) -> int:
        lists.append(np.array(values, np.int64))
        return int(lists[-1].ctypes.data)

    words = list(_words(s, line, pixel))
    chunk_offsets, chunk_counts, chunk_starts = zip(*_chunks(s, line), strict=True)
    by_row, rows_lack = _classes(s, s.rows)
    by_column, columns_lack = _classes(s, s.columns)
    lacking = [
        [row[y] or column[x] for y in range(s.kernel) for x in range(s.kernel)]
        for row in rows_lack
        for column in columns_lack
    ]
    up, below = _border(s, s.rows, high)
    left, right = _border(s, s.columns, wide)
    gradient_line = wide + left + right
    offsets: list[int] = []
    order: list[int] = []
    phases: list[int] = []
    for row in range(s.stride):
        for column in range(s.stride):
            first = len(order)
            for ky, y in _reached(s, row):
                for kx, x in _reached(s, column):
                    offsets.append(((y + up) * gradient_line + x + left) * LANES)
                    order.append(ky * s.kernel + kx)
            phases += [first, len(order) - first]
    geometry = Geometry(
        channels=s.channels,
        made=s.made,
        rows=s.rows,
        columns=s.columns,
        high=high,
        wide=wide,
        stride=s.stride,
        padding=s.padding,
        frame_rows=rows,
        frame_line=line,
        pixel_bytes=pixel,
        seen_floats=(rows * line * s.channels + LANES) // LANES * LANES + LANES,
        words=len(words),
        word_offsets=address([offset for offset, _ in words]),
        word_masks=address([mask for _, mask in words]),
        row_classes=address([each * len(columns_lack) for each in by_row]),
        column_classes=address(by_column),
        classes=len(lacking),
        chunks=len(chunk_offsets),
        chunk_offsets=address(chunk_offsets),
        chunk_counts=address(chunk_counts),
        chunk_starts=address(chunk_starts),
        up=up,
        left=left,
        gradient_rows=high + up + below,
        gradient_line=gradient_line,
        taps=s.kernel**2,
        tap_offsets=address(offsets),
        phases=address(phases),
    )
    return ConvolutionPlan(s, geometry, np.array(lacking), np.array(order, np.int64), lists)


def _words(s: ConvolutionShape, line: int, pixel: int) -> Iterator[tuple[int, int]]:
    """Bytes from the pixel, and which bits count, of every word; taps that lie together share words."""
    for y in range(s.kernel):
        for x in range(0, s.kernel, s.together):
            start, width = (y * line + x) * s.dilation * pixel, 8 * pixel * s.together
            for bit in range(0, width, 32):
                yield start + bit // 8, (1 << min(32, width - bit)) - 1


def _classes(s: ConvolutionShape, side: int) -> tuple[list[int], list[tuple[bool, ...]]]:
    """For every row (or column) of the result its class, and the taps that each class lacks."""
    classes: dict[tuple[bool, ...], int] = {}
    by_row = []
    for y in range(s.result(side)):
        at = [y * s.stride - s.padding + k * s.dilation for k in range(s.kernel)]
        by_row.append(classes.setdefault(tuple(not 0 <= place < side for place in at), len(classes)))
    return by_row, list(classes)


def _chunks(s: ConvolutionShape, line: int) -> Iterator[tuple[int, int, int]]:
    """Floats from the pixel, number of weights, and the first of them, of every chunk."""
    together = s.kernel if s.dilation == 1 else 1
    width = together * s.channels
    for y in range(s.kernel):
        for x in range(0, s.kernel, together):
            for first in range(0, width, LANES):
                start = (y * line + x) * s.dilation * s.channels + first
                yield start, min(LANES, width - first), (y * s.kernel + x) * s.channels + first


def _reached(s: ConvolutionShape, phase: int) -> Iterator[tuple[int, int]]:
    """Taps by which a row (or column) `stride · i + phase` of the input is seen, and from which `i + …` of it."""
    for tap in range(s.kernel):
        place = phase + s.padding - s.dilation * tap
        if place % s.stride == 0:
            yield tap, place // s.stride


def _border(s: ConvolutionShape, side: int, made: int) -> tuple[int, int]:
    """Zeros before and behind the rows (or columns) of the result that the input's gradient is summed from."""
    before, behind = 0, 0
    for phase in range(s.stride):
        for _, offset in _reached(s, phase):
            last = (side - phase + s.stride - 1) // s.stride - 1
            before, behind = max(before, -offset), max(behind, last + offset - (made - 1))
    return before, behind
