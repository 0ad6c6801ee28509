"""The binary convolutions of a block while it trains, an image at a time; compiled by numba.

Forward, signs of 16 channels become bits, and sums of products are counted by exclusive or and popcount: whole numbers,
so exactly what floats come to. Backward, the gradient of the result, the signs and the gradient of the input stay in a
core's second cache: `bnas.kernels.passes` calls one pass for all three. What lies where is in `geometry`, the inner
loops are in `tiles`. Weights are `[O, T, C]`, T taps row by row, as they lie in memory channels last.
"""

from __future__ import annotations

import numpy as np
from numba import float32

from bnas.kernels.geometry import (
    BYTES,
    CHUNK_COUNTS,
    CHUNK_OFFSETS,
    CHUNK_STARTS,
    CHUNKS,
    CLASSES,
    COLUMN_CLASSES,
    GRADIENT_LINE,
    GRADIENT_ROWS,
    HIGH,
    LEFT,
    LINE,
    PADDING,
    PHASES,
    ROW_CLASSES,
    ROWS,
    STRIDE,
    TAP_OFFSETS,
    TAPS,
    UP,
    WIDE,
    WORD_MASKS,
    WORD_OFFSETS,
    WORDS,
    C,
    H,
    O,
    W,
)
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
    LANES,
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

TAKEN, TASKS, PASS, PIXELS, CHANNELS, PERIOD, LENGTH = range(7)
"""Header of every pass: counter, number of tasks, pass; pixels P, channels C, a multiple of C and `LANES` after which
the pattern of channels over vectors repeats, and (elementwise passes) elements per task."""

PLAN, IMAGES, X, Y, NORM_IN, NORM_OUT, WEIGHTS, FIXES, INNER, COEFFICIENTS, OUT, PARTS, SUMS, STE, SPACE, SIZE = range(
    7, 23
)
"""Fields of a pass over images: address of the plan, number of images; then addresses of x, the counts y, both
BatchNorms' rows, weights, what counts are subtracted from, the gradient of the PReLU's input, the rows that make it
that of y, the result, sums by task of weights' gradients and of BatchNorm's; whether the sign is straight-through; room
to work in, and how many bytes (forward) or floats (backward) of it are each thread's."""

MEAN, INVERSE, SCALE, SHIFT, SLOPE, FACTOR, NORM_ROWS = range(7)
"""Rows of a BatchNorm: mean, 1 / deviation, the scale and shift that it is; slope of the PReLU behind it, and the
factor α by which what it normalises is multiplied first."""


@compiled
def clear(address, floats):
    """Zeros."""
    for i in range(0, floats, LANES):
        store(address, i, min(LANES, floats - i), splat(float32(0)))


@compiled
def _pack(plan, x, norm, period, frame):
    """The signs of BatchNorm's result, as bits, into their frame."""
    channels, line, pixel = number(plan, C), number(plan, LINE), number(plan, BYTES)
    scales, shifts, padding = norm + 4 * period * SCALE, norm + 4 * period * SHIFT, number(plan, PADDING)
    for y in range(number(plan, H)):
        to = frame + ((y + padding) * line + padding) * pixel
        for _ in range(number(plan, W)):
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
    plan = a[PLAN]
    channels, made, stride = number(plan, C), number(plan, O), number(plan, STRIDE)
    high, wide, line, pixel = number(plan, HIGH), number(plan, WIDE), number(plan, LINE), number(plan, BYTES)
    frame = a[SPACE] + slot * a[SIZE]
    period = a[PERIOD]
    _pack(plan, a[X] + 4 * image * number(plan, H) * number(plan, W) * channels, a[NORM_IN], period, frame)
    words = number(plan, WORDS)
    offsets, masks = plan + 8 * number(plan, WORD_OFFSETS), plan + 8 * number(plan, WORD_MASKS)
    classes = plan + 8 * number(plan, COLUMN_CLASSES)
    together = 8 if wide >= 8 else 4 if wide >= 4 else 1
    for y in range(high):
        row = number(plan, number(plan, ROW_CLASSES) + y)
        for first in range(0, made, LANES):
            weights = a[WEIGHTS] + 4 * first * words
            fixes = a[FIXES] + 4 * (first * number(plan, CLASSES) + row * LANES)
            for column in range(0, wide, together):
                x = min(column, wide - together)
                seen = frame + (y * stride * line + x * stride) * pixel
                out = a[OUT] + 2 * (((image * high + y) * wide + x) * made + first)
                rest = (offsets, masks, weights, fixes, classes + 8 * x, out, made, made - first)
                numbers = (seen, stride * pixel, words, *rest)
                if together == 8:
                    count_8(numbers)
                elif together == 4:
                    count_4(numbers)
                else:
                    count_1(numbers)


@compiled
def _spread_signs(plan, x, norm, period, seen):
    """The signs of BatchNorm's result, as floats, into their frame."""
    channels, line, padding = number(plan, C), number(plan, LINE), number(plan, PADDING)
    scales, shifts = norm + 4 * period * SCALE, norm + 4 * period * SHIFT
    for y in range(number(plan, H)):
        to = seen + 4 * ((y + padding) * line + padding) * channels
        for _ in range(number(plan, W)):
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
    plan = a[PLAN]
    made, high, wide = number(plan, O), number(plan, HIGH), number(plan, WIDE)
    line, part = number(plan, GRADIENT_LINE), LANES * number(plan, GRADIENT_ROWS) * number(plan, GRADIENT_LINE)
    i = image * high * wide * made
    for y in range(high):
        to = ((y + number(plan, UP)) * line + number(plan, LEFT)) * LANES
        for _ in range(wide):
            for o in range(0, made, LANES):
                count = min(LANES, made - o)
                value = join_counts(a[INNER], a[Y], i + o, count, a[NORM_OUT], a[COEFFICIENTS], period_of(made), o)
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
def _gradient_of_weights(plan, raw, seen, parts):
    """Adds an image's part to `parts` `[chunks, O in whole tiles, 16]`."""
    made, channels, stride = number(plan, O), number(plan, C), number(plan, STRIDE)
    line, rows, wide = number(plan, GRADIENT_LINE), number(plan, GRADIENT_ROWS), number(plan, WIDE)
    seen_line, chunks, high = number(plan, LINE) * channels * stride, number(plan, CHUNKS), number(plan, HIGH)
    at, pitch = number(plan, CHUNK_OFFSETS), (made + OUTPUTS - 1) // OUTPUTS * OUTPUTS * LANES
    raw += 4 * LANES * (number(plan, UP) * line + number(plan, LEFT))
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
                weights_3((*numbers, number(plan, at + k), number(plan, at + k + 1), number(plan, at + k + 2)))
            elif many == 2:
                weights_2((*numbers, number(plan, at + k), number(plan, at + k + 1)))
            else:
                weights_1((*numbers, number(plan, at + k)))
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
def _gradient_of_input(plan, raw, weights, out):
    """Gradient `[H, W, C]` of an image's signs; `weights` `[C / 16, T, O, 16]`, taps in the order of the plan."""
    made, channels, stride = number(plan, O), number(plan, C), number(plan, STRIDE)
    line, rows, taps = number(plan, GRADIENT_LINE), number(plan, GRADIENT_ROWS), number(plan, TAPS)
    part, all_rows, all_columns = rows * line * LANES, number(plan, H), number(plan, W)
    offsets = plan + 8 * number(plan, TAP_OFFSETS)
    for phase in range(stride * stride):
        at = number(plan, PHASES) + 2 * phase
        first, many = number(plan, at), number(plan, at + 1)
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
                        offsets + 8 * first,
                        many,
                        lanes,
                        made,
                    )
                    numbers = (*start, place, stride * all_columns * channels, stride * channels, channels - c)
                    if tile == 0:
                        inputs_first(numbers)
                    elif tile == 1:
                        inputs_second(numbers)
                    elif tile == 2:
                        inputs_third(numbers)
                    else:
                        inputs_one(numbers)


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
    """Of a range of images: gradients of the weights (`PARTS`), of the sign's input (`OUT`) and sums of it (`SUMS`)."""
    plan, period = a[PLAN], a[PERIOD]
    made, channels = number(plan, O), number(plan, C)
    size = number(plan, H) * number(plan, W) * channels
    seen = a[SPACE] + 4 * slot * a[SIZE]
    raw = seen + 4 * ((number(plan, ROWS) * number(plan, LINE) * channels + LANES) // LANES * LANES + LANES)
    whole = (made + OUTPUTS - 1) // OUTPUTS * OUTPUTS * LANES * number(plan, CHUNKS)
    parts, totals = a[PARTS] + 4 * task * whole, a[SUMS] + 8 * task * period
    clear(parts, whole)
    clear(totals, 2 * period)
    for image in range(task * a[IMAGES] // a[TASKS], (task + 1) * a[IMAGES] // a[TASKS]):
        x, out = a[X] + 4 * image * size, a[OUT] + 4 * image * size
        _spread_gradient(a, image, raw)
        _spread_signs(plan, x, a[NORM_IN], period, seen)
        _gradient_of_weights(plan, raw, seen, parts)
        _gradient_of_input(plan, raw, a[WEIGHTS], out)
        unsign(out, x, a[NORM_IN], period, 0, size, a[STE], totals)


@compiled
def gather(a, chunk):
    """The gradients of a chunk's latent weights: sums of all tasks' parts, where `|w| ≤ 1` (A to D: parts, how many,
    latent weights, result; PLAN)."""
    plan, tasks = a[PLAN], a[IMAGES]
    made, step = number(plan, O), number(plan, TAPS) * number(plan, C)
    first, count = number(plan, number(plan, CHUNK_STARTS) + chunk), number(plan, number(plan, CHUNK_COUNTS) + chunk)
    whole = (made + OUTPUTS - 1) // OUTPUTS * OUTPUTS * LANES
    for o in range(made):
        total = splat(float32(0))
        for task in range(tasks):
            total = total + load(a[PARTS], (task * number(plan, CHUNKS) + chunk) * whole + o * LANES, LANES)
        size = magnitude(load(a[WEIGHTS], o * step + first, count))
        one = splat(float32(1))
        store(a[OUT], o * step + first, count, where_positive(size - one, splat(float32(0)), total))


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
