"""XNOR and popcount, and what lies between, compiled by numba: equal to `bnas.packed.reference` bit for bit.

A block of images is computed at once; a map is `[C, B, H, W]` in one flat array, so that every loop over a channel is
long and contiguous. Signs are packed into planes of bytes, eight channels each: `[planes, B, rows, columns]`, with
zeros around every image. A row's right border is the next row's left border, and an image's lower border the next
image's upper one; under stride 2 there is a plane for each parity of row and column, so that a tap of the convolution
is always a constant distance in a plane. Then 64 positions are computed by one exclusive or, one popcount and one
addition a byte.

Taps over the border meet zero bits there and count as −1 · weight; `fix` [ours] holds, for every output and position,
the number of real taps plus twice the set weight bits over the border, so that `fix − 2 · popcount` is the exact sum.

On a small map with wide borders most positions would be border: there, if many outputs share the work, what each tap
sees is first copied together without borders.
"""

from __future__ import annotations

import numpy as np

from bnas.kernels import numba_cache
from bnas.packed.lanes import POSITIONS, TOGETHER, copy_row, count_differences, finish_row, halve_row, thin_row

# Columns of a program, one row per step: what to do, where maps lie (in floats per image), and shapes.
OP, SOURCE, OUT, OTHER, C_IN, H_IN, W_IN, C_OUT, H_OUT, W_OUT, STRIDE, PADDING, GROUPS = range(13)
# Where the step's parameters lie, and the geometry of its planes.
FLOATS, THRESHOLDS, WEIGHTS, TAPS, TAP_COUNT, FIX, PLANES, ROWS, LINE, DENSE = range(13, 23)
RELU = 23
COLUMNS = 24

STEM, BLOCK, HALVE, MAX, AVG, SUM, CLASSIFY, SHUFFLE, NONE = range(9)
"""Values of the column OP."""


compiled = numba_cache.compiled()


@compiled
def _fill(out, start, count, value):
    """Loops, here and below, where numpy's slices would compile for seconds."""
    for i in range(start, start + count):
        out[i] = value


@compiled
def _copy(out, to, x, at, count):
    for i in range(count):
        out[to + i] = x[at + i]


@compiled
def _spread(values, planes, fill, block, p):
    """One channel `[B, H, W]` into its planes `[stride², B, rows, line]`, as the module's text says; stride 1 or 2."""
    h, w, stride, padding, rows, line = p[H_IN], p[W_IN], p[STRIDE], p[PADDING], p[ROWS], p[LINE]
    if stride == 1:
        for image in range(block):
            for y in range(h):
                to = (image * rows + y + padding) * line + padding
                copy_row(planes, values, (to, (image * h + y) * w, w), (fill,))
        return
    for plane in range(4):  # one after another, since a row is filled up past its end
        y0, x0 = (plane // 2 - padding) % 2, (plane % 2 - padding) % 2
        for image in range(block):
            first = (plane * block + image) * rows
            for y in range(y0, h, 2):
                to = (first + (y + padding) // 2) * line + (x0 + padding) // 2
                thin_row(planes, values, (to, (image * h + y) * w + x0, w - x0), (fill,))


@compiled
def _distances(taps, block, p):
    """How far each tap lies from a position in the planes of a block of images."""
    size = block * p[ROWS] * p[LINE]
    found = np.empty(p[TAP_COUNT], np.int64)
    for tap in range(p[TAP_COUNT]):
        found[tap] = taps[p[TAPS] + tap, 0] * size + taps[p[TAPS] + tap, 1]
    return found


@compiled
def _pack(x, thresholds, planes, flat, block, p):
    """Bit c of a byte is set where `x ≥ threshold` in channel c of its eight; x `[C, B, H, W]`."""
    pixels, depth = block * p[H_IN] * p[W_IN], p[C_IN] // p[GROUPS]
    size = block * p[ROWS] * p[LINE] * p[STRIDE] * p[STRIDE]
    _fill(planes, 0, size * p[PLANES] + (p[LINE] + 1) * p[PADDING], np.uint8(0))
    at = 0
    for group in range(p[GROUPS]):
        for part in range(0, depth, 8):
            _fill(flat, 0, pixels, np.uint8(0))
            for bit in range(min(8, depth - part)):
                channel = group * depth + part + bit
                values = x[channel * pixels : (channel + 1) * pixels]
                threshold, mark = thresholds[p[THRESHOLDS] + channel], np.uint8(1 << bit)
                for i in range(pixels):
                    flat[i] |= mark if values[i] >= threshold else np.uint8(0)
            _spread(flat, planes[at:], np.uint8(0), block, p)
            at += size


@compiled
def _halve(x, out, block, p):
    """Average of 2×2 for all channels of x; at an odd border of what there is."""
    h, w, high, wide = p[H_IN], p[W_IN], p[H_OUT], p[W_OUT]
    for plane in range(p[C_IN] * block):
        for y in range(high):
            at = (plane * h + 2 * y) * w
            halve_row(out, x, ((plane * high + y) * wide, at, at + w if 2 * y + 1 < h else -1, w))


@compiled
def _shortcut(x, spare, block, p):
    """What the block adds to its convolution: x, halved and narrowed as need be; widening is left to its reader."""
    have, made, pixels = p[C_IN], p[C_OUT], block * p[H_OUT] * p[W_OUT]
    if p[STRIDE] == 2:
        _halve(x, spare, block, p)
        x, spare = spare, spare[have * pixels :]
    if have <= made:
        return x
    for j in range(made):
        first, end = j * have // made, ((j + 1) * have + made - 1) // made
        share = np.float32(1) / np.float32(end - first)
        total = spare[j * pixels : (j + 1) * pixels]
        _fill(spare, j * pixels, pixels, np.float32(0))
        for c in range(first, end):
            values = x[c * pixels : (c + 1) * pixels]
            for i in range(pixels):
                total[i] += values[i] * share
    return spare


@compiled
def _finish(out, counts, fixes, shortcut, at, shortcut_at, numbers, o, rows, line, block, p):
    """Output channel o, whose counts begin at `at` and whose shortcut at `shortcut_at`."""
    h, w = p[H_OUT], p[W_OUT]
    fix = p[FIX] + o * h * w
    for image in range(block):
        pixel, position = image * h * w, at + image * rows * line
        if line == w:  # no padding, so an image is one long row
            where = (o * block * h * w + pixel, position, fix, shortcut_at + pixel, h * w)
            finish_row(out, counts, fixes, shortcut, where, numbers)
            continue
        for y in range(h):
            done = pixel + y * w
            where = (o * block * h * w + done, position + y * line, fix + y * w, shortcut_at + done, w)
            finish_row(out, counts, fixes, shortcut, where, numbers)


@compiled
def _gather(planes, dense, distances, group_size, block, p):
    """What every tap of every group sees, `[groups, taps, B, H', W']`, and the taps' distances in that."""
    h, w, rows, line = p[H_OUT], p[W_OUT], p[ROWS], p[LINE]
    to = 0
    for group in range(p[GROUPS]):
        for tap in range(p[TAP_COUNT]):
            for image in range(block):
                at = group * group_size + distances[tap] + image * rows * line
                for y in range(h):
                    copy_row(dense, planes, (to, at + y * line, w), (np.uint8(0),))
                    to += w
    for tap in range(p[TAP_COUNT]):
        distances[tap] = tap * block * h * w


@compiled
def _block(x, out, tables, planes, dense, flat, counts, spare, block, p):
    """`bnas.packed.layout.Block` on a block of images."""
    floats, thresholds, weights, taps, fixes = tables
    _pack(x, thresholds, planes, flat, block, p)
    shortcut = _shortcut(x, spare, block, p)
    distances = _distances(taps, block, p)
    have, made, groups, number = p[C_IN], p[C_OUT], p[GROUPS], p[TAP_COUNT]
    rows, line, pixels = p[ROWS], p[LINE], block * p[H_OUT] * p[W_OUT]
    size = block * rows * line
    group_size = p[PLANES] // groups * p[STRIDE] * p[STRIDE] * size
    if p[DENSE]:
        _gather(planes, dense, distances, group_size, block, p)
        planes, rows, line = dense, p[H_OUT], p[W_OUT]
        size, group_size = pixels, number * pixels
    pitch = (size + POSITIONS - 1) // POSITIONS * POSITIONS
    per_group, tiles = made // groups, min(have, made)
    values, weight, o = p[FLOATS], p[WEIGHTS], 0
    for group in range(groups):
        for first in range(0, per_group, TOGETHER):
            for start in range(0, size, POSITIONS):
                where = (group * group_size + start, weight, number, start, pitch)
                count_differences(counts, planes, weights, distances, where)
            weight += number * TOGETHER
            for one in range(min(TOGETHER, per_group - first)):
                numbers = (floats[values + o], floats[values + made + o], floats[values + 2 * made + o])
                _finish(out, counts, fixes, shortcut, one * pitch, o % tiles * pixels, numbers, o, rows, line, block, p)
                o += 1


@compiled
def _stem(x, out, tables, planes, sums, block, p):
    """`bnas.packed.layout.Stem` on a block of images."""
    floats, taps = tables[0], tables[3]
    size, pixels = block * p[ROWS] * p[LINE], block * p[H_IN] * p[W_IN]
    _fill(planes, 0, p[PLANES] * p[STRIDE] * p[STRIDE] * size + (p[LINE] + 1) * p[PADDING], np.float32(0))
    for c in range(p[C_IN]):
        _spread(x[c * pixels :], planes[c * p[STRIDE] * p[STRIDE] * size :], np.float32(0), block, p)
    distances = _distances(taps, block, p)
    weight, bias = p[FLOATS], p[FLOATS] + p[C_OUT] * p[TAP_COUNT]
    for o in range(p[C_OUT]):
        _fill(sums, 0, size, floats[bias + o])
        for tap in range(p[TAP_COUNT]):
            w, seen = floats[weight + o * p[TAP_COUNT] + tap], planes[distances[tap] :]
            for i in range(size):
                sums[i] += w * seen[i]
        if p[RELU]:
            for i in range(size):
                sums[i] = sums[i] if sums[i] > np.float32(0) else np.float32(0)
        _collect(sums, out[o * block * p[H_OUT] * p[W_OUT] :], block, p)


@compiled
def _collect(sums, out, block, p):
    """The positions of one channel's planes that are pixels."""
    h, w = p[H_OUT], p[W_OUT]
    for image in range(block):
        for y in range(h):
            where = ((image * h + y) * w, (image * p[ROWS] + y) * p[LINE], w)
            copy_row(out, sums, where, (np.float32(0),))


@compiled
def _pool(x, out, tables, planes, sums, block, p):
    """Maximum or average of 3×3 for all channels."""
    floats, taps = tables[0], tables[3]
    size, pixels = block * p[ROWS] * p[LINE], block * p[H_IN] * p[W_IN]
    distances, maximum, made = _distances(taps, block, p), p[OP] == MAX, p[H_OUT] * p[W_OUT]
    fill = np.float32(-np.inf) if maximum else np.float32(0)
    _fill(planes, 0, size * p[STRIDE] * p[STRIDE] + (p[LINE] + 1) * p[PADDING], fill)
    for c in range(p[C_IN]):
        _spread(x[c * pixels :], planes, fill, block, p)
        _copy(sums, 0, planes, distances[0], size)
        for tap in range(1, p[TAP_COUNT]):
            seen = planes[distances[tap] :]
            if maximum:
                for i in range(size):
                    sums[i] = seen[i] if seen[i] > sums[i] else sums[i]
            else:
                for i in range(size):
                    sums[i] += seen[i]
        _collect(sums, out[c * block * made :], block, p)
        if not maximum:
            for image in range(c * block, (c + 1) * block):
                for i in range(made):
                    out[image * made + i] /= floats[p[FLOATS] + i]


@compiled
def _shuffle(x, out, block, p):
    """`bnas.packed.layout.Shuffle` on a block of images."""
    groups, pixels = p[GROUPS], block * p[H_IN] * p[W_IN]
    width = p[C_IN] // groups
    for channel in range(p[C_IN]):
        _copy(out, channel * pixels, x, (channel % groups * width + channel // groups) * pixels, pixels)


@compiled
def _classify(x, logits, tables, block, p):
    """`bnas.packed.layout.Classifier`: logits `[B, classes]`. The weights lie as `[channels, classes]`."""
    floats, pixels, classes = tables[0], p[H_IN] * p[W_IN], p[C_OUT]
    weight, bias = p[FLOATS], p[FLOATS] + p[C_IN] * classes
    for image in range(block):
        for k in range(classes):
            logits[image, k] = floats[bias + k]
    for c in range(p[C_IN]):
        for image in range(block):
            total = np.float32(0)
            at = (c * block + image) * pixels
            for i in range(pixels):
                total += x[at + i]
            mean = total / np.float32(pixels)
            for k in range(classes):
                logits[image, k] += floats[weight + c * classes + k] * mean


@compiled
def run(program, tables, room, images, last, most):
    """All steps on flat images `[N, C · H · W]`, at `most` so many at a time; the last map goes to `last` `[N, …]`.

    `room` are arrays to work in: maps, sign planes, gathered signs, float planes, one channel's signs, one channel's
    sums, counts, and shortcuts (see `bnas.packed.program.Room`).
    """
    maps, signs, dense, planes, flat, sums, counts, spare = room
    first, final = program[0], program[len(program) - 1]
    pixels, size = first[H_IN] * first[W_IN], final[H_OUT] * final[W_OUT]
    for start in range(0, len(images), most):
        block = min(most, len(images) - start)
        for c in range(first[C_IN]):
            for image in range(block):
                _copy(maps, (c * block + image) * pixels, images[start + image], c * pixels, pixels)
        for step in range(len(program)):
            p = program[step]
            x, out = maps[p[SOURCE] * block :], maps[p[OUT] * block :]
            op = p[OP]
            if op == BLOCK:
                _block(x, out, tables, signs, dense, flat, counts, spare, block, p)
            elif op == SUM:
                other = maps[p[OTHER] * block :]
                for i in range(block * p[C_OUT] * p[H_OUT] * p[W_OUT]):
                    out[i] = x[i] + other[i]
            elif op in (MAX, AVG):
                _pool(x, out, tables, planes, sums, block, p)
            elif op == HALVE:
                _halve(x, out, block, p)
            elif op == SHUFFLE:
                _shuffle(x, out, block, p)
            elif op == NONE:
                _fill(out, 0, block * p[C_OUT] * p[H_OUT] * p[W_OUT], np.float32(0))
            elif op == STEM:
                _stem(x, out, tables, planes, sums, block, p)
            else:
                _classify(x, last[start:], tables, block, p)
        if final[OP] != CLASSIFY:
            for c in range(final[C_OUT]):
                for image in range(block):
                    at = final[OUT] * block + (c * block + image) * size
                    _copy(last[start + image], c * size, maps, at, size)
