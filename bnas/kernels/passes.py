"""The elementwise passes of a binary block while it trains, compiled by numba (`bnas.nn.fused_block` calls them).

A map is channels last: `[P, C]` in one flat array, P = N · H · W. Every pass is cut into tasks whose number and borders
do not depend on who takes them, so results do not depend on how many threads do. Passes take one array of integers:
a counter of tasks taken, the number of tasks, which pass it is, then sizes, and addresses of arrays: float32, or int16
for y, the counts that a binary convolution comes to. Rows of a BatchNorm are those of `bnas.kernels.convolution`.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
from numba import float32, float64, types

from bnas.kernels.convolution import (
    CHANNELS,
    FACTOR,
    LENGTH,
    NORM_ROWS,
    PASS,
    PERIOD,
    PIXELS,
    SCALE,
    SHIFT,
    SIZE,
    SLOPE,
    SPACE,
    TASKS,
    clear,
    convolve,
    gather,
    gradients,
    join_counts,
    unsign,
)
from bnas.kernels.numba_cache import keeps
from bnas.kernels.pooling import halve, narrow, pool, unhalve, unpool, widen
from bnas.kernels.vectors import (
    LANES,
    address_of,
    compiled,
    fma,
    load,
    load_counts,
    signs,
    splat,
    store,
    take,
    where_positive,
)

A, B, C, D, E, F, G = range(7, 14)
"""Addresses and flags of an elementwise pass, as its docstring lists them."""

JOINED = 23
"""Threads that have joined in: each takes a number."""

ROOM = 24
"""Integers of a pass."""

(
    SUMS,
    SQUARES,
    SIGN,
    FINISH,
    UNFINISH,
    UNSIGN,
    JOIN,
    JOIN_COUNTS,
    CONVOLVE,
    GRADIENTS,
    GATHER,
    POOL,
    UNPOOL,
    HALVE,
    UNHALVE,
    NARROW,
    WIDEN,
) = range(17)
"""Values of `PASS`."""

carray: Any = getattr(numba, "carray")  # noqa: B009  # not in its stubs


@compiled
def _bounds(a, task):
    """First and last element of an elementwise task."""
    first = task * a[LENGTH]
    return first, min(first + a[LENGTH], a[PIXELS] * a[CHANNELS])


@compiled
def _sum_lanes(a, task, first, last, channel, count):
    x, scale, step = a[A], a[D], a[CHANNELS]
    total = splat(float32(0))
    if scale == 0:
        for pixel in range(first, last):
            total = total + load(x, pixel * step + channel, count)
    else:
        factor = load(scale, channel, count)
        for pixel in range(first, last):
            total = total + load_counts(x, pixel * step + channel, count) * factor
    store(a[B], task * step + channel, count, total)


@compiled
def _square_lanes(a, task, first, last, channel, count):
    x, scale, step = a[A], a[D], a[CHANNELS]
    mean = load(a[C], channel, count)
    total = splat(float32(0))
    if scale == 0:
        for pixel in range(first, last):
            distance = load(x, pixel * step + channel, count) - mean
            total = fma(distance, distance, total)
    else:
        factor = load(scale, channel, count)
        for pixel in range(first, last):
            distance = load_counts(x, pixel * step + channel, count) * factor - mean
            total = fma(distance, distance, total)
    store(a[B], task * step + channel, count, total)


@compiled
def _moments(a, task, squares):
    """Sums over a range of pixels (A: x, B: sums by task `[tasks, C]`, D: none, or the factor α of counts), or of
    squared distances (C: the means). One after another, as PyTorch sums them."""
    pixels, channels = a[PIXELS], a[CHANNELS]
    each = (pixels + a[TASKS] - 1) // a[TASKS]
    first, last = min(pixels, task * each), min(pixels, (task + 1) * each)
    for channel in range(0, channels, LANES):
        if channels - channel >= LANES:
            if squares:
                _square_lanes(a, task, first, last, channel, LANES)
            else:
                _sum_lanes(a, task, first, last, channel, LANES)
        elif squares:
            _square_lanes(a, task, first, last, channel, channels - channel)
        else:
            _sum_lanes(a, task, first, last, channel, channels - channel)


@compiled
def _sign(a, task):
    """`sign(scale · x + shift)` (A: x, B: result, C: BatchNorm)."""
    x, out, period = a[A], a[B], a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        scale, shift = load(a[C], SCALE * period + v, LANES), load(a[C], SHIFT * period + v, LANES)
        i = first + v
        while i + LANES <= last:
            store(out, i, LANES, signs(fma(load(x, i, LANES), scale, shift)))
            i += period
        if i < last:
            store(out, i, last - i, signs(fma(load(x, i, last - i), scale, shift)))


@compiled
def _finish_one(a, i, count, rows):
    scale, shift, slope, factor = rows
    z = fma(load_counts(a[A], i, count) * factor, scale, shift) + load(a[B], i, count)
    store(a[C], i, count, where_positive(z, z, slope * z))


@compiled
def _rows(norm, period, v):
    scale, shift = load(norm, SCALE * period + v, LANES), load(norm, SHIFT * period + v, LANES)
    return scale, shift, load(norm, SLOPE * period + v, LANES), load(norm, FACTOR * period + v, LANES)


@compiled
def _finish(a, task):
    """`PReLU(scale · α · y + shift + shortcut)` (A: y, B: shortcut, C: result, D: BatchNorm)."""
    period = a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        rows = _rows(a[D], period, v)
        i = first + v
        while i + LANES <= last:
            _finish_one(a, i, LANES, rows)
            i += period
        if i < last:
            _finish_one(a, i, last - i, rows)


@compiled
def _unfinish_one(a, i, at, count, rows, mean, sums):
    scale, shift, slope, factor = rows
    y, grad = load_counts(a[B], i, count) * factor, load(a[A], at, count)
    z = fma(y, scale, shift) + load(a[C], i, count)
    inner = where_positive(z, grad, slope * grad)
    store(a[D], i, count, inner)
    none = splat(float32(0))
    return sums[0] + inner, fma(inner, y - mean, sums[1]), sums[2] + where_positive(z, none, grad * z)


@compiled
def _unfinish(a, task):
    """Gradient of the PReLU's input z from that of its result, and sums by channel of it, of it times `α · y − mean`,
    and of the slope's gradient (A: gradient, B: y, C: shortcut, D: result, E: BatchNorm, F: the sums
    `[tasks, 3, period]`, G: how far apart the gradient's periods are)."""
    period = a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        rows, mean = _rows(a[E], period, v), load(a[E], v, LANES)
        none = splat(float32(0))
        sums = (none, none, none)
        i, at = first + v, first // period * a[G] + v
        while i + LANES <= last:
            sums = _unfinish_one(a, i, at, LANES, rows, mean, sums)
            i += period
            at += a[G]
        if i < last:
            sums = _unfinish_one(a, i, at, last - i, rows, mean, sums)
        for k in range(3):
            store(a[F], (task * 3 + k) * period + v, LANES, sums[k])


@compiled
def _unsign(a, task):
    """`unsign` of a task's elements (A: gradient, B: x, C: BatchNorm, D: 0 approx, 1 ste, E: the sums
    `[tasks, 2, period]`)."""
    first, last = _bounds(a, task)
    totals = a[E] + 8 * task * a[PERIOD]
    clear(totals, 2 * a[PERIOD])
    unsign(a[A], a[B], a[C], a[PERIOD], first, last, a[D], totals)


@compiled
def _join_one(a, i, count, p, q, r, mean):
    value = fma(load(a[B], i, count) - mean, q, r)
    if a[A] != 0:
        value = fma(load(a[A], i, count), p, value)
    if a[D] != 0:
        value = value + load(a[D], i, count)
    store(a[C], i, count, value)


@compiled
def _join(a, task):
    """`p · gradient + q · (x − mean) + r + other`: gradient of a BatchNorm's input (A: gradient or none, B: x, C: the
    result, D: other gradient or none, E: p, q, r `[3, period]`, F: BatchNorm)."""
    period = a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        p, q, r = load(a[E], v, LANES), load(a[E], period + v, LANES), load(a[E], 2 * period + v, LANES)
        mean = load(a[F], v, LANES)
        i = first + v
        while i + LANES <= last:
            _join_one(a, i, LANES, p, q, r, mean)
            i += period
        if i < last:
            _join_one(a, i, last - i, p, q, r, mean)


@compiled
def _join_counts(a, task):
    """Gradient of counts (A: that of the PReLU's input, B: y, C: result, E: p, q, r `[3, period]`, F: BatchNorm)."""
    period = a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        for i in range(first + v, last, period):
            count = min(LANES, last - i)
            store(a[C], i, count, join_counts(a[A], a[B], i, count, a[F], a[E], period, v))


@compiled
def mean_of(sums, pixels, mean):
    """`mean[c]` of sums by task `[tasks, C]`."""
    for c in range(sums.shape[1]):
        total = 0.0
        for task in range(len(sums)):
            total += float64(sums[task, c])
        mean[c] = float32(total / pixels)


@compiled
def norm_of(sums, pixels, eps, weight, bias, norm):
    """Rows of `norm` from the sums of squared distances and row 0, which is the mean: 1 / deviation, the
    scale and shift that a BatchNorm is. As PyTorch rounds them. Columns
    repeat after C, also of the rest. Row 0 of `sums` becomes the sum of all tasks."""
    channels = sums.shape[1]
    for c in range(channels):
        total = 0.0
        for task in range(len(sums)):
            total += float64(sums[task, c])
        variance = float32(float32(total) / float32(pixels))
        norm[1, c] = float32(1.0 / (float64(variance) + eps) ** 0.5)
        norm[2, c] = norm[1, c] * weight[c]
        norm[3, c] = fma(-norm[0, c], norm[2, c], bias[c])
        sums[0, c] = float32(total)
    for row in range(NORM_ROWS):
        for i in range(channels, norm.shape[1]):
            norm[row, i] = norm[row, i - channels]


@compiled
def track(mean, squares, pixels, momentum, running_mean, running_var):
    """Move running statistics, as a BatchNorm does."""
    for c in range(len(running_mean)):
        running_mean[c] = momentum * mean[c] + (1 - momentum) * running_mean[c]
        running_var[c] = momentum * squares[c] / (pixels - 1) + (1 - momentum) * running_var[c]


@compiled
def gradient_of_norm(sums, pixels, channels, factor, norm, coefficients, found):
    """What `_join` needs, `[3, period]`, from sums `[tasks, k, period]`; and `found` `[k, C]`: gradients of bias, scale
    and the rest. `factor` `[C]` multiplies the first."""
    tasks, kinds, period = sums.shape
    for c in range(channels):
        for k in range(kinds):
            total = 0.0
            for task in range(tasks):
                for i in range(c, period, channels):
                    total += float64(sums[task, k, i])
            if k == 0:
                bias = total
            elif k == 1:
                weight = total * float64(norm[1, c])
                found[1, c] = weight
            else:
                found[k, c] = total
        found[0, c] = bias
        scale = float64(norm[2, c]) * float64(factor[c])
        coefficients[0, c] = scale
        coefficients[1, c] = -scale * weight * float64(norm[1, c]) / pixels
        coefficients[2, c] = -scale * bias / pixels
    for row in range(3):
        for i in range(channels, period):
            coefficients[row, i] = coefficients[row, i - channels]


def _run(data):
    """Takes tasks of a pass until there are none left; any number of threads may run it on the same array."""
    a = carray(data, (ROOM,), types.int64)
    start = address_of(data)
    kind, slot = a[PASS], 0
    if kind in (CONVOLVE, GRADIENTS):
        slot = take(start + 8 * JOINED)
        each = a[SIZE] if kind == GRADIENTS else a[SIZE] // 4
        clear(a[SPACE] + 4 * each * slot, each)
    while True:
        task = take(start)
        if task >= a[TASKS]:
            break
        if kind == SUMS:
            _moments(a, task, False)
        elif kind == SQUARES:
            _moments(a, task, True)
        elif kind == SIGN:
            _sign(a, task)
        elif kind == FINISH:
            _finish(a, task)
        elif kind == UNFINISH:
            _unfinish(a, task)
        elif kind == JOIN:
            _join(a, task)
        elif kind == JOIN_COUNTS:
            _join_counts(a, task)
        elif kind == CONVOLVE:
            convolve(a, task, slot)
        elif kind == GRADIENTS:
            gradients(a, task, slot)
        elif kind == GATHER:
            gather(a, task)
        elif kind == POOL:
            pool(a, task)
        elif kind == UNPOOL:
            unpool(a, task)
        elif kind == HALVE:
            halve(a, task)
        elif kind == UNHALVE:
            unhalve(a, task)
        elif kind == NARROW:
            narrow(a, task)
        elif kind == WIDEN:
            widen(a, task)
        else:
            _unsign(a, task)


@functools.cache
def runner() -> Any:
    """`_run` as a C function of a pointer; compiled at the first call in an environment."""
    return numba.cfunc(types.void(types.voidptr), cache=keeps(), error_model="numpy")(_run)
