"""What a frozen supernet computes on a whole mini-batch, compiled by numba: blocks, sums and statistics of maps.

Unlike packed inference (`bnas.packed.kernels`, whose parts are used here), every BatchNorm normalises by the mini-batch
itself. A map is float32 `[C, N, H, W]` in one flat array with room behind its end, since rows are computed a vector at
a time. The convolution of signs is a whole number at every position, so the sums behind a BatchNorm's statistics are
exact, and what it does is one multiplication and one addition; other statistics are summed in float64.
"""

from __future__ import annotations

import numpy as np

from bnas.kernels import numba_cache
from bnas.kernels.emitter import LANES
from bnas.packed import kernels as k
from bnas.packed.lanes import POSITIONS, TOGETHER, count_differences, max_row, mean_row, sum_row, thin_row

compiled = numba_cache.compiled()

_summing = numba_cache.compiled(fastmath={"reassoc", "contract"})
"""Sums in an order that vectors allow; they are in float64, and seen in float32."""


@_summing
def _channel_moments(x):
    """Mean and variance of one channel."""
    total, squares = 0.0, 0.0
    for i in range(len(x)):
        value = np.float64(x[i])
        total += value
        squares += value * value
    mean = total / len(x)
    return mean, squares / len(x) - mean * mean


@compiled
def moments(x, pixels, mean, variance):
    """Mean and (biased) variance of each channel of x `[C, pixels]`, float64 `[C]`."""
    for channel in range(len(mean)):
        mean[channel], variance[channel] = _channel_moments(x[channel * pixels : (channel + 1) * pixels])


@compiled
def _add(a, b, out):
    for i in range(len(out)):
        out[i] = a[i] + b[i]


@compiled
def add(a, b, out, pixels, mean, variance):
    """`out = a + b`, and the moments of that, channel by channel; all maps `[C, pixels]`."""
    for channel in range(len(mean)):
        start, end = channel * pixels, (channel + 1) * pixels
        _add(a[start:end], b[start:end], out[start:end])
        mean[channel], variance[channel] = _channel_moments(out[start:end])


@_summing
def means(x, images, pixels, out):
    """Mean over the pixels of every image of x `[C · images, pixels]`, float32 `[C · images]`."""
    for image in range(images):
        total = 0.0
        for i in range(image * pixels, (image + 1) * pixels):
            total += np.float64(x[i])
        out[image] = np.float32(total / pixels)


@compiled
def _signs(x, mean, variance, values, planes, flat, n, p):
    """Bit c of a byte is set where `BN(x) ≥ 0` in channel c of its eight; planes as in `bnas.packed.kernels`."""
    pixels, channels, depth = n * p.height * p.width, p.channels, p.channels // p.groups
    size = n * p.rows * p.line * p.stride * p.stride
    k.fill_with(planes, 0, size * p.planes + (p.line + 1) * p.padding, np.uint8(0))
    at = 0
    for group in range(p.groups):
        for part in range(0, depth, 8):
            k.fill_with(flat, 0, pixels, np.uint8(0))
            for bit in range(min(8, depth - part)):
                channel = group * depth + part + bit
                seen = x[channel * pixels : (channel + 1) * pixels]
                wide = values[channel] / np.sqrt(variance[channel] + values[-2])
                scale, shift = np.float32(wide), np.float32(values[channels + channel] - mean[channel] * wide)
                mark = np.uint8(1 << bit)
                for i in range(pixels):
                    flat[i] |= mark if seen[i] * scale + shift >= np.float32(0) else np.uint8(0)
            k.spread(flat, planes[at:], np.uint8(0), n, p)
            at += size


@compiled
def _sum_moments(counts, fixes, at, o, rows, line, totals, n, p):
    """Mean and variance of output channel o's sums of products, from exact sums of them and of their squares."""
    h, w = p.high, p.wide
    totals[:] = 0
    for image in range(n):
        position = at + image * rows * line
        if line == w:  # no padding, so an image is one long row
            sum_row(totals, counts, fixes, position, o * h * w, h * w)
            continue
        for y in range(h):
            sum_row(totals, counts, fixes, position + y * line, (o * h + y) * w, w)
    total, squares, count = np.int64(0), np.int64(0), n * h * w
    for lane in range(LANES):
        total += totals[lane]
        squares += totals[LANES + lane]
    mean = total / count
    return mean, squares / count - mean * mean


@compiled
def block(x, mean, variance, out, values, tables, scratch, n, steps):
    """A `BinaryBlock` on x `[C, n, H, W]` with its channels' moments; `steps[0]` is its step of a packed program.

    `values` float64: scale and shift before the sign `[2, C]`; α, scale, shift and slope after it `[4, O]`; the two
    BatchNorms' ε. Of `tables` only weights, taps and fixes are read.
    """
    p, counts, fixes = steps[0], scratch.counts, tables.fixes
    _signs(x, mean, variance, values, scratch.signs, scratch.flat, n, p)
    shortcut = k.shortcut_of(x, scratch.shortcuts, n, p)
    distances = k.tap_distances(tables.taps, n, p)
    planes, rows, line, group_size = k.planes_of_taps(scratch.signs, scratch.dense, distances, n, p)
    have, made, taps, pixels, size = p.channels, p.made, p.tap_count, n * p.high * p.wide, n * rows * line
    pitch = (size + POSITIONS - 1) // POSITIONS * POSITIONS
    per_group, tiles, weight, o = made // p.groups, min(have, made), 0, 0
    totals = np.empty(2 * LANES, np.int64)
    for group in range(p.groups):
        for first in range(0, per_group, TOGETHER):
            for start in range(0, size, POSITIONS):
                at = group * group_size + start
                count_differences(counts, planes, tables.weights, distances, at, weight, taps, start, pitch)
            weight += taps * TOGETHER
            for one in range(min(TOGETHER, per_group - first)):
                at = 2 * have + o
                m, v = _sum_moments(counts, fixes, one * pitch, o, rows, line, totals, n, p)
                alpha = values[at]
                scale = values[at + made] * alpha / np.sqrt(alpha * alpha * v + values[-1])
                shift = values[at + 2 * made] - m * scale
                affine = (np.float32(scale), np.float32(shift), np.float32(values[at + 3 * made]))
                to = o % tiles * pixels
                k.finish_channel(out, counts, fixes, shortcut, one * pitch, to, affine, o, rows, line, n, p)
                o += 1


@compiled
def halve(x, out, n, steps):
    """Averages of 2×2 of all channels of x `[C, n, H, W]`; `steps[0]` is that step of a packed program."""
    k.halve(x, out, n, steps[0])


@compiled
def pool(x, out, spare, largest, stride, h, w):
    """Maximum or mean of 3×3 around every `stride`-th row and column of x `[C, n, H, W]`; see `lanes.max_row`."""
    high, wide = (h + stride - 1) // stride, (w + stride - 1) // stride
    made = out if stride == 1 else spare
    for image in range(len(x) // (h * w)):
        for y in range(high):
            at, to = (image * h + y * stride) * w, (image * high + y) * wide
            above = at - w if y > 0 else -1
            below = at + w if y * stride + 1 < h else -1
            first = to if stride == 1 else 0
            if largest:
                max_row(made, x, first, at, above, below, w)
            else:
                mean_row(made, x, first, at, above, below, w)
            if stride == 2:
                thin_row(out, spare, to, 0, w, np.float32(0))
