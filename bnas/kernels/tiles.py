"""The inner loops of the convolutions in `bnas.kernels.convolution`: sums that stay in vector registers.

Addresses are int64; distances are in elements unless said otherwise. A register holds 16 channels.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils

from bnas.kernels.emitter import FLOAT, FLOATS, INT, INTS, LANES, SHORTS, WIDE, WORD, Emitter, instruction, lanes_of

OUTPUTS = 8
"""Output channels of a tile of a weights' gradient."""

COUNTED = (8, 4, 1)
"""Pixels of a row whose bits are counted together."""

TILES = ((1, 16), (2, 8), (4, 4), (1, 1)) if WIDE else ((2, 3), (1, 4), (2, 2), (1, 1))
"""Rows and columns of pixels whose gradients are summed together, as many as there are registers for; the last is for
maps that no other fits into."""

MOST_CHUNKS, TOGETHER = (3, OUTPUTS) if WIDE else (1, 4)
"""Chunks of 16 weights, at most, and output channels, a divisor of `OUTPUTS`, whose gradients are summed together."""

GROUPS = (2, 3, 4)
"""Sizes of groups of channels that are averaged."""


def _count(pixels: int) -> Any:
    @instruction()
    def count(e: Emitter, bits, step, words, offsets, masks, weights, fixes, classes, out, depth, channels) -> None:
        """Sums of products of signs, int16 `[pixel, depth]`, for so many pixels and 16 output channels.

        `fix − 2 · Σ popcount((bits ^ weights) & mask)` over words of 32 bits, `offsets` bytes from the pixel; `weights`
        are `[words, 16]`, and the pixel's row of `fixes` `[…, 16]` (int32) is that of its class. Pixels are `step`
        bytes apart, and `channels` of the results are written.
        """
        b, sums = e.b, e.sums(INTS, pixels)
        starts = [b.add(bits, b.mul(step, e.word(p))) for p in range(pixels)]
        with cgutils.for_range(b, words) as loop:
            offset = e.read(e.at(offsets, loop.index, 8), WORD)
            mask = e.splat(e.read(e.at(masks, loop.index, 8), INT))
            weight = e.read(e.at(weights, loop.index, 4 * LANES), INTS)
            for start, total in zip(starts, sums, strict=True):
                seen = e.splat(e.read(b.add(start, offset), INT))
                e.add_to(total, e.elementwise("ctpop", b.and_(b.xor(seen, weight), mask)))
        for p, total in enumerate(sums):
            fix = e.read(e.at(fixes, e.read(e.at(classes, p, 8), WORD), 4 * LANES), INTS)
            value = b.sub(fix, e.double(b.load(total)))
            e.write_lanes(out, b.mul(depth, e.word(p)), b.trunc(value, SHORTS), channels)

    return count


def _weights(chunks: int) -> Any:
    @instruction()
    def weights(e: Emitter, gradient, line, seen, seen_line, seen_step, rows, columns, out, pitch, offsets) -> None:
        """Adds the gradient of some chunks of 16 weights and `TOGETHER` output channels o to `out` `[chunk, o, 16]`.

        `Σ gradient[pixel, o] · seen[pixel, offset …]` over all pixels; pixels of the gradient are 16 apart, its rows
        `line`, chunks of the result `pitch`.
        """
        b, sums = e.b, e.sums(FLOATS, chunks * TOGETHER)
        with cgutils.for_range(b, rows) as row:
            upper, lower = e.at(gradient, b.mul(row.index, line)), e.at(seen, b.mul(row.index, seen_line))
            with cgutils.for_range(b, columns) as column:
                pixel, place = e.at(upper, column.index, 4 * LANES), e.at(lower, b.mul(column.index, seen_step))
                values = [e.read(e.at(place, offset), FLOATS) for offset in offsets]
                for o in range(TOGETHER):
                    one = e.splat(e.read(e.at(pixel, o), FLOAT))
                    for k, value in enumerate(values):
                        e.add_product(sums[k * TOGETHER + o], one, value)
        for k in range(chunks):
            for o in range(TOGETHER):
                place = e.at(e.at(out, b.mul(pitch, e.word(k))), o * LANES)
                e.write(place, b.fadd(e.read(place, FLOATS), b.load(sums[k * TOGETHER + o])))

    return weights


def _inputs(rows: int, columns: int) -> Any:
    @instruction()
    def inputs(e: Emitter, gradient, line, part, offsets, taps, weights, depth, out, out_line, out_step, channels):
        """The gradient of the signs of so many pixels in 16 channels c, of which `channels` are written.

        `Σ gradient[pixel + offset, o] · weights[tap, o, c]` over taps and output channels o below `depth`, of which 16
        lie together and the next 16 `part` away.
        """
        b, sums = e.b, e.sums(FLOATS, rows * columns)
        full = b.sdiv(b.add(depth, e.word(LANES - 1)), e.word(LANES))
        with cgutils.for_range(b, taps) as tap:
            start = e.at(gradient, e.read(e.at(offsets, tap.index, 8), WORD))
            lanes = e.at(weights, b.mul(tap.index, depth), 4 * LANES)
            with cgutils.for_range(b, full) as block:
                first = b.mul(block.index, e.word(LANES))
                left = b.sub(depth, first)
                many = b.select(b.icmp_signed("<", left, e.word(LANES)), left, e.word(LANES))
                pixel, weight = e.at(start, b.mul(block.index, part)), e.at(lanes, first, 4 * LANES)
                with cgutils.for_range(b, many) as channel:
                    value = e.read(e.at(weight, channel.index, 4 * LANES), FLOATS)
                    here = e.at(pixel, channel.index)
                    for r in range(rows):
                        row = e.at(here, b.mul(line, e.word(r)))
                        for c in range(columns):
                            one = e.splat(e.read(e.at(row, c * LANES), FLOAT))
                            e.add_product(sums[r * columns + c], one, value)
        for r in range(rows):
            for c in range(columns):
                place = b.add(b.mul(out_line, e.word(r)), b.mul(out_step, e.word(c)))
                e.write_lanes(out, place, b.load(sums[r * columns + c]), channels)

    return inputs


def _narrow(group: int) -> Any:
    @instruction()
    def narrow(e: Emitter, x, out) -> None:
        """Averages of `group` channels that lie together, for 16 groups of a pixel."""
        values = e.read(x, lanes_of(FLOAT, group * LANES))
        share = e.splat(1 / group)
        (total,) = e.sums(FLOATS, 1)
        for k in range(group):
            e.add_product(total, e.pick(values, range(k, group * LANES, group)), share)
        e.write(out, e.b.load(total))

    return narrow


def _widen(group: int) -> Any:
    @instruction()
    def widen(e: Emitter, gradient, out) -> None:
        """The gradient of what `narrow` reads."""
        value = e.b.fmul(e.read(gradient, FLOATS), e.splat(1 / group))
        for k in range(group):
            e.write(e.at(out, k * LANES), e.pick(value, [(k * LANES + i) // group for i in range(LANES)]))

    return widen


count_8, count_4, count_1 = (_count(pixels) for pixels in COUNTED)
weights_3, weights_2, weights_1 = (_weights(chunks) for chunks in (3, 2, 1))
inputs_first, inputs_second, inputs_third, inputs_one = (_inputs(*shape) for shape in TILES)
narrow_2, narrow_3, narrow_4 = (_narrow(group) for group in GROUPS)
widen_2, widen_3, widen_4 = (_widen(group) for group in GROUPS)
