"""XNOR and popcount, and what lies between, compiled by numba: equal to `bnas.packed.reference` bit for bit.

A block of images is computed at once; a map is `[C, B, H, W]` in one flat array, so that every loop over a channel is
long and contiguous. Signs are packed into planes of bytes, eight channels each: `[planes, B, rows, columns]`, with
zeros around every image. A row's right border is the next row's left border, and an image's lower border the next
image's upper one; under stride 2 there is a plane for each parity of row and column, so that a tap of the convolution
is always a constant distance in a plane. Then 64 positions are computed by one exclusive or, one popcount and one
addition a byte.

Taps over the border meet zero bits there and count as −1 · weight; `fix` [ours] holds, for every output and position,
the number of real taps plus twice the set weight bits over the border, so that `fix − 2 · popcount` is the exact sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 64
"""Positions that one step of the convolution computes: bytes of the widest vector register there is."""

TOGETHER = 4
"""Output channels that share a load of the input."""

FULL = 31
"""Bytes whose popcounts fit into one byte (31 · 8 < 256)."""

# Columns of a program, one row per step: what to do, where maps lie (in floats per image), and shapes.
OP, SOURCE, OUT, OTHER, C_IN, H_IN, W_IN, C_OUT, H_OUT, W_OUT, STRIDE, PADDING, GROUPS = range(13)
# Where the step's parameters lie, and the geometry of its planes.
FLOATS, THRESHOLDS, WEIGHTS, TAPS, TAP_COUNT, FIX, PLANES, ROWS, LINE = range(13, 22)
COLUMNS = 22

STEM, BLOCK, HALVE, MAX, AVG, SUM, CLASSIFY = range(7)
"""Values of the column OP."""

@intrinsic  # type: ignore[misc]
def _count_differences(typing: Any, planes: Any, weights: Any, taps: Any, counts: Any, where: Any) -> Any:
    """Popcounts of `TOGETHER` outputs at `LANES` positions.

    `counts[o, i] = Σ_t popcount(planes[start + taps[t] + i] ^ weights[first + t · TOGETHER + o])`, uint16
    `[TOGETHER, LANES]` written at `counts[at + o · pitch + i]`; `where` is (start, first weight, number of taps, at,
    pitch).
    """
    signature = types.void(planes, weights, taps, counts, where)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, word = ir.IntType(8), ir.IntType(64)
        bytes_, halves = ir.VectorType(byte, LANES), ir.VectorType(ir.IntType(16), LANES)
        pointers = [
            context.make_array(kind)(context, builder, value=value).data
            for kind, value in zip(signature.args[:4], args[:4], strict=True)
        ]
        data, weight, offset, count = pointers
        start, first, number, at, pitch = cgutils.unpack_tuple(builder, args[4], 5)
        popcount = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(bytes_, [bytes_]), f"llvm.ctpop.v{LANES}i8"
        )
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)

        def constant(value: int) -> Any:
            return ir.Constant(word, value)

        def splat(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(bytes_, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(one, ir.Constant(bytes_, ir.Undefined), zeros)

        totals = [cgutils.alloca_once_value(builder, ir.Constant(halves, None)) for _ in range(TOGETHER)]
        parts = [cgutils.alloca_once_value(builder, ir.Constant(bytes_, None)) for _ in range(TOGETHER)]
        for total in totals:
            builder.store(ir.Constant(halves, None), total)
        chunk_start = cgutils.alloca_once_value(builder, constant(0))
        builder.store(constant(0), chunk_start)
        chunks = builder.sdiv(builder.add(number, constant(FULL - 1)), constant(FULL))
        with cgutils.for_range(builder, chunks):
            begin = builder.load(chunk_start)
            left = builder.sub(number, begin)
            size = builder.select(builder.icmp_signed("<", left, constant(FULL)), left, constant(FULL))
            for part in parts:
                builder.store(ir.Constant(bytes_, None), part)
            with cgutils.for_range(builder, size) as loop:
                tap = builder.add(begin, loop.index)
                distance = builder.load(builder.gep(offset, [tap]))
                place = builder.gep(data, [builder.add(start, distance)])
                x = builder.load(builder.bitcast(place, bytes_.as_pointer()), align=1)
                row = builder.add(first, builder.mul(tap, constant(TOGETHER)))
                for o, part in enumerate(parts):
                    w = splat(builder.load(builder.gep(weight, [builder.add(row, constant(o))])))
                    found = builder.call(popcount, [builder.xor(x, w)])
                    builder.store(builder.add(builder.load(part), found), part)
            for total, part in zip(totals, parts, strict=True):
                builder.store(builder.add(builder.load(total), builder.zext(builder.load(part), halves)), total)
            builder.store(builder.add(begin, size), chunk_start)
        for o, total in enumerate(totals):
            place = builder.gep(count, [builder.add(at, builder.mul(pitch, constant(o)))])
            builder.store(builder.load(total), builder.bitcast(place, halves.as_pointer()), align=1)
        return context.get_dummy_value()

    return signature, build


compiled = njit(cache=True, nogil=True, error_model="numpy")


@compiled  # type: ignore[misc]
def _spread(values, planes, block, p):  # type: ignore[no-untyped-def]
    """One channel `[B, H, W]` into its planes `[stride², B, rows, line]`, as the module's text says."""
    h, w, stride, padding, rows, line = p[H_IN], p[W_IN], p[STRIDE], p[PADDING], p[ROWS], p[LINE]
    size = block * rows * line
    for image in range(block):
        for y in range(h):
            source, high = (image * h + y) * w, y + padding
            for phase in range(stride):
                x0 = (phase - padding) % stride
                plane = (high % stride) * stride + phase
                at = plane * size + (image * rows + high // stride) * line + (x0 + padding) // stride
                for step in range((w - x0 + stride - 1) // stride):
                    planes[at + step] = values[source + x0 + step * stride]


@compiled  # type: ignore[misc]
def _distances(taps, block, p):  # type: ignore[no-untyped-def]
    """How far each tap lies from a position in the planes of a block of images."""
    size = block * p[ROWS] * p[LINE]
    found = np.empty(p[TAP_COUNT], np.int64)
    for tap in range(p[TAP_COUNT]):
        found[tap] = taps[p[TAPS] + tap, 0] * size + taps[p[TAPS] + tap, 1]
    return found


@compiled  # type: ignore[misc]
def _pack(x, thresholds, planes, flat, block, p):  # type: ignore[no-untyped-def]
    """Bit c of a byte is set where `x ≥ threshold` in channel c of its eight; x `[C, B, H, W]`."""
    pixels, depth = block * p[H_IN] * p[W_IN], p[C_IN] // p[GROUPS]
    size = block * p[ROWS] * p[LINE] * p[STRIDE] * p[STRIDE]
    planes[: size * p[PLANES] + (p[LINE] + 1) * p[PADDING]] = 0
    at = 0
    for group in range(p[GROUPS]):
        for part in range(0, depth, 8):
            flat[:pixels] = 0
            for bit in range(min(8, depth - part)):
                channel = group * depth + part + bit
                values = x[channel * pixels : (channel + 1) * pixels]
                threshold, mark = thresholds[p[THRESHOLDS] + channel], np.uint8(1 << bit)
                for i in range(pixels):
                    flat[i] |= mark if values[i] >= threshold else np.uint8(0)
            _spread(flat, planes[at : at + size], block, p)
            at += size


@compiled  # type: ignore[misc]
def _halve(x, out, block, p):  # type: ignore[no-untyped-def]
    """Average of 2×2 for all channels of x; at an odd border of what there is."""
    h, w, high, wide = p[H_IN], p[W_IN], p[H_OUT], p[W_OUT]
    for plane in range(p[C_IN] * block):
        for y in range(high):
            two_rows = 2 * y + 1 < h
            for column in range(wide):
                at = (plane * h + 2 * y) * w + 2 * column
                two_columns = 2 * column + 1 < w
                total = x[at]
                total += x[at + 1] if two_columns else np.float32(0)
                total += x[at + w] if two_rows else np.float32(0)
                total += x[at + w + 1] if two_rows and two_columns else np.float32(0)
                count = np.float32((2 if two_rows else 1) * (2 if two_columns else 1))
                out[(plane * high + y) * wide + column] = total / count


@compiled  # type: ignore[misc]
def _shortcut(x, spare, block, p):  # type: ignore[no-untyped-def]
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
        total[:] = np.float32(0)
        for c in range(first, end):
            values = x[c * pixels : (c + 1) * pixels]
            for i in range(pixels):
                total[i] += values[i] * share
    return spare


@compiled  # type: ignore[misc]
def _finish(counts, fix, scale, shift, slope, shortcut, out, block, p):  # type: ignore[no-untyped-def]
    """One channel: `PReLU((fix − 2 · count) · scale + shift + shortcut)`."""
    h, w, rows, line = p[H_OUT], p[W_OUT], p[ROWS], p[LINE]
    for image in range(block):
        for y in range(h):
            at, start = (image * h + y) * w, (image * rows + y) * line
            for x in range(w):
                whole = np.float32(np.int32(fix[y * w + x]) - np.int32(2) * np.int32(counts[start + x]))
                value = whole * scale + shift
                value = value + shortcut[at + x]
                out[at + x] = value if value > np.float32(0) else slope * value


@compiled  # type: ignore[misc]
def _block(x, out, tables, planes, flat, counts, spare, block, p):  # type: ignore[no-untyped-def]
    """`bnas.packed.layout.Block` on a block of images."""
    floats, thresholds, weights, taps, fixes = tables
    _pack(x, thresholds, planes, flat, block, p)
    shortcut = _shortcut(x, spare, block, p)
    distances = _distances(taps, block, p)
    have, made, groups, number = p[C_IN], p[C_OUT], p[GROUPS], p[TAP_COUNT]
    size, pixels = block * p[ROWS] * p[LINE], block * p[H_OUT] * p[W_OUT]
    pitch = (size + LANES - 1) // LANES * LANES
    per_group, tiles = made // groups, min(have, made)
    group_size = p[PLANES] // groups * p[STRIDE] * p[STRIDE] * size
    values, weight, o = p[FLOATS], p[WEIGHTS], 0
    for group in range(groups):
        for first in range(0, per_group, TOGETHER):
            for start in range(0, size, LANES):
                where = (group * group_size + start, weight, number, start, pitch)
                _count_differences(planes, weights, distances, counts, where)
            weight += number * TOGETHER
            for one in range(min(TOGETHER, per_group - first)):
                _finish(
                    counts[one * pitch :],
                    fixes[p[FIX] + o * p[H_OUT] * p[W_OUT] :],
                    floats[values + o],
                    floats[values + made + o],
                    floats[values + 2 * made + o],
                    shortcut[(o % tiles) * pixels :],
                    out[o * pixels : (o + 1) * pixels],
                    block,
                    p,
                )
                o += 1


@compiled  # type: ignore[misc]
def _stem(x, out, tables, planes, sums, block, p):  # type: ignore[no-untyped-def]
    """`bnas.packed.layout.Stem` on a block of images."""
    floats, taps = tables[0], tables[3]
    size, pixels = block * p[ROWS] * p[LINE], block * p[H_IN] * p[W_IN]
    planes[: p[PLANES] * p[STRIDE] * p[STRIDE] * size + (p[LINE] + 1) * p[PADDING]] = np.float32(0)
    for c in range(p[C_IN]):
        _spread(x[c * pixels : (c + 1) * pixels], planes[c * p[STRIDE] * p[STRIDE] * size :], block, p)
    distances = _distances(taps, block, p)
    weight, bias = p[FLOATS], p[FLOATS] + p[C_OUT] * p[TAP_COUNT]
    for o in range(p[C_OUT]):
        sums[:size] = floats[bias + o]
        for tap in range(p[TAP_COUNT]):
            w, seen = floats[weight + o * p[TAP_COUNT] + tap], planes[distances[tap] :]
            for i in range(size):
                sums[i] += w * seen[i]
        _collect(sums, out[o * block * p[H_OUT] * p[W_OUT] :], block, p)


@compiled  # type: ignore[misc]
def _collect(sums, out, block, p):  # type: ignore[no-untyped-def]
    """The positions of one channel's planes that are pixels."""
    h, w = p[H_OUT], p[W_OUT]
    for image in range(block):
        for y in range(h):
            at, start = (image * h + y) * w, (image * p[ROWS] + y) * p[LINE]
            for x in range(w):
                out[at + x] = sums[start + x]


@compiled  # type: ignore[misc]
def _pool(x, out, tables, planes, sums, block, p):  # type: ignore[no-untyped-def]
    """Maximum or average of 3×3 for all channels."""
    floats, taps = tables[0], tables[3]
    size, pixels = block * p[ROWS] * p[LINE], block * p[H_IN] * p[W_IN]
    distances, maximum, made = _distances(taps, block, p), p[OP] == MAX, p[H_OUT] * p[W_OUT]
    fill = np.float32(-np.inf) if maximum else np.float32(0)
    planes[: size * p[STRIDE] * p[STRIDE] + (p[LINE] + 1) * p[PADDING]] = fill
    for c in range(p[C_IN]):
        _spread(x[c * pixels : (c + 1) * pixels], planes, block, p)
        sums[:size] = planes[distances[0] : distances[0] + size]
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


@compiled  # type: ignore[misc]
def _classify(x, logits, tables, block, p):  # type: ignore[no-untyped-def]
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


@compiled  # type: ignore[misc]
def run(program, tables, room, images, last):  # type: ignore[no-untyped-def]
    """All steps on a block of images `[B, C, H, W]`; the last map is written to `last` `[B, …]`.

    `room` is how much one image needs: floats of all maps, bytes of sign planes, floats of planes, positions of one
    plane, floats for shortcuts.
    """
    block, channels = images.shape[0], images.shape[1]
    slack = 16 * LANES
    maps = np.empty(room[0] * block + slack, np.float32)
    signs = np.zeros(room[1] * block + slack, np.uint8)
    planes = np.zeros(room[2] * block + slack, np.float32)
    flat = np.empty(room[3] * block + slack, np.uint8)
    sums = np.empty(room[3] * block + slack, np.float32)
    counts = np.empty(TOGETHER * (room[3] * block + slack), np.uint16)
    spare = np.empty(room[4] * block + slack, np.float32)
    pixels = images.shape[2] * images.shape[3]
    for c in range(channels):
        for image in range(block):
            maps[(c * block + image) * pixels : (c * block + image + 1) * pixels] = images[image, c].ravel()
    for step in range(len(program)):
        p = program[step]
        x, out = maps[p[SOURCE] * block :], maps[p[OUT] * block :]
        op = p[OP]
        if op == BLOCK:
            _block(x, out, tables, signs, flat, counts, spare, block, p)
        elif op == SUM:
            other = maps[p[OTHER] * block :]
            for i in range(block * p[C_OUT] * p[H_OUT] * p[W_OUT]):
                out[i] = x[i] + other[i]
        elif op == MAX or op == AVG:
            _pool(x, out, tables, planes, sums, block, p)
        elif op == HALVE:
            _halve(x, out, block, p)
        elif op == STEM:
            _stem(x, out, tables, planes, sums, block, p)
        else:
            _classify(x, last, tables, block, p)
    p = program[len(program) - 1]
    if p[OP] != CLASSIFY:
        size = p[H_OUT] * p[W_OUT]
        for c in range(p[C_OUT]):
            for image in range(block):
                at = p[OUT] * block + (c * block + image) * size
                last[image, c * size : (c + 1) * size] = maps[at : at + size]
