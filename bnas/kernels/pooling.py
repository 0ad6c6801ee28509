"""Pooling of maps channels last, an image at a time; compiled by numba for `bnas.nn.pooling`.

3×3 pools under stride 1, and shortcuts, which average 2×2 pixels or groups of channels.

Away from the border all nine pixels are written out for 16 channels; elsewhere loops go over what there is.
"""

from __future__ import annotations

import numpy as np
from numba import float32

from bnas.kernels.emitter import LANES
from bnas.kernels.tiles import narrow_2, narrow_3, narrow_4, widen_2, widen_3, widen_4
from bnas.kernels.vectors import (
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
    step, high, wide = a.channels, a.rows, a.columns
    x, places, out, line = a.x, a.places, a.out, wide * step
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
    """The gradient of `pool`'s input (`out`) from that of its result (`x`)."""
    step, high, wide = a.channels, a.rows, a.columns
    gradient, places, out, line = a.x, a.places, a.out, wide * step
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


@compiled
def halve(a, image):
    """Averages of 2×2; at an odd border of what there is."""
    step, high, wide = a.channels, a.rows, a.columns
    half, line = (wide + 1) // 2, wide * step
    x, i = a.x + 4 * image * high * line, image * ((high + 1) // 2) * half * step
    for y in range(0, high, 2):
        for column in range(0, wide, 2):
            below, right = (line if y + 1 < high else 0), (step if column + 1 < wide else 0)
            seen = splat(float32((2 if below else 1) * (2 if right else 1)))
            for c in range(0, step, LANES):
                count, at = min(LANES, step - c), y * line + column * step + c
                total = splat(float32(0)) + load(x, at, count)
                if right:
                    total = total + load(x, at + right, count)
                if below:
                    total = total + load(x, at + below, count)
                    if right:
                        total = total + load(x, at + below + right, count)
                store(a.out, i + c, count, total / seen)
            i += step


@compiled
def unhalve(a, image):
    """The gradient of `halve`'s input (`out`) from that of its result (`x`)."""
    step, high, wide = a.channels, a.rows, a.columns
    half, line = (wide + 1) // 2, wide * step
    out, i = a.out + 4 * image * high * line, image * ((high + 1) // 2) * half * step
    for y in range(0, high, 2):
        for column in range(0, wide, 2):
            below, right = (line if y + 1 < high else 0), (step if column + 1 < wide else 0)
            share = splat(float32(1) / float32((2 if below else 1) * (2 if right else 1)))
            for c in range(0, step, LANES):
                count, at = min(LANES, step - c), y * line + column * step + c
                value = load(a.x, i + c, count) * share
                store(out, at, count, value)
                if right:
                    store(out, at + right, count, value)
                if below:
                    store(out, at + below, count, value)
                    if right:
                        store(out, at + below + right, count, value)
            i += step


@compiled
def narrow(a, image):
    """Averages of groups of channels (`group` of them); a multiple of 16 groups."""
    step, group, pixels = a.channels, a.group, a.rows * a.columns
    made = step // group
    x, out = a.x + 4 * image * pixels * step, a.out + 4 * image * pixels * made
    for _ in range(pixels):
        for c in range(0, made, LANES):
            source, to = x + 4 * c * group, out + 4 * c
            if group == 2:
                narrow_2(source, to)
            elif group == 3:
                narrow_3(source, to)
            else:
                narrow_4(source, to)
        x += 4 * step
        out += 4 * made


@compiled
def widen(a, image):
    """The gradient of `narrow`'s input (`out`) from that of its result (`x`)."""
    step, group, pixels = a.channels, a.group, a.rows * a.columns
    made = step // group
    x, out = a.x + 4 * image * pixels * made, a.out + 4 * image * pixels * step
    for _ in range(pixels):
        for c in range(0, made, LANES):
            source, to = x + 4 * c, out + 4 * c * group
            if group == 2:
                widen_2(source, to)
            elif group == 3:
                widen_3(source, to)
            else:
                widen_4(source, to)
        x += 4 * made
        out += 4 * step
