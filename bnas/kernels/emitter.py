"""LLVM instructions on vectors, from which the intrinsics of `vectors`, `tiles` and `bnas.packed.lanes` are made.

numba's own loops over a few channels or short rows stay scalar, so vectors are written out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba import extending, types
from numba.core import cgutils

LANES = 16
"""Values that are computed at once: floats of the widest vector register there is."""

WIDE: bool = binding.get_host_cpu_features().get("avx512f", False)
"""Whether there are 32 such registers, and any number of their lanes is read and written at once. Elsewhere a vector
is two registers of 16 or four of 32: fewer sums fit into them, and lanes of their own cost a branch or a call each."""

FLOAT, BYTE, SHORT, INT, WORD = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_BYTES = {FLOAT: 4, BYTE: 1, SHORT: 2}


def lanes_of(kind: Any, lanes: int = LANES) -> Any:
    """The type of a vector of so many values."""
    return ir.VectorType(kind, lanes)


FLOATS, SHORTS, INTS = lanes_of(FLOAT), lanes_of(SHORT), lanes_of(INT)


class Emitter:
    """Appends instructions; `b` is llvmlite's builder.

    Addresses, indices and counts are words of 64 bits. `count` is how many of a vector's lanes there are in memory:
    the others are read as 0 and not written.
    """

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def word(self, value: int) -> Any:
        """A constant of 64 bits."""
        return ir.Constant(WORD, value)

    def splat(self, value: Any, lanes: int = LANES) -> Any:
        """A vector of one value; a Python number is a float."""
        if isinstance(value, int | float):
            return ir.Constant(lanes_of(FLOAT, lanes), [float(value)] * lanes)
        undefined = ir.Constant(lanes_of(value.type, lanes), ir.Undefined)
        one = self.b.insert_element(undefined, value, ir.Constant(INT, 0))
        return self.b.shuffle_vector(one, undefined, ir.Constant(lanes_of(INT, lanes), None))

    def pick(self, value: Any, lanes: Sequence[int], other: Any = ir.Undefined) -> Any:
        """The vector of these lanes of a vector; numbers from its length on are lanes of one made of `other`."""
        chosen = ir.Constant(lanes_of(INT, len(lanes)), list(lanes))
        return self.b.shuffle_vector(value, ir.Constant(value.type, other), chosen)

    def double(self, value: Any) -> Any:
        """Twice a vector of whole numbers."""
        return self.b.shl(value, ir.Constant(value.type, [1] * value.type.count))

    def below(self, bound: Any, step: int = 1, first: int = 0) -> Any:
        """Which lanes i have `first + step · i < bound`."""
        numbers = ir.Constant(INTS, [first + step * i for i in range(LANES)])
        return self.b.icmp_signed("<", numbers, self.splat(self.b.trunc(bound, INT)))

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        """What LLVM's function of that name returns."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, f"llvm.{name}"), arguments)

    def elementwise(self, name: str, *values: Any) -> Any:
        """LLVM's function of that name on values of one type, vectors or not, with a result of this type."""
        kind = values[0].type
        return self.call(f"{name}.{_name(kind)}", kind, *values)

    def sums(self, kind: Any, count: int) -> list[Any]:
        """Registers that hold 0 at first."""
        registers = [cgutils.alloca_once(self.b, kind) for _ in range(count)]
        for register in registers:
            self.b.store(ir.Constant(kind, None), register)
        return registers

    def add_to(self, total: Any, value: Any) -> None:
        """Adds whole numbers to a register."""
        self.b.store(self.b.add(self.b.load(total), value), total)

    def add_product(self, total: Any, x: Any, y: Any) -> None:
        """Adds `x · y` to a register, rounded once."""
        self.b.store(self.elementwise("fma", x, y, self.b.load(total)), total)

    def at(self, address: Any, distance: Any, size: int = 4) -> Any:
        """The address `distance` elements of `size` bytes on."""
        if isinstance(distance, int):
            return self.b.add(address, self.word(distance * size))
        return self.b.add(address, self.b.mul(distance, self.word(size)))

    def read(self, address: Any, kind: Any) -> Any:
        """The value of that type at an address, wherever it lies."""
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=1)

    def write(self, address: Any, value: Any) -> None:
        """Stores a value at an address."""
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=1)

    def read_lanes(self, address: Any, index: Any, element: Any, count: Any) -> Any:
        """The first `count` of `LANES` elements at `address[index]`, then zeros."""
        kind, size = lanes_of(element), _BYTES[element]
        place = self.b.gep(self.b.inttoptr(address, element.as_pointer()), [index])
        values = cgutils.alloca_once(self.b, kind)

        def read(lanes: int | None) -> None:
            if lanes is None:
                whole = self.b.bitcast(place, kind.as_pointer())
                rest, name = ir.Constant(kind, None), f"masked.load.{_name(kind)}.p0"
                made = self.call(name, kind, whole, ir.Constant(INT, size), self.below(count), rest)
            else:
                part = self.b.load(self.b.bitcast(place, lanes_of(element, lanes).as_pointer()), align=size)
                made = self.pick(part, [min(i, lanes) for i in range(LANES)], None)
            self.b.store(made, values)

        self._by_count(count, read)
        return self.b.load(values)

    def write_lanes(self, address: Any, index: Any, value: Any, count: Any) -> None:
        """Writes the first `count` lanes to `address[index]`."""
        kind, element = value.type, value.type.element
        place, size = self.b.gep(self.b.inttoptr(address, element.as_pointer()), [index]), _BYTES[element]

        def write(lanes: int | None) -> None:
            if lanes is None:
                whole, name = self.b.bitcast(place, kind.as_pointer()), f"masked.store.{_name(kind)}.p0"
                self.call(name, ir.VoidType(), value, whole, ir.Constant(INT, size), self.below(count))
            else:
                part = self.pick(value, range(lanes))
                self.b.store(part, self.b.bitcast(place, part.type.as_pointer()), align=size)

        self._by_count(count, write)

    def _by_count(self, count: Any, act: Callable[[int | None], None]) -> None:
        """`act(lanes)` where so many lanes are there, else `act(None)`: all and half of them need no mask."""
        if WIDE:
            act(None)
            return
        with self.b.if_else(self.b.icmp_signed(">=", count, self.word(LANES))) as (all_of_them, fewer):
            with all_of_them:
                act(LANES)
            with fewer, self.b.if_else(self.b.icmp_signed("==", count, self.word(LANES // 2))) as (half, others):
                with half:
                    act(LANES // 2)
                with others:
                    act(None)


def _name(kind: Any) -> str:
    """LLVM's short name of a type: `f32`, `v16f32`, `v64i8`."""
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_name(kind.element)}"
    return "f32" if kind == FLOAT else str(kind)


def instruction(result: Any = types.void) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: a numba intrinsic from the function that emits it, `emit(e, …)` → value, or None without a result.

    Arrays come as pointers to their data, tuples as lists of their items. `result` is numba's type of the value; None
    for that of the first argument.
    """

    def wrap(emit: Callable[..., Any]) -> Any:
        def declare(typing: Any, *kinds: Any) -> Any:
            known = [types.unliteral(kind) for kind in kinds]

            def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                pairs = zip(signature.args, arguments, strict=True)
                value = emit(Emitter(builder), *(_plain(context, builder, kind, value) for kind, value in pairs))
                return context.get_dummy_value() if value is None else value

            return (known[0] if result is None else result)(*known), build

        # numba reads from the signature how many arguments there are.
        first, *arguments = inspect.signature(emit).parameters.values()
        declare.__signature__ = inspect.Signature([first, *arguments])  # type: ignore[attr-defined]
        declare.__name__, declare.__doc__ = emit.__name__, emit.__doc__
        intrinsic: Any = extending.intrinsic
        return intrinsic(declare)

    return wrap


def _plain(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        return context.make_array(kind)(context, builder, value=value).data
    return cgutils.unpack_tuple(builder, value, len(kind)) if isinstance(kind, types.BaseTuple) else value
