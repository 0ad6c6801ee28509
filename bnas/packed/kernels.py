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

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnas.kernels import numba_cache
from bnas.packed.lanes import POSITIONS, TOGETHER, copy_row, count_differences, finish_row, halve_row, thin_row

STEP = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("op", "source", "out", "other", "channels", "height", "width", "made", "high", "wide"),
            *("stride", "padding", "groups", "floats", "thresholds", "weights", "taps", "tap_count", "fixes"),
            *("planes", "rows", "line", "dense", "relu"),
        )
    ]
)
"""A step of a program.

- `op`: what to do; `source other out`: where the maps that it reads and makes lie, in floats per image;
- `channels height width` of its source, `made high wide` of its result;
- `stride padding groups relu`: as in `bnas.space.layout`, `relu` after a stem;
- `floats thresholds weights taps fixes`: where in these tables its own part begins, `tap_count` how many taps it has;
- `planes rows line dense`: the planes that its signs or values are spread into, their rows and columns, and whether
  what each tap sees is copied together first.
"""

STEM, BLOCK, HALVE, MAX, AVG, SUM, CLASSIFY, SHUFFLE, NONE = range(9)
"""Values of `op`."""


class Tables(NamedTuple):
    """Parameters of all steps: numbers, thresholds of signs, packed weights, taps (plane, distance in it), fixes."""

    floats: NDArray[np.float32]
    thresholds: NDArray[np.float32]
    weights: NDArray[np.uint8]
    taps: NDArray[np.int64]
    fixes: NDArray[np.int32]


class Scratch(NamedTuple):
    """Flat arrays to work in: maps, planes of signs, gathered signs, planes of floats, one channel's signs, one
    channel's sums, counts of `TOGETHER` channels, shortcuts."""

    maps: NDArray[np.float32]
    signs: NDArray[np.uint8]
    dense: NDArray[np.uint8]
    planes: NDArray[np.float32]
    flat: NDArray[np.uint8]
    sums: NDArray[np.float32]
    counts: NDArray[np.uint16]
    shortcuts: NDArray[np.float32]


compiled = numba_cache.compiled()


@compiled
def fill_with(out, start, count, value):
    """Loops, here and below, where numpy's slices would compile for seconds."""
    for i in range(start, start + count):
        out[i] = value


@compiled
def _copy(out, to, x, at, count):
    for i in range(count):
        out[to + i] = x[at + i]


@compiled
def spread(values, planes, fill, block, p):
    """One channel `[B, H, W]` into its planes `[stride², B, rows, line]`, as the module's text says; stride 1 or 2."""
    h, w, stride, padding, rows, line = p.height, p.width, p.stride, p.padding, p.rows, p.line
    if stride == 1:
        for image in range(block):
            for y in range(h):
                to = (image * rows + y + padding) * line + padding
                copy_row(planes, values, to, (image * h + y) * w, w, fill)
        return
    for plane in range(4):  # one after another, since a row is filled up past its end
        y0, x0 = (plane // 2 - padding) % 2, (plane % 2 - padding) % 2
        for image in range(block):
            first = (plane * block + image) * rows
            for y in range(y0, h, 2):
                to = (first + (y + padding) // 2) * line + (x0 + padding) // 2
                thin_row(planes, values, to, (image * h + y) * w + x0, w - x0, fill)


@compiled
def tap_distances(taps, block, p):
    """How far each tap lies from a position in the planes of a block of images."""
    size = block * p.rows * p.line
    found = np.empty(p.tap_count, np.int64)
    for tap in range(p.tap_count):
        found[tap] = taps[p.taps + tap, 0] * size + taps[p.taps + tap, 1]
    return found


@compiled
def _pack(x, thresholds, planes, flat, block, p):
    """Bit c of a byte is set where `x ≥ threshold` in channel c of its eight; x `[C, B, H, W]`."""
    pixels, depth = block * p.height * p.width, p.channels // p.groups
    size = block * p.rows * p.line * p.stride * p.stride
    fill_with(planes, 0, size * p.planes + (p.line + 1) * p.padding, np.uint8(0))
    at = 0
    for group in range(p.groups):
        for part in range(0, depth, 8):
            fill_with(flat, 0, pixels, np.uint8(0))
            for bit in range(min(8, depth - part)):
                channel = group * depth + part + bit
                values = x[channel * pixels : (channel + 1) * pixels]
                threshold, mark = thresholds[p.thresholds + channel], np.uint8(1 << bit)
                for i in range(pixels):
                    flat[i] |= mark if values[i] >= threshold else np.uint8(0)
            spread(flat, planes[at:], np.uint8(0), block, p)
            at += size


@compiled
def halve(x, out, block, p):
    """Average of 2×2 for all channels of x; at an odd border of what there is."""
    h, w, high, wide = p.height, p.width, p.high, p.wide
    for plane in range(p.channels * block):
        for y in range(high):
            at = (plane * h + 2 * y) * w
            halve_row(out, x, (plane * high + y) * wide, at, at + w if 2 * y + 1 < h else -1, w)


@compiled
def shortcut_of(x, spare, block, p):
    """The shortcut of a block: x, halved and narrowed as its shape needs; its reader widens it."""
    have, made, pixels = p.channels, p.made, block * p.high * p.wide
    if p.stride == 2:
        halve(x, spare, block, p)
        x, spare = spare, spare[have * pixels :]
    if have <= made:
        return x
    for j in range(made):
        first, end = j * have // made, ((j + 1) * have + made - 1) // made
        share = np.float32(1) / np.float32(end - first)
        total = spare[j * pixels : (j + 1) * pixels]
        fill_with(spare, j * pixels, pixels, np.float32(0))
        for c in range(first, end):
            values = x[c * pixels : (c + 1) * pixels]
            for i in range(pixels):
                total[i] += values[i] * share
    return spare


@compiled
def finish_channel(out, counts, fixes, shortcut, at, shortcut_at, affine, o, rows, line, block, p):
    """Output channel o, whose counts begin at `at` and whose shortcut at `shortcut_at`; see `lanes.finish_row`."""
    h, w = p.high, p.wide
    fix = p.fixes + o * h * w
    for image in range(block):
        pixel, position = image * h * w, at + image * rows * line
        if line == w:  # no padding, so an image is one long row
            to = o * block * h * w + pixel
            finish_row(out, counts, fixes, shortcut, to, position, fix, shortcut_at + pixel, h * w, affine)
            continue
        for y in range(h):
            done = pixel + y * w
            to, at_row, fix_row = o * block * h * w + done, position + y * line, fix + y * w
            finish_row(out, counts, fixes, shortcut, to, at_row, fix_row, shortcut_at + done, w, affine)


@compiled
def gather(planes, dense, distances, group_size, block, p):
    """The bytes that each tap of each group reads, `[groups, taps, B, H', W']`, and the taps' distances in them."""
    h, w, rows, line = p.high, p.wide, p.rows, p.line
    to = 0
    for group in range(p.groups):
        for tap in range(p.tap_count):
            for image in range(block):
                at = group * group_size + distances[tap] + image * rows * line
                for y in range(h):
                    copy_row(dense, planes, to, at + y * line, w, np.uint8(0))
                    to += w
    for tap in range(p.tap_count):
        distances[tap] = tap * block * h * w


@compiled
def planes_of_taps(signs, dense, distances, block, p):
    """The planes in which `distances` lead to what taps see, their rows and columns, bytes from group to group."""
    size = block * p.rows * p.line
    group_size = p.planes // p.groups * p.stride * p.stride * size
    if p.dense:
        gather(signs, dense, distances, group_size, block, p)
        return dense, p.high, p.wide, p.tap_count * block * p.high * p.wide
    return signs, p.rows, p.line, group_size


@compiled
def block_step(x, out, tables, scratch, block, p):
    """`bnas.space.layout.Block` on a block of images."""
    floats, values, counts = tables.floats, p.floats, scratch.counts
    _pack(x, tables.thresholds, scratch.signs, scratch.flat, block, p)
    shortcut = shortcut_of(x, scratch.shortcuts, block, p)
    distances = tap_distances(tables.taps, block, p)
    planes, rows, line, group_size = planes_of_taps(scratch.signs, scratch.dense, distances, block, p)
    made, taps, pixels, size = p.made, p.tap_count, block * p.high * p.wide, block * rows * line
    pitch = (size + POSITIONS - 1) // POSITIONS * POSITIONS
    per_group, tiles, weight, o = made // p.groups, min(p.channels, made), p.weights, 0
    for group in range(p.groups):
        for first in range(0, per_group, TOGETHER):
            for start in range(0, size, POSITIONS):
                at = group * group_size + start
                count_differences(counts, planes, tables.weights, distances, at, weight, taps, start, pitch)
            weight += taps * TOGETHER
            for one in range(min(TOGETHER, per_group - first)):
                affine = (floats[values + o], floats[values + made + o], floats[values + 2 * made + o])
                at = o % tiles * pixels
                finish_channel(out, counts, tables.fixes, shortcut, one * pitch, at, affine, o, rows, line, block, p)
                o += 1


@compiled
def _stem(x, out, tables, scratch, block, p):
    """`bnas.space.layout.Stem` on a block of images."""
    floats, planes, sums = tables.floats, scratch.planes, scratch.sums
    size, pixels = block * p.rows * p.line, block * p.height * p.width
    fill_with(planes, 0, p.planes * p.stride * p.stride * size + (p.line + 1) * p.padding, np.float32(0))
    for c in range(p.channels):
        spread(x[c * pixels :], planes[c * p.stride * p.stride * size :], np.float32(0), block, p)
    distances = tap_distances(tables.taps, block, p)
    weight, bias = p.floats, p.floats + p.made * p.tap_count
    for o in range(p.made):
        fill_with(sums, 0, size, floats[bias + o])
        for tap in range(p.tap_count):
            w, seen = floats[weight + o * p.tap_count + tap], planes[distances[tap] :]
            for i in range(size):
                sums[i] += w * seen[i]
        if p.relu:
            for i in range(size):
                sums[i] = sums[i] if sums[i] > np.float32(0) else np.float32(0)
        _collect(sums, out[o * block * p.high * p.wide :], block, p)


@compiled
def _collect(sums, out, block, p):
    """The positions of one channel's planes that are pixels."""
    h, w = p.high, p.wide
    for image in range(block):
        for y in range(h):
            copy_row(out, sums, (image * h + y) * w, (image * p.rows + y) * p.line, w, np.float32(0))


@compiled
def _pool(x, out, tables, scratch, block, p):
    """Maximum or average of 3×3 for all channels."""
    floats, planes, sums = tables.floats, scratch.planes, scratch.sums
    size, pixels = block * p.rows * p.line, block * p.height * p.width
    distances, maximum, made = tap_distances(tables.taps, block, p), p.op == MAX, p.high * p.wide
    fill = np.float32(-np.inf) if maximum else np.float32(0)
    fill_with(planes, 0, size * p.stride * p.stride + (p.line + 1) * p.padding, fill)
    for c in range(p.channels):
        spread(x[c * pixels :], planes, fill, block, p)
        _copy(sums, 0, planes, distances[0], size)
        for tap in range(1, p.tap_count):
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
                    out[image * made + i] /= floats[p.floats + i]


@compiled
def _shuffle(x, out, block, p):
    """`bnas.space.layout.Shuffle` on a block of images."""
    groups, pixels = p.groups, block * p.height * p.width
    width = p.channels // groups
    for channel in range(p.channels):
        _copy(out, channel * pixels, x, (channel % groups * width + channel // groups) * pixels, pixels)


@compiled
def _classify(x, logits, tables, block, p):
    """`bnas.space.layout.Classifier`: logits `[B, classes]`. The weights lie as `[channels, classes]`."""
    floats, pixels, classes = tables.floats, p.height * p.width, p.made
    weight, bias = p.floats, p.floats + p.channels * classes
    for image in range(block):
        for k in range(classes):
            logits[image, k] = floats[bias + k]
    for c in range(p.channels):
        for image in range(block):
            total = np.float32(0)
            at = (c * block + image) * pixels
            for i in range(pixels):
                total += x[at + i]
            mean = total / np.float32(pixels)
            for k in range(classes):
                logits[image, k] += floats[weight + c * classes + k] * mean


@compiled
def run(program, tables, scratch, images, last, most):
    """All steps on flat images `[N, C · H · W]`, `most` of them at a time; the last map goes to `last` `[N, …]`.

    `program` are `STEP`s, `tables` `Tables`, `scratch` a `Scratch`.
    """
    maps = scratch.maps
    first, final = program[0], program[len(program) - 1]
    pixels, size = first.height * first.width, final.high * final.wide
    for start in range(0, len(images), most):
        block = min(most, len(images) - start)
        for c in range(first.channels):
            for image in range(block):
                # Nothing but the images is there for the first step to read.
                at = first.source * block + (c * block + image) * pixels
                _copy(maps, at, images[start + image], c * pixels, pixels)
        for step in range(len(program)):
            p = program[step]
            x, out = maps[p.source * block :], maps[p.out * block :]
            op = p.op
            if op == BLOCK:
                block_step(x, out, tables, scratch, block, p)
            elif op == SUM:
                other = maps[p.other * block :]
                for i in range(block * p.made * p.high * p.wide):
                    out[i] = x[i] + other[i]
            elif op in (MAX, AVG):
                _pool(x, out, tables, scratch, block, p)
            elif op == HALVE:
                halve(x, out, block, p)
            elif op == SHUFFLE:
                _shuffle(x, out, block, p)
            elif op == NONE:
                fill_with(out, 0, block * p.made * p.high * p.wide, np.float32(0))
            elif op == STEM:
                _stem(x, out, tables, scratch, block, p)
            else:
                _classify(x, last[start:], tables, block, p)
        if final.op != CLASSIFY:
            for c in range(final.made):
                for image in range(block):
                    at = final.out * block + (c * block + image) * size
                    _copy(last[start + image], c * size, maps, at, size)
