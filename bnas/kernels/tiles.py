"""The inner loops of the convolutions in `bnas.kernels.convolution`: sums that stay in vector registers.

Addresses are int64; distances are in elements unless said otherwise. A register holds 16 channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from bnas.kernels.vectors import LANES, WIDE, write_lanes

OUTPUTS = 8
"""Output channels of a tile of a weights' gradient."""

COUNTED = (8, 4, 1)
"""Pixels of a row whose bits are counted together."""

TILES = ((1, 16), (2, 8), (4, 4), (1, 1)) if WIDE else ((2, 3), (1, 4), (2, 2), (1, 1))
"""Rows and columns of pixels whose gradients are summed together, as many as there are registers for; the last is for
maps that no other fits into."""

MOST_CHUNKS, TOGETHER = (3, OUTPUTS) if WIDE else (1, 4)
"""Chunks of 16 weights, at most, and output channels, a divisor of `OUTPUTS`, whose gradients are summed together."""

_FLOAT, _SHORT, _INT, _WORD = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_FLOATS, _SHORTS, _INTS = (ir.VectorType(kind, LANES) for kind in (_FLOAT, _SHORT, _INT))


class _Emitter:
    """What the instructions of a tile are made of."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def word(self, value: int) -> Any:
        return ir.Constant(_WORD, value)

    def at(self, address: Any, distance: Any, size: int = 4) -> Any:
        """The address `distance` elements of `size` bytes on."""
        if isinstance(distance, int):
            return self.b.add(address, self.word(distance * size))
        return self.b.add(address, self.b.mul(distance, self.word(size)))

    def read(self, address: Any, kind: Any) -> Any:
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=1)

    def write(self, address: Any, value: Any) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=1)

    def splat(self, value: Any) -> Any:
        undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        one = self.b.insert_element(undefined, value, ir.Constant(_INT, 0))
        return self.b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT, LANES), None))

    def sums(self, kind: Any, count: int) -> list[Any]:
        """Registers, at first 0."""
        made = [cgutils.alloca_once(self.b, kind) for _ in range(count)]
        for one in made:
            self.b.store(ir.Constant(kind, None), one)
        return made

    def fma(self, x: Any, y: Any, total: Any) -> None:
        kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
        function = cgutils.get_or_insert_function(self.b.module, kind, f"llvm.fma.v{LANES}f32")
        self.b.store(self.b.call(function, [x, y, self.b.load(total)]), total)


def _tile(numbers: int) -> Callable[[Callable[..., None]], Any]:
    """An intrinsic of a tuple of so many int64, without a result, from what emits its instructions."""

    def wrap(emit: Callable[..., None]) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit(_Emitter(builder), *cgutils.unpack_tuple(builder, args[0], numbers))
            return context.get_dummy_value()

        def declare(typing: Any, values: Any) -> Any:
            return types.void(types.UniTuple(types.int64, numbers)), build

        return intrinsic(declare)

    return wrap


def _count(pixels: int) -> Any:
    """`count(bits, step, words, offsets, masks, weights, fixes, classes, out, depth, channels)`.

    For so many pixels, `step` bytes apart, and 16 output channels: `fix − 2 · Σ popcount((bits ^ weights) & mask)` over
    words of 32 bits, `offsets` bytes from the pixel; int16 `[pixel, depth]`, of which `channels` are written.
    `weights` `[words, 16]`, and the pixel's row of `fixes` `[…, 16]` (int32) is that of its class.
    """

    @_tile(11)
    def count(e: _Emitter, bits, step, words, offsets, masks, weights, fixes, classes, out, depth, channels) -> None:
        b = e.b
        sums = e.sums(_INTS, pixels)
        starts = [b.add(bits, b.mul(step, e.word(p))) for p in range(pixels)]
        kind = ir.FunctionType(_INTS, [_INTS])
        popcount = cgutils.get_or_insert_function(b.module, kind, f"llvm.ctpop.v{LANES}i32")
        with cgutils.for_range(b, words) as loop:
            offset = e.read(e.at(offsets, loop.index, 8), _WORD)
            mask = e.splat(e.read(e.at(masks, loop.index, 8), _INT))
            weight = e.read(e.at(weights, loop.index, 4 * LANES), _INTS)
            for start, total in zip(starts, sums, strict=True):
                seen = e.splat(e.read(b.add(start, offset), _INT))
                found = b.call(popcount, [b.and_(b.xor(seen, weight), mask)])
                b.store(b.add(b.load(total), found), total)
        for p, total in enumerate(sums):
            fix = e.read(e.at(fixes, e.read(e.at(classes, p, 8), _WORD), 4 * LANES), _INTS)
            value = b.sub(fix, b.shl(b.load(total), ir.Constant(_INTS, [1] * LANES)))
            write_lanes(b, out, b.mul(depth, e.word(p)), b.trunc(value, _SHORTS), channels)

    return count


def _weights(chunks: int) -> Any:
    """`weights(gradient, line, seen, seen_line, seen_step, rows, columns, out, pitch, offset, …)`.

    For chunks of 16 weights and `TOGETHER` channels o: adds `Σ gradient[pixel, o] · seen[pixel, offset …]` over
    all pixels to `out` `[chunk, o, 16]`, chunks `pitch` apart. Pixels of the gradient are 16 apart, its rows `line`.
    """

    @_tile(9 + chunks)
    def weights(e: _Emitter, gradient, line, seen, seen_line, seen_step, rows, columns, out, pitch, *offsets) -> None:
        b = e.b
        sums = e.sums(_FLOATS, chunks * TOGETHER)
        with cgutils.for_range(b, rows) as row:
            upper, lower = e.at(gradient, b.mul(row.index, line)), e.at(seen, b.mul(row.index, seen_line))
            with cgutils.for_range(b, columns) as column:
                pixel, place = e.at(upper, column.index, 4 * LANES), e.at(lower, b.mul(column.index, seen_step))
                values = [e.read(e.at(place, offset), _FLOATS) for offset in offsets]
                for o in range(TOGETHER):
                    one = e.splat(e.read(e.at(pixel, o), _FLOAT))
                    for k, value in enumerate(values):
                        e.fma(one, value, sums[k * TOGETHER + o])
        for k in range(chunks):
            for o in range(TOGETHER):
                place = e.at(e.at(out, b.mul(pitch, e.word(k))), o * LANES)
                e.write(place, b.fadd(e.read(place, _FLOATS), b.load(sums[k * TOGETHER + o])))

    return weights


def _inputs(rows: int, columns: int) -> Any:
    """`inputs(gradient, line, part, offsets, taps, weights, depth, out, out_line, out_step, channels)`.

    For so many pixels and 16 channels c: `Σ gradient[pixel + offset, o] · weights[tap, o, c]` over taps and output
    channels o below `depth`, of which 16 lie together and the next 16 `part` away; `channels` of them are written.
    """

    @_tile(11)
    def inputs(e: _Emitter, gradient, line, part, offsets, taps, weights, depth, out, out_line, out_step, channels):
        b = e.b
        sums = e.sums(_FLOATS, rows * columns)
        full = b.sdiv(b.add(depth, e.word(LANES - 1)), e.word(LANES))
        with cgutils.for_range(b, taps) as tap:
            start = e.at(gradient, e.read(e.at(offsets, tap.index, 8), _WORD))
            lanes = e.at(weights, b.mul(tap.index, depth), 4 * LANES)
            with cgutils.for_range(b, full) as block:
                first = b.mul(block.index, e.word(LANES))
                left = b.sub(depth, first)
                many = b.select(b.icmp_signed("<", left, e.word(LANES)), left, e.word(LANES))
                pixel, weight = e.at(start, b.mul(block.index, part)), e.at(lanes, first, 4 * LANES)
                with cgutils.for_range(b, many) as channel:
                    value = e.read(e.at(weight, channel.index, 4 * LANES), _FLOATS)
                    here = e.at(pixel, channel.index)
                    for r in range(rows):
                        row = e.at(here, b.mul(line, e.word(r)))
                        for c in range(columns):
                            one = e.splat(e.read(e.at(row, c * LANES), _FLOAT))
                            e.fma(one, value, sums[r * columns + c])
        for r in range(rows):
            for c in range(columns):
                place = b.add(b.mul(out_line, e.word(r)), b.mul(out_step, e.word(c)))
                write_lanes(b, out, place, b.load(sums[r * columns + c]), channels)

    return inputs


count_8, count_4, count_1 = (_count(pixels) for pixels in COUNTED)
weights_3, weights_2, weights_1 = (_weights(chunks) for chunks in (3, 2, 1))
inputs_first, inputs_second, inputs_third, inputs_one = (_inputs(*shape) for shape in TILES)


def _picked(e: _Emitter, value: Any, lanes: list[int]) -> Any:
    chosen = ir.Constant(ir.VectorType(_INT, len(lanes)), lanes)
    return e.b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), chosen)


def _narrow(group: int) -> Any:
    """`narrow(x, out)`: averages of so many channels that lie together, for 16 groups of a pixel."""

    @_tile(2)
    def narrow(e: _Emitter, x, out) -> None:
        values = e.read(x, ir.VectorType(_FLOAT, group * LANES))
        share = ir.Constant(_FLOATS, [1 / group] * LANES)
        (total,) = e.sums(_FLOATS, 1)
        for k in range(group):
            e.fma(_picked(e, values, [group * i + k for i in range(LANES)]), share, total)
        e.write(out, e.b.load(total))

    return narrow


def _widen(group: int) -> Any:
    """`widen(gradient, out)`: the gradient of what `narrow` reads."""

    @_tile(2)
    def widen(e: _Emitter, gradient, out) -> None:
        value = e.b.fmul(e.read(gradient, _FLOATS), ir.Constant(_FLOATS, [1 / group] * LANES))
        for k in range(group):
            e.write(e.at(out, k * LANES), _picked(e, value, [(k * LANES + i) // group for i in range(LANES)]))

    return widen


GROUPS = (2, 3, 4)
"""Sizes of groups that are averaged."""

narrow_2, narrow_3, narrow_4 = (_narrow(group) for group in GROUPS)
widen_2, widen_3, widen_4 = (_widen(group) for group in GROUPS)
