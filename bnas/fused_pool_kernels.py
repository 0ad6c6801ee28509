"""3×3 pooling of maps channels last under stride 1, an image at a time; compiled by numba for `bnas.fused_pooling`.

Away from the border all nine pixels are written out for 16 channels; elsewhere loops go over what there is.
"""

from __future__ import annotations

import numpy as np
from numba import float32

from bnas.fused_vectors import (
    LANES,
    compiled,
    fma,
    load,
    load_bytes,
    splat,
    store,
    store_bytes,
    where_equal,
    where_larger,
)

CHANNELS, X, OUT, PLACES, ROWS, COLUMNS = 4, 7, 8, 9, 10, 11
"""Fields of a pass: channels; addresses of what is read (float32) and of the result; of which of the nine pixels of a
window is the largest (uint8), 0 for an average; rows and columns."""


@compiled
def _largest(x, i, line, step, count, rows, columns):
    """The largest of a window around i, and its place: of rows and columns `first` to `end` of the window's three."""
    best, place = splat(float32(-np.inf)), splat(float32(3 * rows[0] + columns[0]))
    for y in range(rows[0], rows[1]):
        for column in range(columns[0], columns[1]):
            value = load(x, i + (y - 1) * line + (column - 1) * step, count)
            place = where_larger(value, best, splat(float32(3 * y + column)), place)
            best = where_larger(value, best, value, best)
    return best, place


@compiled
def _average(x, i, line, step, count, rows, columns):
    total = splat(float32(0))
    for y in range(rows[0], rows[1]):
        for column in range(columns[0], columns[1]):
            total = total + load(x, i + (y - 1) * line + (column - 1) * step, count)
    return total / splat(float32((rows[1] - rows[0]) * (columns[1] - columns[0])))


@compiled
def _there(at, side):
    """First and last of the three rows (or columns) around one."""
    return 1 if at == 0 else 0, 2 if at == side - 1 else 3


@compiled
def pool(a, image):
    """Maximum (the first of equals) or average over what there is of every window."""
    step, high, wide = a[CHANNELS], a[ROWS], a[COLUMNS]
    x, places, out, line = a[X], a[PLACES], a[OUT], wide * step
    i = image * high * line
    for y in range(high):
        rows = _there(y, high)
        for column in range(wide):
            columns = _there(column, wide)
            inside = 0 < y < high - 1 and 0 < column < wide - 1
            for c in range(0, step, LANES):
                count = min(LANES, step - c)
                if places == 0:
                    store(out, i + c, count, _average(x, i + c, line, step, count, rows, columns))
                else:
                    if inside and count == LANES:
                        best, place = _largest(x, i + c, line, step, LANES, (0, 3), (0, 3))
                    else:
                        best, place = _largest(x, i + c, line, step, count, rows, columns)
                    store(out, i + c, count, best)
                    store_bytes(places, i + c, count, place)
            i += step


@compiled
def _collect_largest(gradient, places, i, line, step, count, rows, columns):
    """The gradient of pixel i from those of the windows around it."""
    none = splat(float32(0))
    total = none
    for y in range(rows[0], rows[1]):
        for column in range(columns[0], columns[1]):
            at = i + (y - 1) * line + (column - 1) * step
            value, place = load(gradient, at, count), splat(float32(8 - 3 * y - column))
            total = total + where_equal(load_bytes(places, at, count), place, value, none)
    return total


@compiled
def _collect_average(gradient, i, line, step, count, rows, columns, ys, xs):
    """The same; `ys` and `xs` are 1 / rows and 1 / columns that each of the three windows sees."""
    total = splat(float32(0))
    for y in range(rows[0], rows[1]):
        for column in range(columns[0], columns[1]):
            share = splat(ys[y] * xs[column])
            total = fma(load(gradient, i + (y - 1) * line + (column - 1) * step, count), share, total)
    return total


@compiled
def _shares(at, side):
    """1 / how many rows (or columns) the windows around the one before, this, and the one behind see."""
    one = float32(1)
    return _share(at - 1, side, one), _share(at, side, one), _share(at + 1, side, one)


@compiled
def _share(at, side, one):
    return one / float32(min(at + 2, side) - max(at - 1, 0)) if 0 <= at < side else one


@compiled
def unpool(a, image):
    """The gradient of `pool`'s input (`OUT`) from that of its result (`X`)."""
    step, high, wide = a[CHANNELS], a[ROWS], a[COLUMNS]
    gradient, places, out, line = a[X], a[PLACES], a[OUT], wide * step
    i = image * high * line
    for y in range(high):
        rows, ys = _there(y, high), _shares(y, high)
        for column in range(wide):
            columns = _there(column, wide)
            inside = 0 < y < high - 1 and 0 < column < wide - 1
            for c in range(0, step, LANES):
                count, total = min(LANES, step - c), splat(float32(0))
                if places == 0:
                    xs = _shares(column, wide)
                    total = _collect_average(gradient, i + c, line, step, count, rows, columns, ys, xs)
                elif inside and count == LANES:
                    total = _collect_largest(gradient, places, i + c, line, step, LANES, (0, 3), (0, 3))
                else:
                    total = _collect_largest(gradient, places, i + c, line, step, count, rows, columns)
                store(out, i + c, count, total)
            i += step
