"""The binary convolutions of a block while it trains, an image at a time; compiled by numba.

Forward, signs of 16 channels become bits, and sums of products are counted by exclusive or and popcount: whole numbers,
so exactly what floats come to. Backward, the gradient of the result, the signs and the gradient of the input stay in a
core's second cache: `bnas.kernels.passes` calls one pass for all three. What lies where is in `geometry`, the inner
loops are in `tiles`. Weights are `[O, T, C]`, T taps row by row, as they lie in memory channels last.
"""

from __future__ import annotations

import numpy as np
from numba import float32

from bnas.kernels.emitter import LANES
from bnas.kernels.records import geometry_at
from bnas.kernels.tiles import (
    MOST_CHUNKS,
    OUTPUTS,
    TILES,
    TOGETHER,
    count_1,
    count_4,
    count_8,
    inputs_first,
    inputs_one,
    inputs_second,
    inputs_third,
    weights_1,
    weights_2,
    weights_3,
)
from bnas.kernels.vectors import (
    bits,
    compiled,
    fma,
    load,
    load_counts,
    magnitude,
    number,
    popcount,
    signs,
    splat,
    store,
    store_bits,
    where_positive,
)

MEAN, INVERSE, SCALE, SHIFT, SLOPE, FACTOR, NORM_ROWS = range(7)
"""Rows of a BatchNorm: mean, 1 / deviation, the scale and shift that it is; slope of the PReLU behind it, and the
factor α by which what it normalises is multiplied first."""


@compiled
def clear(address, floats):
    """Zeros."""
    for i in range(0, floats, LANES):
        store(address, i, min(LANES, floats - i), splat(float32(0)))


@compiled
def _pack(g, x, norm, period, frame):
    """The signs of BatchNorm's result, as bits, into their frame."""
    channels, line, pixel = g.channels, g.frame_line, g.pixel_bytes
    scales, shifts, padding = norm + 4 * period * SCALE, norm + 4 * period * SHIFT, g.padding
    for y in range(g.rows):
        to = frame + ((y + padding) * line + padding) * pixel
        for _ in range(g.columns):
            for c in range(0, channels - LANES + 1, LANES):
                value = fma(load(x, c, LANES), load(scales, c, LANES), load(shifts, c, LANES))
                store_bits(to + c // 8, LANES, value)
            c = channels // LANES * LANES
            if c < channels:
                count = channels - c
                value = fma(load(x, c, count), load(scales, c, count), load(shifts, c, count))
                store_bits(to + c // 8, count, value)
            x += 4 * channels
            to += pixel


@compiled
def convolve(a, image, slot):
    """Counts `[H', W', O]` (int16) of one image: the sums of products of its signs and those of the weights."""
    g = geometry_at(a.plan)
    channels, made, stride = g.channels, g.made, g.stride
    high, wide, line, pixel = g.high, g.wide, g.frame_line, g.pixel_bytes
    frame = a.space + slot * a.size
    period = a.period
    _pack(g, a.x + 4 * image * g.rows * g.columns * channels, a.norm_in, period, frame)
    words = g.words
    offsets, masks = g.word_offsets, g.word_masks
    classes = g.column_classes
    together = 8 if wide >= 8 else 4 if wide >= 4 else 1
    for y in range(high):
        row = number(g.row_classes, y)
        for first in range(0, made, LANES):
            weights = a.weights + 4 * first * words
            fixes = a.fixes + 4 * (first * g.classes + row * LANES)
            for column in range(0, wide, together):
                x = min(column, wide - together)
                seen = frame + (y * stride * line + x * stride) * pixel
                out = a.out + 2 * (((image * high + y) * wide + x) * made + first)
                rest = (offsets, masks, weights, fixes, classes + 8 * x, out, made, made - first)
                numbers = (seen, stride * pixel, words, *rest)
                if together == 8:
                    count_8(*numbers)
                elif together == 4:
                    count_4(*numbers)
                else:
                    count_1(*numbers)


@compiled
def _spread_signs(g, x, norm, period, seen):
    """The signs of BatchNorm's result, as floats, into their frame."""
    channels, line, padding = g.channels, g.frame_line, g.padding
    scales, shifts = norm + 4 * period * SCALE, norm + 4 * period * SHIFT
    for y in range(g.rows):
        to = seen + 4 * ((y + padding) * line + padding) * channels
        for _ in range(g.columns):
            for c in range(0, channels, LANES):
                count = min(LANES, channels - c)
                value = fma(load(x, c, count), load(scales, c, count), load(shifts, c, count))
                store(to, c, count, signs(value))
            x += 4 * channels
            to += 4 * channels


@compiled
def join_counts(inner, y, i, count, norm, rows, period, c):
    """`p · inner + q · (α · y − mean) + r` for channels from c on: the gradient of a count."""
    value = load_counts(y, i, count) * load(norm, FACTOR * period + c, LANES) - load(norm, c, LANES)
    value = fma(value, load(rows, period + c, LANES), load(rows, 2 * period + c, LANES))
    return fma(load(inner, i, count), load(rows, c, LANES), value)


@compiled
def _spread_gradient(a, image, raw):
    """The gradient of the counts into its frame, 16 channels after the other."""
    g = geometry_at(a.plan)
    made, high, wide = g.made, g.high, g.wide
    line, part = g.gradient_line, LANES * g.gradient_rows * g.gradient_line
    i = image * high * wide * made
    for y in range(high):
        to = ((y + g.up) * line + g.left) * LANES
        for _ in range(wide):
            for o in range(0, made, LANES):
                count = min(LANES, made - o)
                value = join_counts(a.inner, a.y, i + o, count, a.norm_out, a.coefficients, period_of(made), o)
                store(raw, o // LANES * part + to, LANES, value)
            i += made
            to += LANES


@compiled
def period_of(channels):
    """Elements after which the pattern of channels over vectors repeats."""
    x, y = channels, LANES
    while y:
        x, y = y, x % y
    return channels // x * LANES


@compiled
def _gradient_of_weights(g, raw, seen, parts):
    """Adds an image's part to `parts` `[chunks, O in whole tiles, 16]`."""
    made, channels, stride = g.made, g.channels, g.stride
    line, rows, wide = g.gradient_line, g.gradient_rows, g.wide
    seen_line, chunks, high = g.frame_line * channels * stride, g.chunks, g.high
    offsets, pitch = g.chunk_offsets, (made + OUTPUTS - 1) // OUTPUTS * OUTPUTS * LANES
    raw += 4 * LANES * (g.up * line + g.left)
    k = 0
    while k < chunks:
        many = min(MOST_CHUNKS, chunks - k)
        if many == 3 and chunks - k == 4:
            many = 2
        for o in range(0, made, TOGETHER):
            gradient = raw + 4 * (o // LANES * LANES * rows * line + o % LANES)
            out = parts + 4 * (k * pitch + o * LANES)
            numbers = (gradient, line * LANES, seen, seen_line, stride * channels, high, wide, out, pitch)
            if many == 3:
                weights_3(*numbers, (number(offsets, k), number(offsets, k + 1), number(offsets, k + 2)))
            elif many == 2:
                weights_2(*numbers, (number(offsets, k), number(offsets, k + 1)))
            else:
                weights_1(*numbers, (number(offsets, k),))
        k += many


@compiled
def _tile_for(high, wide):
    """The tile, out of `TILES`, that covers a map with the least work: pixels, and one more for each tile."""
    best, least = len(TILES) - 1, np.int64(0)
    for tile in range(len(TILES) - 1):
        tall, broad = TILES[tile]
        if tall <= high and broad <= wide:
            work = ((high + tall - 1) // tall) * ((wide + broad - 1) // broad) * (tall * broad + 1)
            if least == 0 or work < least:
                best, least = tile, work
    return best


@compiled
def _gradient_of_input(g, raw, weights, out):
    """Gradient `[H, W, C]` of an image's signs; `weights` `[C / 16, T, O, 16]`, taps in the order of the plan."""
    made, channels, stride = g.made, g.channels, g.stride
    line, rows, taps = g.gradient_line, g.gradient_rows, g.taps
    part, all_rows, all_columns = rows * line * LANES, g.rows, g.columns
    for phase in range(stride * stride):
        first, many = number(g.phases, 2 * phase), number(g.phases, 2 * phase + 1)
        top, side = phase // stride, phase % stride
        high, wide = (all_rows - top + stride - 1) // stride, (all_columns - side + stride - 1) // stride
        tile = _tile_for(high, wide)
        tall, broad = TILES[tile]
        for c in range(0, channels, LANES):
            lanes = weights + 4 * LANES * made * (c // LANES * taps + first)
            for row in range(0, high, tall):
                y = min(row, high - tall)
                for column in range(0, wide, broad):
                    x = min(column, wide - broad)
                    place = out + 4 * (((y * stride + top) * all_columns + x * stride + side) * channels + c)
                    start = (
                        raw + 4 * LANES * (y * line + x),
                        line * LANES,
                        part,
                        g.tap_offsets + 8 * first,
                        many,
                        lanes,
                        made,
                    )
                    numbers = (*start, place, stride * all_columns * channels, stride * channels, channels - c)
                    if tile == 0:
                        inputs_first(*numbers)
                    elif tile == 1:
                        inputs_second(*numbers)
                    elif tile == 2:
                        inputs_third(*numbers)
                    else:
                        inputs_one(*numbers)


@compiled
def _unsign_one(grad, x, i, count, norm, ste, sums):
    scale, shift, mean = norm
    value = load(x, i, count)
    size = magnitude(fma(value, scale, shift))
    none, one, two = splat(float32(0)), splat(float32(1)), splat(float32(2))
    if ste == 0:
        slope = two - two * size
        slope = where_positive(slope, slope, none)
    else:
        slope = where_positive(size - one, none, one)
    inner = load(grad, i, count) * slope
    store(grad, i, count, inner)
    return sums[0] + inner, fma(inner, value - mean, sums[1])


@compiled
def unsign(grad, x, norm, period, first, last, ste, totals):
    """Gradient of the sign's input from that of the sign, in place, for elements `first` to `last`; adds the sums by
    channel of it, and of it times `x − mean`, to `totals` `[2, period]`."""
    for v in range(0, period, LANES):
        rows = (load(norm, SCALE * period + v, LANES), load(norm, SHIFT * period + v, LANES), load(norm, v, LANES))
        sums = (load(totals, v, LANES), load(totals, period + v, LANES))
        i = first + v
        while i + LANES <= last:
            sums = _unsign_one(grad, x, i, LANES, rows, ste, sums)
            i += period
        if i < last:
            sums = _unsign_one(grad, x, i, last - i, rows, ste, sums)
        for k in range(2):
            store(totals, k * period + v, LANES, sums[k])


@compiled
def gradients(a, task, slot):
    """Of a task's images: gradients of the weights (`parts`), of the sign's input (`out`) and sums of this (`sums`)."""
    g, period = geometry_at(a.plan), a.period
    made, channels = g.made, g.channels
    size = g.rows * g.columns * channels
    seen = a.space + 4 * slot * a.size
    raw = seen + 4 * g.seen_floats
    whole = (made + OUTPUTS - 1) // OUTPUTS * OUTPUTS * LANES * g.chunks
    parts, totals = a.parts + 4 * task * whole, a.sums + 8 * task * period
    clear(parts, whole)
    clear(totals, 2 * period)
    for image in range(task * a.images // a.tasks, (task + 1) * a.images // a.tasks):
        x, out = a.x + 4 * image * size, a.out + 4 * image * size
        _spread_gradient(a, image, raw)
        _spread_signs(g, x, a.norm_in, period, seen)
        _gradient_of_weights(g, raw, seen, parts)
        _gradient_of_input(g, raw, a.weights, out)
        unsign(out, x, a.norm_in, period, 0, size, a.ste, totals)


@compiled
def gather(a, chunk):
    """The gradients of a chunk's latent weights: sums of all `parts`, where `|w| ≤ 1`; 0 for the other weights."""
    g, tasks = geometry_at(a.plan), a.part_count
    made, step = g.made, g.taps * g.channels
    first, count = number(g.chunk_starts, chunk), number(g.chunk_counts, chunk)
    whole = (made + OUTPUTS - 1) // OUTPUTS * OUTPUTS * LANES
    for o in range(made):
        total = splat(float32(0))
        for task in range(tasks):
            total = total + load(a.parts, (task * g.chunks + chunk) * whole + o * LANES, LANES)
        size = magnitude(load(a.weights, o * step + first, count))
        one = splat(float32(1))
        store(a.out, o * step + first, count, where_positive(size - one, splat(float32(0)), total))


@compiled
def prepare_counts(latent, shape, lacking, together, words, fixes):
    """Signs of weights `[O, T, C]` at an address as `words` `[O / 16, words, 16, 4]` bytes, so many taps together; and
    `fixes` `[O / 16, classes, 16]`: what twice the count is subtracted from, for classes that lack taps `lacking`.

    A tap over the border meets bits that are 0: those that count there are added again."""
    made, taps, channels = shape
    each, pixel = words.shape[1] * together // taps, (channels + 7) // 8
    words[:] = 0
    excess = np.empty((taps, LANES), np.int32)
    for block in range(len(words)):
        for tap in range(taps):
            first, byte = tap // together * each, tap % together * pixel
            for lane in range(min(LANES, made - block * LANES)):
                row = ((block * LANES + lane) * taps + tap) * channels
                count = 0
                for c in range(0, channels, LANES):
                    found = bits(load(latent, row + c, min(LANES, channels - c)), channels - c)
                    count += popcount(found)
                    to = byte + c // 8
                    words[block, first + to // 4, lane, to % 4] = found & 255
                    if channels - c > 8:
                        words[block, first + (to + 1) // 4, lane, (to + 1) % 4] = found >> 8
                excess[tap, lane] = 2 * count - channels
        for case in range(len(lacking)):
            fixes[block, case] = taps * channels
            for tap in range(taps):
                if lacking[case, tap]:
                    for lane in range(LANES):
                        fixes[block, case, lane] += excess[tap, lane]


@compiled
def prepare_gradient(latent, shape, order, out):
    """Signs of weights `[O, T, C]` at an address as `[C / 16, T, O, 16]`, taps in the given order."""
    made, taps, channels = shape
    to = 0
    for c in range(0, channels, LANES):
        for tap in order:
            for o in range(made):
                value = load(latent, (o * taps + tap) * channels + c, min(LANES, channels - c))
                store(out, to, LANES, signs(value))
                to += LANES
