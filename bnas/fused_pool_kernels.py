"""3×3 pooling of maps channels last, padded by 1, an image at a time; compiled by numba for `bnas.fused_pooling`."""

from __future__ import annotations

import numpy as np
from numba import float32

from bnas.fused_vectors import (
    LANES,
    compiled,
    load,
    load_bytes,
    splat,
    store,
    store_bytes,
    where_equal,
    where_larger,
)

CHANNELS, X, OUT, PLACES, ROWS, COLUMNS, STRIDE = 4, 7, 8, 9, 10, 11, 12
"""Fields of a pass: channels; addresses of what is read (float32) and of the result; of which of the nine pixels of a
window is the largest (uint8), 0 for an average; rows, columns and stride of the map that is pooled."""


@compiled
def _window(at, stride, side):
    """First and last row (or column) that a window sees."""
    first = at * stride - 1
    return first, max(first, 0), min(first + 3, side)


@compiled
def _windows(at, stride, made):
    """First and last window that sees a row (or column)."""
    return max(0, (at + stride - 2) // stride), min((at + 1) // stride + 1, made)


@compiled
def _maximum(x, line, channels, rows, columns, count):
    """The largest of a window, and its place."""
    (top, y0, y1), (side, x0, x1) = rows, columns
    best, place = splat(float32(-np.inf)), splat(float32((y0 - top) * 3 + x0 - side))
    for y in range(y0, y1):
        for column in range(x0, x1):
            value = load(x, y * line + column * channels, count)
            place = where_larger(value, best, splat(float32((y - top) * 3 + column - side)), place)
            best = where_larger(value, best, value, best)
    return best, place


@compiled
def _average(x, line, channels, rows, columns, count):
    (_, y0, y1), (_, x0, x1) = rows, columns
    total = splat(float32(0))
    for y in range(y0, y1):
        for column in range(x0, x1):
            total = total + load(x, y * line + column * channels, count)
    return total / splat(float32((y1 - y0) * (x1 - x0)))


@compiled
def pool(a, image):
    """Maximum (the first of equals) or average over what there is of every window."""
    channels, stride, all_rows, all_columns = a[CHANNELS], a[STRIDE], a[ROWS], a[COLUMNS]
    places, out, line = a[PLACES], a[OUT], all_columns * channels
    high, wide = (all_rows - 1) // stride + 1, (all_columns - 1) // stride + 1
    x, i = a[X] + 4 * image * all_rows * line, image * high * wide * channels
    for y in range(high):
        rows = _window(y, stride, all_rows)
        for column in range(wide):
            columns = _window(column, stride, all_columns)
            for c in range(0, channels, LANES):
                count = min(LANES, channels - c)
                if places != 0:
                    best, place = _maximum(x + 4 * c, line, channels, rows, columns, count)
                    store(out, i + c, count, best)
                    store_bytes(places, i + c, count, place)
                else:
                    store(out, i + c, count, _average(x + 4 * c, line, channels, rows, columns, count))
            i += channels


@compiled
def _share(gradient, places, place, i, count):
    """What a window hands down to the pixel at `place` in it."""
    value = load(gradient, i, count)
    if places != 0:
        return where_equal(load_bytes(places, i, count), splat(float32(place)), value, splat(float32(0)))
    return value


@compiled
def _inside(gradient, places, i, line, channels, count):
    """The sum over the nine windows around a pixel away from the border, under stride 1; the middle one's is at i."""
    total = splat(float32(0))
    for y in range(3):
        for x in range(3):
            place, at = 8 - 3 * y - x, i + (y - 1) * line + (x - 1) * channels
            total = total + _share(gradient, places, place, at, count)
    return total if places != 0 else total * splat(float32(1) / float32(9))


@compiled
def _seen(window, stride, side):
    """How many rows (or columns) a window sees."""
    return min(window * stride + 2, side) - max(window * stride - 1, 0)


@compiled
def unpool(a, image):
    """The gradient of `pool`'s input (`OUT`) from that of its result (`X`)."""
    channels, stride, all_rows, all_columns = a[CHANNELS], a[STRIDE], a[ROWS], a[COLUMNS]
    gradient, places, out = a[X], a[PLACES], a[OUT]
    high, wide = (all_rows - 1) // stride + 1, (all_columns - 1) // stride + 1
    first = image * high * wide * channels
    pixel = image * all_rows * all_columns * channels
    for row in range(all_rows):
        y0, y1 = _windows(row, stride, high)
        between = stride == 1 and 2 <= row < all_rows - 2
        for column in range(all_columns):
            x0, x1 = _windows(column, stride, wide)
            for c in range(0, channels, LANES):
                count, total = min(LANES, channels - c), splat(float32(0))
                if between and 2 <= column < all_columns - 2:
                    i = pixel + c
                    if count == LANES:
                        total = _inside(gradient, places, i, wide * channels, channels, LANES)
                    else:
                        total = _inside(gradient, places, i, wide * channels, channels, count)
                else:
                    for y in range(y0, y1):
                        for x in range(x0, x1):
                            i = first + (y * wide + x) * channels + c
                            place = (row - y * stride + 1) * 3 + column - x * stride + 1
                            share = _share(gradient, places, place, i, count)
                            if places == 0:
                                seen = _seen(y, stride, all_rows) * _seen(x, stride, all_columns)
                                share = share * splat(float32(1) / float32(seen))
                            total = total + share
                store(out, pixel + c, count, total)
            pixel += channels
