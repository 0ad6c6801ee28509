"""Vector instructions that numba's own loops do not come to: rows of maps are short, and their loops would stay scalar.

Every function here takes `LANES` values at a time, also past the end of a row, so it may read and write up to
`LANES − 1` elements more than it is asked to: rows are written in ascending order, so that what is overwritten is
written again, and every array has room behind its end. Arithmetic is one rounded operation at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Values of a row that are computed at once: floats of the widest vector register there is."""

POSITIONS = 64
"""Positions that one step of the convolution computes: bytes of that register."""

TOGETHER = 4
"""Output channels that share a load of the input."""

FULL = 31
"""Bytes whose popcounts fit into one byte (31 · 8 < 256)."""

_INT, _WORD = ir.IntType(32), ir.IntType(64)


class _Emitter:
    """What the instructions of one row are made of; `arrays` and `numbers` are the intrinsic's arguments."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, arrays: int) -> None:
        self.builder = builder
        self.pointers = [
            context.make_array(kind)(context, builder, value=value).data
            for kind, value in zip(signature.args[:arrays], args[:arrays], strict=True)
        ]
        self.values = [
            item
            for kind, value in zip(signature.args[arrays:], args[arrays:], strict=True)
            for item in cgutils.unpack_tuple(builder, value, len(kind))
        ]

    def load(self, array: int, at: Any, lanes: int = LANES) -> Any:
        place = self.builder.gep(self.pointers[array], [at])
        vector = ir.VectorType(self.pointers[array].type.pointee, lanes)
        return self.builder.load(self.builder.bitcast(place, vector.as_pointer()), align=1)

    def store(self, value: Any, array: int, at: Any) -> None:
        place = self.builder.gep(self.pointers[array], [at])
        self.builder.store(value, self.builder.bitcast(place, value.type.as_pointer()), align=1)

    def splat(self, value: Any, lanes: int = LANES) -> Any:
        undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(_INT, 0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT, lanes), None))

    def every_other(self, value: Any, first: int) -> Any:
        picked = ir.Constant(ir.VectorType(_INT, LANES), [first + 2 * i for i in range(LANES)])
        return self.builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), picked)

    def below(self, bound: Any, step: int = 1, first: int = 0) -> Any:
        """Which lanes i have `first + step · i < bound` (a word)."""
        numbers = ir.Constant(ir.VectorType(_INT, LANES), [first + step * i for i in range(LANES)])
        return self.builder.icmp_signed("<", numbers, self.splat(self.builder.trunc(bound, _INT)))

    def steps(self, width: Any) -> Any:
        """A loop over a row of that width; its index counts whole vectors."""
        rounded = self.builder.add(width, ir.Constant(_WORD, LANES - 1))
        return cgutils.for_range(self.builder, self.builder.sdiv(rounded, ir.Constant(_WORD, LANES)))

    def scaled(self, index: Any, factor: int) -> Any:
        return self.builder.mul(index, ir.Constant(_WORD, factor))


def _instruction(arrays: int, tuples: int) -> Callable[[Callable[[_Emitter], None]], Any]:
    """An intrinsic of so many arrays and tuples of numbers, without a result, from what emits its instructions."""

    def wrap(emit: Callable[[_Emitter], None]) -> Any:
        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            emit(_Emitter(context, builder, signature, args, arrays))
            return context.get_dummy_value()

        if (arrays, tuples) == (2, 2):
            return intrinsic(lambda typing, a, b, s, t: (types.void(a, b, s, t), build))
        if (arrays, tuples) == (2, 1):
            return intrinsic(lambda typing, a, b, s: (types.void(a, b, s), build))
        if (arrays, tuples) == (3, 1):
            return intrinsic(lambda typing, a, b, c, s: (types.void(a, b, c, s), build))
        if (arrays, tuples) == (4, 1):
            return intrinsic(lambda typing, a, b, c, d, s: (types.void(a, b, c, d, s), build))
        return intrinsic(lambda typing, a, b, c, d, s, t: (types.void(a, b, c, d, s, t), build))

    return wrap


@_instruction(2, 2)
def copy_row(e: _Emitter) -> None:
    """`copy_row(out, x, (to, at, width), (fill,))`: a row of x, then `fill` up to the next multiple of `LANES`."""
    to, at, width, fill = e.values
    with e.steps(width) as loop:
        done = e.scaled(loop.index, LANES)
        values = e.load(1, e.builder.add(at, done))
        inside = e.below(e.builder.sub(width, done))
        e.store(e.builder.select(inside, values, e.splat(fill)), 0, e.builder.add(to, done))


@_instruction(2, 2)
def thin_row(e: _Emitter) -> None:
    """`thin_row(out, x, (to, at, width), (fill,))`: every other value of x from `at` on, then `fill` as above."""
    to, at, width, fill = e.values
    kept = e.builder.sdiv(e.builder.add(width, ir.Constant(_WORD, 1)), ir.Constant(_WORD, 2))
    with e.steps(kept) as loop:
        done = e.scaled(loop.index, LANES)
        values = e.every_other(e.load(1, e.builder.add(at, e.scaled(done, 2)), 2 * LANES), 0)
        inside = e.below(e.builder.sub(kept, done))
        e.store(e.builder.select(inside, values, e.splat(fill)), 0, e.builder.add(to, done))


@_instruction(2, 1)
def halve_row(e: _Emitter) -> None:
    """`halve_row(out, x, (to, at, below, width))`: 2×2 averages of the rows at `at` and `below` (−1: there is none)."""
    to, at, below, width = e.values
    b = e.builder
    single = ir.FloatType()
    there = b.icmp_signed(">=", below, ir.Constant(_WORD, 0))
    lower = b.select(there, below, at)
    rows = b.select(there, ir.Constant(single, 2.0), ir.Constant(single, 1.0))
    zero = ir.Constant(ir.VectorType(single, LANES), None)
    pairs = b.sdiv(b.add(width, ir.Constant(_WORD, 1)), ir.Constant(_WORD, 2))
    with e.steps(pairs) as loop:
        done = e.scaled(loop.index, LANES)
        inside = e.below(b.sub(width, e.scaled(done, 2)), 2, 1)
        first, second = (e.load(1, b.add(row, e.scaled(done, 2)), 2 * LANES) for row in (at, lower))
        mask = b.and_(inside, e.splat(there))
        total = e.every_other(first, 0)
        total = b.fadd(total, b.select(inside, e.every_other(first, 1), zero))
        total = b.fadd(total, b.select(e.splat(there), e.every_other(second, 0), zero))
        total = b.fadd(total, b.select(mask, e.every_other(second, 1), zero))
        columns = b.select(inside, e.splat(ir.Constant(single, 2.0)), e.splat(ir.Constant(single, 1.0)))
        e.store(b.fdiv(total, b.fmul(columns, e.splat(rows))), 0, b.add(to, done))


@_instruction(4, 2)
def finish_row(e: _Emitter) -> None:
    """`finish_row(out, counts, fixes, shortcut, (to, at, fix, from, width), (scale, shift, slope))`.

    `PReLU((fix − 2 · count) · scale + shift + shortcut)` of a row.
    """
    to, at, fix, source, width, scale, shift, slope = e.values
    b = e.builder
    integers, singles = ir.VectorType(_INT, LANES), ir.VectorType(ir.FloatType(), LANES)
    with e.steps(width) as loop:
        done = e.scaled(loop.index, LANES)
        count = b.zext(e.load(1, b.add(at, done)), integers)
        whole = b.sub(e.load(2, b.add(fix, done)), b.shl(count, ir.Constant(integers, [1] * LANES)))
        value = b.fadd(b.fmul(b.sitofp(whole, singles), e.splat(scale)), e.splat(shift))
        value = b.fadd(value, e.load(3, b.add(source, done)))
        positive = b.fcmp_ordered(">", value, ir.Constant(singles, None))
        e.store(b.select(positive, value, b.fmul(e.splat(slope), value)), 0, b.add(to, done))


def _around(e: _Emitter, start: Any, fill: Any, add: Callable[[Any, Any], Any]) -> Iterator[tuple[Any, Any, Any]]:
    """For every vector of a row: its index, what is made of the 3×3 around each value, and how many those are.

    `fill` stands for what is not there; `start` None begins at the value itself.
    """
    _, at, above, below, width = e.values
    b = e.builder
    one, ones = ir.Constant(_WORD, 1), e.splat(ir.Constant(ir.FloatType(), 1.0))
    zeros = ir.Constant(ones.type, None)
    numbers = ir.Constant(ir.VectorType(_INT, LANES), list(range(LANES)))
    with e.steps(width) as loop:
        done = e.scaled(loop.index, LANES)
        left = b.icmp_signed(">", numbers, e.splat(b.trunc(b.neg(done), _INT)))
        right = e.below(b.sub(b.sub(width, done), one))
        columns = b.fadd(b.fadd(b.select(left, ones, zeros), ones), b.select(right, ones, zeros))
        made, rows = start if start is not None else e.load(1, b.add(at, done)), zeros
        for place in (above, at, below):
            there = b.icmp_signed(">=", place, ir.Constant(_WORD, 0))
            first = b.add(b.select(there, place, at), done)
            rows = b.fadd(rows, b.select(e.splat(there), ones, zeros))
            for position, inside in ((b.sub(first, one), left), (first, None), (b.add(first, one), right)):
                wanted = e.splat(there) if inside is None else b.and_(inside, e.splat(there))
                made = add(made, b.select(wanted, e.load(1, position), fill))
        yield loop.index, made, b.fmul(rows, columns)


@_instruction(2, 1)
def max_row(e: _Emitter) -> None:
    """`max_row(out, x, (to, at, above, below, width))`: the largest of the 3×3 around each value of the row at `at`.

    The rows beside it are at `above` and `below` (−1: there is none). Reads one value before a row, too.
    """
    b = e.builder

    def larger(a: Any, value: Any) -> Any:
        return b.select(b.fcmp_ordered(">", value, a), value, a)

    # Begun at the value itself, so that one that is not a number stays.
    for index, made, _ in _around(e, None, e.splat(ir.Constant(ir.FloatType(), float("-inf"))), larger):
        e.store(made, 0, b.add(e.values[0], e.scaled(index, LANES)))


@_instruction(2, 1)
def mean_row(e: _Emitter) -> None:
    """The mean of what there is of the 3×3 around each value, added up row by row; otherwise as `max_row`."""
    zeros = ir.Constant(ir.VectorType(ir.FloatType(), LANES), None)
    for index, made, count in _around(e, zeros, zeros, e.builder.fadd):
        e.store(e.builder.fdiv(made, count), 0, e.builder.add(e.values[0], e.scaled(index, LANES)))


@_instruction(3, 1)
def sum_row(e: _Emitter) -> None:
    """`sum_row(totals, counts, fixes, (at, fix, width))`: adds up `fix − 2 · count` and its square over a row.

    `totals` int64 `[2 · LANES]`: a part of the sum in each of the first lanes, one of the squares' in each of the rest.
    """
    at, fix, width = e.values
    b = e.builder
    integers, words = ir.VectorType(_INT, LANES), ir.VectorType(_WORD, LANES)
    half = ir.Constant(_WORD, LANES)
    places = [b.bitcast(b.gep(e.pointers[0], [at]), words.as_pointer()) for at in (ir.Constant(_WORD, 0), half)]
    totals = [cgutils.alloca_once_value(b, b.load(place, align=8)) for place in places]
    with e.steps(width) as loop:
        done = e.scaled(loop.index, LANES)
        count = b.zext(e.load(1, b.add(at, done)), integers)
        whole = b.sub(e.load(2, b.add(fix, done)), b.shl(count, ir.Constant(integers, [1] * LANES)))
        whole = b.select(e.below(b.sub(width, done)), whole, ir.Constant(integers, None))
        for total, value in zip(totals, (whole, b.mul(whole, whole)), strict=True):
            b.store(b.add(b.load(total), b.sext(value, words)), total)
    for place, total in zip(places, totals, strict=True):
        b.store(b.load(total), place, align=8)


@_instruction(4, 1)
def count_differences(e: _Emitter) -> None:
    """Popcounts of `TOGETHER` outputs at `POSITIONS` positions, as uint16.

    `count_differences(counts, planes, weights, distances, (start, first, taps, to, pitch))` writes `counts[to + o ·
    pitch + i] = Σ_t popcount(planes[start + distances[t] + i] ^ weights[first + t · TOGETHER + o])`.
    """
    start, first, number, to, pitch = e.values
    b = e.builder
    bytes_ = ir.VectorType(ir.IntType(8), POSITIONS)
    halves = ir.VectorType(ir.IntType(16), POSITIONS)
    kind = ir.FunctionType(bytes_, [bytes_])
    popcount = cgutils.get_or_insert_function(b.module, kind, f"llvm.ctpop.v{POSITIONS}i8")
    totals = [cgutils.alloca_once(b, halves) for _ in range(TOGETHER)]
    parts = [cgutils.alloca_once(b, bytes_) for _ in range(TOGETHER)]
    for total in totals:
        b.store(ir.Constant(halves, None), total)
    full = ir.Constant(_WORD, FULL)
    with cgutils.for_range(b, b.sdiv(b.add(number, ir.Constant(_WORD, FULL - 1)), full)) as chunk:
        begin = b.mul(chunk.index, full)
        left = b.sub(number, begin)
        for part in parts:
            b.store(ir.Constant(bytes_, None), part)
        with cgutils.for_range(b, b.select(b.icmp_signed("<", left, full), left, full)) as loop:
            tap = b.add(begin, loop.index)
            distance = b.load(b.gep(e.pointers[3], [tap]))
            x = e.load(1, b.add(start, distance), POSITIONS)
            row = b.add(first, e.scaled(tap, TOGETHER))
            for o, part in enumerate(parts):
                weight = b.load(b.gep(e.pointers[2], [b.add(row, ir.Constant(_WORD, o))]))
                found = b.call(popcount, [b.xor(x, e.splat(weight, POSITIONS))])
                b.store(b.add(b.load(part), found), part)
        for total, part in zip(totals, parts, strict=True):
            b.store(b.add(b.load(total), b.zext(b.load(part), halves)), total)
    for o, total in enumerate(totals):
        e.store(b.load(total), 0, b.add(to, e.scaled(pitch, o)))
