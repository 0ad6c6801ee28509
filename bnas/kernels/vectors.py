"""Vectors of floats in numba: what the passes of `bnas.kernels.passes` are written in.

Vectors are written out, since numba's own loops over a few channels stay scalar. `count` is how many of a vector's
lanes there are in memory: others are read as 0 and not written. Arrays are given by their address.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import binding, ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, overload, register_model

from bnas.kernels import numba_cache

LANES = 16
"""Floats computed at once: those of the widest vector register there is."""

WIDE: bool = binding.get_host_cpu_features().get("avx512f", False)
"""Whether there are 32 such registers, and any number of their lanes is read and written at once. Elsewhere a vector
is two registers of 16 or four of 32: fewer sums fit into them, and lanes of their own cost a branch or a call each."""

# Their types are of no use where calls are compiled.
intrinsic: Any = extending.intrinsic
carray: Any = getattr(numba, "carray")  # noqa: B009  # not in its stubs
compiled: Any = numba_cache.compiled()

_FLOAT, _BYTE, _SHORT, _INT, _WORD = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_BYTES = {_FLOAT: 4, _BYTE: 1, _SHORT: 2}


class Vector(types.Type):
    """`LANES` float32 values."""

    def __init__(self) -> None:
        super().__init__(name="Vector")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT, LANES), None))


def _there(builder: Any, count: Any) -> Any:
    numbers = ir.Constant(ir.VectorType(_INT, LANES), list(range(LANES)))
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(count, _INT)))


def _by_count(b: Any, count: Any, act: Callable[[int | None], None]) -> None:
    """`act(lanes)` where so many lanes are there, else `act(None)`: all and half of them need no mask."""
    if WIDE:
        act(None)
        return
    with b.if_else(b.icmp_signed(">=", count, ir.Constant(_WORD, LANES))) as (all_of_them, fewer):
        with all_of_them:
            act(LANES)
        with fewer, b.if_else(b.icmp_signed("==", count, ir.Constant(_WORD, LANES // 2))) as (half, others):
            with half:
                act(LANES // 2)
            with others:
                act(None)


def _name(element: Any) -> str:
    return f"v{LANES}{'f32' if element == _FLOAT else element}"


def read_lanes(b: Any, address: Any, index: Any, element: Any, count: Any) -> Any:
    """The first `count` of `LANES` elements at `address[index]`, then zeros."""
    kind, size = ir.VectorType(element, LANES), ir.Constant(_INT, _BYTES[element])
    place = b.gep(b.inttoptr(address, element.as_pointer()), [index])
    found = cgutils.alloca_once(b, kind)

    def read(lanes: int | None) -> None:
        if lanes is None:
            whole = b.bitcast(place, kind.as_pointer())
            function = ir.FunctionType(kind, [whole.type, _INT, ir.VectorType(ir.IntType(1), LANES), kind])
            masked = cgutils.get_or_insert_function(b.module, function, f"llvm.masked.load.{_name(element)}.p0")
            b.store(b.call(masked, [whole, size, _there(b, count), ir.Constant(kind, None)]), found)
            return
        part = ir.VectorType(element, lanes)
        value = b.load(b.bitcast(place, part.as_pointer()), align=_BYTES[element])
        numbers = [min(i, lanes) for i in range(LANES)]
        picked = ir.Constant(ir.VectorType(_INT, LANES), numbers)
        b.store(b.shuffle_vector(value, ir.Constant(part, None), picked), found)

    _by_count(b, count, read)
    return b.load(found)


def write_lanes(b: Any, address: Any, index: Any, value: Any, count: Any) -> None:
    """Writes the first `count` lanes to `address[index]`."""
    element = value.type.element
    place = b.gep(b.inttoptr(address, element.as_pointer()), [index])

    def write(lanes: int | None) -> None:
        if lanes is None:
            whole = b.bitcast(place, value.type.as_pointer())
            there = _there(b, count)
            function = ir.FunctionType(ir.VoidType(), [value.type, whole.type, _INT, there.type])
            masked = cgutils.get_or_insert_function(b.module, function, f"llvm.masked.store.{_name(element)}.p0")
            b.call(masked, [value, whole, ir.Constant(_INT, _BYTES[element]), there])
            return
        picked = ir.Constant(ir.VectorType(_INT, lanes), list(range(lanes)))
        part = b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), picked)
        b.store(part, b.bitcast(place, part.type.as_pointer()), align=_BYTES[element])

    _by_count(b, count, write)


@intrinsic
def load(typing: Any, address: Any, index: Any, count: Any) -> Any:
    """The vector at `address[index]`."""
    build = lambda context, b, signature, args: read_lanes(b, args[0], args[1], _FLOAT, args[2])  # noqa: E731
    return vector(types.int64, types.int64, types.int64), build


@intrinsic
def store(typing: Any, address: Any, index: Any, count: Any, value: Any) -> Any:
    """Writes a vector to `address[index]`."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        write_lanes(b, args[0], args[1], args[3], args[2])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, vector), build


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """A vector of one value."""
    return vector(types.float32), lambda context, b, signature, args: _splat(b, args[0])


@intrinsic
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """`x · y + z`, rounded once, of vectors or numbers."""
    kind, name = (_VECTOR, f"v{LANES}f32") if isinstance(x, Vector) else (_FLOAT, "f32")

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(kind, [kind, kind, kind])
        return b.call(cgutils.get_or_insert_function(b.module, function, f"llvm.fma.{name}"), args)

    of = vector if isinstance(x, Vector) else types.float32
    return of(of, of, of), build


@intrinsic
def where_positive(typing: Any, tested: Any, x: Any, y: Any) -> Any:
    """x where `tested > 0`, else y."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.select(b.fcmp_ordered(">", args[0], ir.Constant(_VECTOR, None)), args[1], args[2])

    return vector(vector, vector, vector), build


@intrinsic
def signs(typing: Any, x: Any) -> Any:
    """+1 where x ≥ 0, else −1."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        one, other = (ir.Constant(_VECTOR, [value] * LANES) for value in (1.0, -1.0))
        return b.select(b.fcmp_ordered(">=", args[0], ir.Constant(_VECTOR, None)), one, other)

    return vector(vector), build


@intrinsic
def magnitude(typing: Any, x: Any) -> Any:
    """|x|."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.fabs.v{LANES}f32"), args)

    return vector(vector), build


def _binary(name: str) -> Any:
    def declare(typing: Any, x: Any, y: Any) -> Any:
        return vector(vector, vector), lambda context, b, signature, args: getattr(b, name)(*args)

    return intrinsic(declare)


_add, _subtract, _multiply, _divide = (_binary(name) for name in ("fadd", "fsub", "fmul", "fdiv"))


@overload(operator.add)
def _plus(x, y):
    return (lambda x, y: _add(x, y)) if isinstance(x, Vector) else None


@overload(operator.sub)
def _minus(x, y):
    return (lambda x, y: _subtract(x, y)) if isinstance(x, Vector) else None


@overload(operator.mul)
def _times(x, y):
    return (lambda x, y: _multiply(x, y)) if isinstance(x, Vector) else None


@overload(operator.truediv)
def _over(x, y):
    return (lambda x, y: _divide(x, y)) if isinstance(x, Vector) else None


@intrinsic
def take(typing: Any, address: Any) -> Any:
    """The number at an address, which it raises by one: nobody else gets the same."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        place = b.inttoptr(args[0], _WORD.as_pointer())
        return b.atomic_rmw("add", place, ir.Constant(_WORD, 1), "monotonic")

    return types.int64(types.int64), build


@intrinsic
def address_of(typing: Any, data: Any) -> Any:
    """Of what a pointer points to."""
    return types.int64(types.voidptr), lambda context, b, signature, args: b.ptrtoint(args[0], _WORD)


@intrinsic
def load_counts(typing: Any, address: Any, index: Any, count: Any) -> Any:
    """The vector of the int16 values at `address[index]`."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        found = read_lanes(b, args[0], args[1], _SHORT, args[2])
        return b.sitofp(b.sext(found, ir.VectorType(_INT, LANES)), _VECTOR)

    return vector(types.int64, types.int64, types.int64), build


@intrinsic
def store_bits(typing: Any, address: Any, count: Any, value: Any) -> Any:
    """Writes two bytes: bit i is set where lane i ≥ 0 and i < `count`."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        set_ = b.and_(b.fcmp_ordered(">=", args[2], ir.Constant(_VECTOR, None)), _there(b, args[1]))
        b.store(b.bitcast(set_, _SHORT), b.inttoptr(args[0], _SHORT.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, vector), build


@intrinsic
def number(typing: Any, address: Any, index: Any) -> Any:
    """The int64 at `address[index]`."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.load(b.gep(b.inttoptr(args[0], _WORD.as_pointer()), [args[1]]))

    return types.int64(types.int64, types.int64), build


@intrinsic
def bits(typing: Any, value: Any, count: Any) -> Any:
    """An int64 whose bit i is set where lane i ≥ 0 and i < `count`."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        set_ = b.and_(b.fcmp_ordered(">=", args[0], ir.Constant(_VECTOR, None)), _there(b, args[1]))
        return b.zext(b.bitcast(set_, _SHORT), _WORD)

    return types.int64(vector, types.int64), build


@intrinsic
def popcount(typing: Any, value: Any) -> Any:
    """How many bits of an int64 are set."""
    return types.int64(types.int64), lambda context, b, signature, args: b.ctpop(args[0])


@intrinsic
def where_larger(typing: Any, tested: Any, than: Any, x: Any, y: Any) -> Any:
    """x where `tested > than` or `tested` is not a number, else y."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        larger = b.or_(b.fcmp_ordered(">", args[0], args[1]), b.fcmp_unordered("uno", args[0], args[0]))
        return b.select(larger, args[2], args[3])

    return vector(vector, vector, vector, vector), build


@intrinsic
def where_equal(typing: Any, tested: Any, to: Any, x: Any, y: Any) -> Any:
    """x where `tested = to`, else y."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.select(b.fcmp_ordered("==", args[0], args[1]), args[2], args[3])

    return vector(vector, vector, vector, vector), build


@intrinsic
def load_bytes(typing: Any, address: Any, index: Any, count: Any) -> Any:
    """The vector of the uint8 values at `address[index]`."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.uitofp(read_lanes(b, args[0], args[1], _BYTE, args[2]), _VECTOR)

    return vector(types.int64, types.int64, types.int64), build


@intrinsic
def store_bytes(typing: Any, address: Any, index: Any, count: Any, value: Any) -> Any:
    """Writes a vector of whole numbers to `address[index]` as uint8."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        write_lanes(b, args[0], args[1], b.fptoui(args[3], ir.VectorType(_BYTE, LANES)), args[2])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, vector), build
