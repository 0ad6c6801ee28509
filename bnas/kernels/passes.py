"""The elementwise passes of a binary block while it trains, compiled by numba (`bnas.nn.fused_block` calls them).

A map is channels last: `[P, C]` in one flat array, P = N · H · W. Every pass is cut into tasks whose number and borders
do not depend on who takes them, so results do not depend on how many threads do. A pass is a `records.Pass` (here `a`),
whose arrays are float32, or int16 for `y`. Rows of a BatchNorm are those of `bnas.kernels.convolution`.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import float32, float64, types

from bnas.kernels.convolution import (
    FACTOR,
    INVERSE,
    MEAN,
    NORM_ROWS,
    SCALE,
    SHIFT,
    SLOPE,
    clear,
    convolve,
    gather,
    gradients,
    join_counts,
    unsign,
)
from bnas.kernels.emitter import LANES
from bnas.kernels.numba_cache import compiled_for_c
from bnas.kernels.pooling import halve, narrow, pool, unhalve, unpool, widen
from bnas.kernels.records import JOINED, pass_at
from bnas.kernels.vectors import (
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
"""Values of `Pass.kind`."""


@compiled
def _bounds(a, task):
    """First and last element of an elementwise task."""
    first = task * a.length
    return first, min(first + a.length, a.pixels * a.channels)


@compiled
def _sum_lanes(a, task, first, last, channel, count):
    x, scale, step = a.x, a.factor, a.channels
    total = splat(float32(0))
    if scale == 0:
        for pixel in range(first, last):
            total = total + load(x, pixel * step + channel, count)
    else:
        factor = load(scale, channel, count)
        for pixel in range(first, last):
            total = total + load_counts(x, pixel * step + channel, count) * factor
    store(a.sums, task * step + channel, count, total)


@compiled
def _square_lanes(a, task, first, last, channel, count):
    x, scale, step = a.x, a.factor, a.channels
    mean = load(a.mean, channel, count)
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
    store(a.sums, task * step + channel, count, total)


@compiled
def _moments(a, task, squares):
    """Sums by task `[tasks, C]` over its range of pixels of x, or of squared distances from the means.

    x are counts where there is a factor. Pixels are added one after another, as PyTorch adds them.
    """
    pixels, channels = a.pixels, a.channels
    each = (pixels + a.tasks - 1) // a.tasks
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
    """`sign(scale · x + shift)`."""
    x, out, period = a.x, a.out, a.period
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        scale, shift = load(a.norm_in, SCALE * period + v, LANES), load(a.norm_in, SHIFT * period + v, LANES)
        i = first + v
        while i + LANES <= last:
            store(out, i, LANES, signs(fma(load(x, i, LANES), scale, shift)))
            i += period
        if i < last:
            store(out, i, last - i, signs(fma(load(x, i, last - i), scale, shift)))


@compiled
def _finish_one(a, i, count, rows):
    scale, shift, slope, factor = rows
    z = fma(load_counts(a.y, i, count) * factor, scale, shift) + load(a.shortcut, i, count)
    store(a.out, i, count, where_positive(z, z, slope * z))


@compiled
def _rows(norm, period, v):
    scale, shift = load(norm, SCALE * period + v, LANES), load(norm, SHIFT * period + v, LANES)
    return scale, shift, load(norm, SLOPE * period + v, LANES), load(norm, FACTOR * period + v, LANES)


@compiled
def _finish(a, task):
    """`PReLU(scale · α · y + shift + shortcut)`."""
    period = a.period
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        rows = _rows(a.norm_out, period, v)
        i = first + v
        while i + LANES <= last:
            _finish_one(a, i, LANES, rows)
            i += period
        if i < last:
            _finish_one(a, i, last - i, rows)


@compiled
def _unfinish_one(a, i, at, count, rows, mean, sums):
    scale, shift, slope, factor = rows
    y, grad = load_counts(a.y, i, count) * factor, load(a.gradient, at, count)
    z = fma(y, scale, shift) + load(a.shortcut, i, count)
    inner = where_positive(z, grad, slope * grad)
    store(a.out, i, count, inner)
    none = splat(float32(0))
    return sums[0] + inner, fma(inner, y - mean, sums[1]), sums[2] + where_positive(z, none, grad * z)


@compiled
def _unfinish(a, task):
    """Gradient of the PReLU's input z from that of its result, and sums `[tasks, 3, period]` by channel of it, of it
    times `α · y − mean`, and of the slope's gradient."""
    period = a.period
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        rows, mean = _rows(a.norm_out, period, v), load(a.norm_out, v, LANES)
        none = splat(float32(0))
        sums = (none, none, none)
        i, at = first + v, first // period * a.pitch + v
        while i + LANES <= last:
            sums = _unfinish_one(a, i, at, LANES, rows, mean, sums)
            i += period
            at += a.pitch
        if i < last:
            sums = _unfinish_one(a, i, at, last - i, rows, mean, sums)
        for k in range(3):
            store(a.sums, (task * 3 + k) * period + v, LANES, sums[k])


@compiled
def _unsign(a, task):
    """`unsign` of a task's elements, in place, and its sums `[tasks, 2, period]`."""
    first, last = _bounds(a, task)
    totals = a.sums + 8 * task * a.period
    clear(totals, 2 * a.period)
    unsign(a.gradient, a.x, a.norm_in, a.period, first, last, a.ste, totals)


@compiled
def _join_one(a, i, count, p, q, r, mean):
    value = fma(load(a.x, i, count) - mean, q, r)
    if a.gradient != 0:
        value = fma(load(a.gradient, i, count), p, value)
    if a.other != 0:
        value = value + load(a.other, i, count)
    store(a.out, i, count, value)


@compiled
def _join(a, task):
    """`p · gradient + q · (x − mean) + r + other`: gradient of a BatchNorm's input; both maps may be missing."""
    period = a.period
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        p, q, r = (
            load(a.coefficients, v, LANES),
            load(a.coefficients, period + v, LANES),
            load(a.coefficients, 2 * period + v, LANES),
        )
        mean = load(a.norm_in, v, LANES)
        i = first + v
        while i + LANES <= last:
            _join_one(a, i, LANES, p, q, r, mean)
            i += period
        if i < last:
            _join_one(a, i, last - i, p, q, r, mean)


@compiled
def _join_counts(a, task):
    """Gradient of the counts from that of the PReLU's input."""
    period = a.period
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        for i in range(first + v, last, period):
            count = min(LANES, last - i)
            store(a.out, i, count, join_counts(a.inner, a.y, i, count, a.norm_out, a.coefficients, period, v))


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
    """Fills a BatchNorm's rows from its means and the sums by task of squared distances from them, rounded as PyTorch
    rounds: 1 / deviation, and the scale and shift that the BatchNorm is.

    Channels are repeated up to the period, also those of the other rows. `sums[0]` becomes the sum of all tasks.
    """
    channels = sums.shape[1]
    for c in range(channels):
        total = 0.0
        for task in range(len(sums)):
            total += float64(sums[task, c])
        variance = float32(float32(total) / float32(pixels))
        norm[INVERSE, c] = float32(1.0 / (float64(variance) + eps) ** 0.5)
        norm[SCALE, c] = norm[INVERSE, c] * weight[c]
        norm[SHIFT, c] = fma(-norm[MEAN, c], norm[SCALE, c], bias[c])
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
def gradient_of_norm(sums, pixels, channels, factor, norm, coefficients, grads):
    """`coefficients` `[3, period]`, from which `_join` makes the gradient of a BatchNorm's input, and `grads` `[k, C]`,
    gradients of shift, scale and the rest, from sums `[tasks, k, period]`; `factor` `[C]` multiplies the BatchNorm's
    input first."""
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
                weight = total * float64(norm[INVERSE, c])
                grads[1, c] = weight
            else:
                grads[k, c] = total
        grads[0, c] = bias
        scale = float64(norm[SCALE, c]) * float64(factor[c])
        coefficients[0, c] = scale
        coefficients[1, c] = -scale * weight * float64(norm[INVERSE, c]) / pixels
        coefficients[2, c] = -scale * bias / pixels
    for row in range(3):
        for i in range(channels, period):
            coefficients[row, i] = coefficients[row, i - channels]


def _run(data):
    """Takes tasks of a pass until there are none left; any number of threads may run it on the same array."""
    start = address_of(data)
    a = pass_at(start)
    kind, slot = a.kind, 0
    if kind in (CONVOLVE, GRADIENTS):
        slot = take(start + JOINED)
        each = a.size if kind == GRADIENTS else a.size // 4
        clear(a.space + 4 * each * slot, each)
    while True:
        task = take(start)
        if task >= a.tasks:
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
    return compiled_for_c(types.void(types.voidptr))(_run)
