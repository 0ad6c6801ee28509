"""Rows of maps, a vector at a time: numba's own loops over them would stay scalar.

Every function here takes `LANES` values at a time, also past the end of a row, so it may read and write up to
`LANES − 1` elements more than it is asked to: rows are written in ascending order, so that what is overwritten is
written again, and every array has room behind its end. Arithmetic is one rounded operation at a time. Arrays are flat;
`to`, `at` and the like are indices in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from bnas.kernels.emitter import BYTE, FLOATS, INTS, LANES, SHORT, WORD, Emitter, instruction, lanes_of

POSITIONS = 64
"""Positions that one step of the convolution computes: bytes of the widest register."""

TOGETHER = 4
"""Output channels that share a load of the input."""

FULL = 31
"""Bytes whose popcounts fit into one byte (31 · 8 < 256)."""

# Arrays are pointers here: `_load(e, x, at)` is the vector at `x[at]`.


def _load(e: Emitter, array: Any, at: Any, lanes: int = LANES) -> Any:
    place = e.b.gep(array, [at])
    return e.b.load(e.b.bitcast(place, lanes_of(array.type.pointee, lanes).as_pointer()), align=1)


def _store(e: Emitter, value: Any, array: Any, at: Any) -> None:
    e.b.store(value, e.b.bitcast(e.b.gep(array, [at]), value.type.as_pointer()), align=1)


def _steps(e: Emitter, width: Any) -> Iterator[Any]:
    """A loop over a row: how many of its values come before each vector. Instructions go into the loop's body."""
    with cgutils.for_range(e.b, e.b.sdiv(e.b.add(width, e.word(LANES - 1)), e.word(LANES))) as loop:
        yield e.b.mul(loop.index, e.word(LANES))


def _every_other(e: Emitter, value: Any, first: int) -> Any:
    return e.pick(value, range(first, 2 * LANES, 2))


@instruction()
def copy_row(e: Emitter, out, x, to, at, width, fill) -> None:
    """A row of x, then `fill` up to the next multiple of `LANES`."""
    for done in _steps(e, width):
        inside, values = e.below(e.b.sub(width, done)), _load(e, x, e.b.add(at, done))
        _store(e, e.b.select(inside, values, e.splat(fill)), out, e.b.add(to, done))


@instruction()
def thin_row(e: Emitter, out, x, to, at, width, fill) -> None:
    """Every other value of the `width` values of x from `at` on, then `fill` up to the next multiple of `LANES`."""
    kept = e.b.sdiv(e.b.add(width, e.word(1)), e.word(2))
    for done in _steps(e, kept):
        values = _every_other(e, _load(e, x, e.b.add(at, e.b.mul(done, e.word(2))), 2 * LANES), 0)
        _store(e, e.b.select(e.below(e.b.sub(kept, done)), values, e.splat(fill)), out, e.b.add(to, done))


@instruction()
def halve_row(e: Emitter, out, x, to, at, below, width) -> None:
    """2×2 averages of the rows at `at` and `below` (−1: there is none)."""
    b = e.b
    there = b.icmp_signed(">=", below, e.word(0))
    lower = b.select(there, below, at)
    rows = b.select(there, e.splat(2), e.splat(1))
    for done in _steps(e, b.sdiv(b.add(width, e.word(1)), e.word(2))):
        twice = b.mul(done, e.word(2))
        inside = e.below(b.sub(width, twice), 2, 1)
        first, second = (_load(e, x, b.add(row, twice), 2 * LANES) for row in (at, lower))
        mask = b.and_(inside, e.splat(there))
        total = _every_other(e, first, 0)
        total = b.fadd(total, b.select(inside, _every_other(e, first, 1), e.splat(0)))
        total = b.fadd(total, b.select(e.splat(there), _every_other(e, second, 0), e.splat(0)))
        total = b.fadd(total, b.select(mask, _every_other(e, second, 1), e.splat(0)))
        columns = b.select(inside, e.splat(2), e.splat(1))
        _store(e, b.fdiv(total, b.fmul(columns, rows)), out, b.add(to, done))


def _sums_of_products(e: Emitter, counts: Any, at: Any, fixes: Any, fix: Any) -> Any:
    """`fix − 2 · count`, whole numbers."""
    return e.b.sub(_load(e, fixes, fix), e.double(e.b.zext(_load(e, counts, at), INTS)))


@instruction()
def finish_row(e: Emitter, out, counts, fixes, shortcut, to, at, fix, source, width, affine) -> None:
    """`PReLU((fix − 2 · count) · scale + shift + shortcut)` of a row; `affine` is `(scale, shift, slope)`.

    The row's counts lie at `at`, its fixes at `fix`, its shortcut at `source`.
    """
    b, (scale, shift, slope) = e.b, affine
    for done in _steps(e, width):
        whole = _sums_of_products(e, counts, b.add(at, done), fixes, b.add(fix, done))
        value = b.fadd(b.fmul(b.sitofp(whole, FLOATS), e.splat(scale)), e.splat(shift))
        value = b.fadd(value, _load(e, shortcut, b.add(source, done)))
        positive = b.fcmp_ordered(">", value, e.splat(0))
        _store(e, b.select(positive, value, b.fmul(e.splat(slope), value)), out, b.add(to, done))


def _around(
    e: Emitter, x: Any, row: tuple[Any, Any, Any, Any], start: Any, fill: Any, add: Callable[[Any, Any], Any]
) -> Iterator[tuple[Any, Any, Any]]:
    """For every vector of a row: what comes before it, what is made of the 3×3 around each value, how many those are.

    `row` is where the row lies, the row above it and the one below (−1: there is none), and its width. `fill` stands
    for what is not there; `start` None begins at the value itself.
    """
    b, (at, above, below, width) = e.b, row
    one, ones, zeros = e.word(1), e.splat(1), e.splat(0)
    numbers = ir.Constant(INTS, list(range(LANES)))
    for done in _steps(e, width):
        left = b.icmp_signed(">", numbers, e.splat(b.trunc(b.neg(done), INTS.element)))
        right = e.below(b.sub(b.sub(width, done), one))
        columns = b.fadd(b.fadd(b.select(left, ones, zeros), ones), b.select(right, ones, zeros))
        made, rows = start if start is not None else _load(e, x, b.add(at, done)), zeros
        for place in (above, at, below):
            there = b.icmp_signed(">=", place, e.word(0))
            first = b.add(b.select(there, place, at), done)
            rows = b.fadd(rows, b.select(e.splat(there), ones, zeros))
            for position, inside in ((b.sub(first, one), left), (first, None), (b.add(first, one), right)):
                wanted = e.splat(there) if inside is None else b.and_(inside, e.splat(there))
                made = add(made, b.select(wanted, _load(e, x, position), fill))
        yield done, made, b.fmul(rows, columns)


@instruction()
def max_row(e: Emitter, out, x, to, at, above, below, width) -> None:
    """The largest of the 3×3 around each value of the row at `at`; the rows beside it lie at `above` and `below`.

    −1 stands for a row that there is not. Reads one value before a row, too.
    """

    def larger(a: Any, value: Any) -> Any:
        return e.b.select(e.b.fcmp_ordered(">", value, a), value, a)

    # Begun at the value itself, so that one that is not a number stays.
    for done, made, _ in _around(e, x, (at, above, below, width), None, e.splat(float("-inf")), larger):
        _store(e, made, out, e.b.add(to, done))


@instruction()
def mean_row(e: Emitter, out, x, to, at, above, below, width) -> None:
    """The mean of what there is of the 3×3 around each value, added up row by row; otherwise as `max_row`."""
    for done, made, count in _around(e, x, (at, above, below, width), e.splat(0), e.splat(0), e.b.fadd):
        _store(e, e.b.fdiv(made, count), out, e.b.add(to, done))


@instruction()
def sum_row(e: Emitter, totals, counts, fixes, at, fix, width) -> None:
    """Adds `fix − 2 · count` and its square over a row to `totals`.

    `totals` int64 `[2 · LANES]`: a part of the sum in each of the first lanes, one of the squares' in each of the rest.
    """
    b, words = e.b, lanes_of(WORD)
    places = [e.word(0), e.word(LANES)]
    sums = [cgutils.alloca_once_value(b, _load(e, totals, place)) for place in places]
    for done in _steps(e, width):
        whole = _sums_of_products(e, counts, b.add(at, done), fixes, b.add(fix, done))
        whole = b.select(e.below(b.sub(width, done)), whole, ir.Constant(INTS, None))
        for total, value in zip(sums, (whole, b.mul(whole, whole)), strict=True):
            e.add_to(total, b.sext(value, words))
    for place, total in zip(places, sums, strict=True):
        _store(e, b.load(total), totals, place)


@instruction()
def count_differences(e: Emitter, counts, planes, weights, distances, start, first, taps, to, pitch) -> None:
    """Popcounts of `TOGETHER` outputs at `POSITIONS` positions, as uint16.

    `counts[to + o · pitch + i] = Σ_t popcount(planes[start + distances[t] + i] ^ weights[first + t · TOGETHER + o])`.
    """
    b, bytes_, halves = e.b, lanes_of(BYTE, POSITIONS), lanes_of(SHORT, POSITIONS)
    parts = [cgutils.alloca_once(b, bytes_) for _ in range(TOGETHER)]
    totals, full = e.sums(halves, TOGETHER), e.word(FULL)
    with cgutils.for_range(b, b.sdiv(b.add(taps, e.word(FULL - 1)), full)) as chunk:
        begin = b.mul(chunk.index, full)
        left = b.sub(taps, begin)
        for part in parts:
            b.store(ir.Constant(bytes_, None), part)
        with cgutils.for_range(b, b.select(b.icmp_signed("<", left, full), left, full)) as loop:
            tap = b.add(begin, loop.index)
            x = _load(e, planes, b.add(start, b.load(b.gep(distances, [tap]))), POSITIONS)
            row = b.add(first, b.mul(tap, e.word(TOGETHER)))
            for o, part in enumerate(parts):
                weight = b.load(b.gep(weights, [b.add(row, e.word(o))]))
                e.add_to(part, e.elementwise("ctpop", b.xor(x, e.splat(weight, POSITIONS))))
        for total, part in zip(totals, parts, strict=True):
            e.add_to(total, b.zext(b.load(part), halves))
    for o, total in enumerate(totals):
        _store(e, b.load(total), counts, b.add(to, b.mul(pitch, e.word(o))))
