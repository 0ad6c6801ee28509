"""Vectors of floats in numba: what `convolution`, `passes` and `pooling` are written in.

`count` is how many of a vector's lanes there are in memory: others are read as 0 and not written. Arrays are given by
their address.
"""

from __future__ import annotations

import operator
from typing import Any

from numba import types
from numba.extending import models, overload, register_model

from bnas.kernels import numba_cache
from bnas.kernels.emitter import BYTE, FLOAT, FLOATS, INTS, SHORT, WORD, Emitter, instruction, lanes_of

# Its type is of no use where calls are compiled.
compiled: Any = numba_cache.compiled()


class Vector(types.Type):
    """`LANES` float32 values."""

    def __init__(self) -> None:
        super().__init__(name="Vector")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, FLOATS)


# ---------------------------------------------------------------- memory


@instruction(vector)
def load(e: Emitter, address, index, count):
    """The vector at `address[index]`."""
    return e.read_lanes(address, index, FLOAT, count)


@instruction(vector)
def load_counts(e: Emitter, address, index, count):
    """The vector of the int16 values at `address[index]`."""
    return e.b.sitofp(e.b.sext(e.read_lanes(address, index, SHORT, count), INTS), FLOATS)


@instruction(vector)
def load_bytes(e: Emitter, address, index, count):
    """The vector of the uint8 values at `address[index]`."""
    return e.b.uitofp(e.read_lanes(address, index, BYTE, count), FLOATS)


@instruction()
def store(e: Emitter, address, index, count, value):
    """Writes a vector to `address[index]`."""
    e.write_lanes(address, index, value, count)


@instruction()
def store_bytes(e: Emitter, address, index, count, value):
    """Writes a vector of whole numbers to `address[index]` as uint8."""
    e.write_lanes(address, index, e.b.fptoui(value, lanes_of(BYTE)), count)


@instruction()
def store_bits(e: Emitter, address, count, value):
    """Writes two bytes: bit i is set where lane i ≥ 0 and i < `count`."""
    e.write(address, _sign_bits(e, value, count))


@instruction(types.int64)
def bits(e: Emitter, value, count):
    """An int64 whose bit i is set where lane i ≥ 0 and i < `count`."""
    return e.b.zext(_sign_bits(e, value, count), WORD)


def _sign_bits(e: Emitter, value, count):
    return e.b.bitcast(e.b.and_(e.b.fcmp_ordered(">=", value, e.splat(0)), e.below(count)), SHORT)


@instruction(types.int64)
def number(e: Emitter, address, index):
    """The int64 at `address[index]`."""
    return e.b.load(e.b.gep(e.b.inttoptr(address, WORD.as_pointer()), [index]))


@instruction(types.int64)
def take(e: Emitter, address):
    """The number at an address, which it raises by one: nobody else gets the same."""
    return e.b.atomic_rmw("add", e.b.inttoptr(address, WORD.as_pointer()), e.word(1), "monotonic")


@instruction(types.int64)
def address_of(e: Emitter, pointer):
    """The address that a pointer holds."""
    return e.b.ptrtoint(pointer, WORD)


# ---------------------------------------------------------------- arithmetic


@instruction(types.int64)
def popcount(e: Emitter, value):
    """How many bits of an int64 are set."""
    return e.b.ctpop(value)


@instruction(vector)
def splat(e: Emitter, value):
    """A vector of one value."""
    return e.splat(value)


@instruction(None)
def fma(e: Emitter, x, y, z):
    """`x · y + z`, rounded once, of vectors or numbers."""
    return e.elementwise("fma", x, y, z)


@instruction(vector)
def signs(e: Emitter, x):
    """+1 where x ≥ 0, else −1."""
    return e.b.select(e.b.fcmp_ordered(">=", x, e.splat(0)), e.splat(1), e.splat(-1))


@instruction(vector)
def magnitude(e: Emitter, x):
    """|x|."""
    return e.elementwise("fabs", x)


@instruction(vector)
def where_positive(e: Emitter, tested, x, y):
    """x where `tested > 0`, else y."""
    return e.b.select(e.b.fcmp_ordered(">", tested, e.splat(0)), x, y)


@instruction(vector)
def where_larger(e: Emitter, tested, than, x, y):
    """x where `tested > than` or `tested` is not a number, else y."""
    larger = e.b.or_(e.b.fcmp_ordered(">", tested, than), e.b.fcmp_unordered("uno", tested, tested))
    return e.b.select(larger, x, y)


@instruction(vector)
def where_equal(e: Emitter, tested, to, x, y):
    """x where `tested = to`, else y."""
    return e.b.select(e.b.fcmp_ordered("==", tested, to), x, y)


@instruction(vector)
def _add(e: Emitter, x, y):
    return e.b.fadd(x, y)


@instruction(vector)
def _subtract(e: Emitter, x, y):
    return e.b.fsub(x, y)


@instruction(vector)
def _multiply(e: Emitter, x, y):
    return e.b.fmul(x, y)


@instruction(vector)
def _divide(e: Emitter, x, y):
    return e.b.fdiv(x, y)


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
