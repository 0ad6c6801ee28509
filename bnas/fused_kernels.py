"""The elementwise passes of a binary block while it trains, compiled by numba; `bnas.fused` puts them together.

A map is channels last: `[P, C]` in one flat array, P = N · H · W. Every pass is cut into tasks whose number and borders
do not depend on who takes them, so results do not depend on how many threads do. Passes take one array of integers:
a counter of tasks taken, the number of tasks, which pass it is, then sizes, and addresses of float32 arrays.

Vectors are written out, since numba's own loops over a few channels stay scalar. `count` is how many of a vector's
lanes there are in memory: others are read as 0 and not written.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import numba
from llvmlite import ir
from numba import extending, float32, float64, types
from numba.core import cgutils
from numba.extending import models, overload, register_model

from bnas.compiled import keeps

LANES = 16
"""Floats computed at once: those of the widest vector register there is."""

TAKEN, TASKS, PASS, PIXELS, CHANNELS, PERIOD, LENGTH = range(7)
"""Header of a pass: counter, number of tasks, pass; pixels P, channels C, a multiple of C and `LANES` after which the
pattern of channels over vectors repeats, and (elementwise passes) elements per task."""

A, B, C, D, E, F, G, H, I = range(7, 16)  # noqa: E741
"""Addresses and flags of a pass, as its docstring lists them."""

ROOM = 16
"""Integers of a pass."""

SUMS, SQUARES, SIGN, FINISH, UNFINISH, UNSIGN, JOIN = range(7)
"""Values of `PASS`."""

# Their types are of no use where calls are compiled.
intrinsic: Any = extending.intrinsic
carray: Any = getattr(numba, "carray")  # noqa: B009  # not in its stubs
compiled: Any = numba.njit(cache=keeps(), nogil=True, error_model="numpy")

_FLOAT, _INT, _WORD = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_MASK = ir.VectorType(ir.IntType(1), LANES)


class Vector(types.Type):
    """`LANES` float32 values."""

    def __init__(self) -> None:
        super().__init__(name="Vector")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _pointer(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    place = builder.gep(builder.inttoptr(address, _FLOAT.as_pointer()), [index])
    return builder.bitcast(place, kind.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT, LANES), None))


def _there(builder: Any, count: Any) -> Any:
    numbers = ir.Constant(ir.VectorType(_INT, LANES), list(range(LANES)))
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(count, _INT)))


@intrinsic
def load(typing: Any, address: Any, index: Any, count: Any) -> Any:
    """The vector at `address[index]`."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        place = _pointer(b, args[0], args[1], _VECTOR)
        kind = ir.FunctionType(_VECTOR, [_VECTOR.as_pointer(), _INT, _MASK, _VECTOR])
        masked = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
        return b.call(masked, [place, ir.Constant(_INT, 4), _there(b, args[2]), ir.Constant(_VECTOR, None)])

    return vector(types.int64, types.int64, types.int64), build


@intrinsic
def store(typing: Any, address: Any, index: Any, count: Any, value: Any) -> Any:
    """Writes a vector to `address[index]`."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        place = _pointer(b, args[0], args[1], _VECTOR)
        kind = ir.FunctionType(ir.VoidType(), [_VECTOR, _VECTOR.as_pointer(), _INT, _MASK])
        masked = cgutils.get_or_insert_function(b.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
        b.call(masked, [args[3], place, ir.Constant(_INT, 4), _there(b, args[2])])
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


_add, _subtract, _multiply = _binary("fadd"), _binary("fsub"), _binary("fmul")


@overload(operator.add)
def _plus(x, y):
    return (lambda x, y: _add(x, y)) if isinstance(x, Vector) else None


@overload(operator.sub)
def _minus(x, y):
    return (lambda x, y: _subtract(x, y)) if isinstance(x, Vector) else None


@overload(operator.mul)
def _times(x, y):
    return (lambda x, y: _multiply(x, y)) if isinstance(x, Vector) else None


@intrinsic
def _take(typing: Any, address: Any) -> Any:
    """The number of the next task, which nobody else gets."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        place = b.inttoptr(args[0], _WORD.as_pointer())
        return b.atomic_rmw("add", place, ir.Constant(_WORD, 1), "monotonic")

    return types.int64(types.int64), build


@intrinsic
def _address(typing: Any, data: Any) -> Any:
    return types.int64(types.voidptr), lambda context, b, signature, args: b.ptrtoint(args[0], _WORD)


@compiled
def _bounds(a, task):
    """First and last element of an elementwise task."""
    first = task * a[LENGTH]
    return first, min(first + a[LENGTH], a[PIXELS] * a[CHANNELS])


@compiled
def _sum_lanes(a, task, first, last, channel, count):
    x, scale, step = a[A], a[C], a[CHANNELS]
    total = splat(float32(0))
    if scale == 0:
        for pixel in range(first, last):
            total = total + load(x, pixel * step + channel, count)
    else:
        factor = load(scale, channel, count)
        for pixel in range(first, last):
            value = load(x, pixel * step + channel, count) * factor
            store(x, pixel * step + channel, count, value)
            total = total + value
    store(a[B], task * step + channel, count, total)


@compiled
def _square_lanes(a, task, first, last, channel, count):
    x, step = a[A], a[CHANNELS]
    mean = load(a[C], channel, count)
    total = splat(float32(0))
    for pixel in range(first, last):
        distance = load(x, pixel * step + channel, count) - mean
        total = fma(distance, distance, total)
    store(a[B], task * step + channel, count, total)


@compiled
def _moments(a, task, squares):
    """Sums over a range of pixels (A: x, B: sums by task `[tasks, C]`, C: a factor by channel that x is multiplied by
    first, in memory, or none), or of squared distances (C: the means). One after another, as PyTorch sums them."""
    pixels, channels = a[PIXELS], a[CHANNELS]
    each = (pixels + a[TASKS] - 1) // a[TASKS]
    first, last = min(pixels, task * each), min(pixels, (task + 1) * each)
    for channel in range(0, channels, LANES):
        if channels - channel >= LANES:
            if squares:
                _square_lanes(a, task, first, last, channel, LANES)
            else:
                _sum_lanes(a, task, first, last, channel, LANES)
        elif squares:
            _square_lanes(a, task, first, last, channel, channels - channel)
        else:
            _sum_lanes(a, task, first, last, channel, channels - channel)


@compiled
def _sign(a, task):
    """`sign(scale · x + shift)` (A: x, B: result, C: scale, D: shift)."""
    x, out, period = a[A], a[B], a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        scale, shift = load(a[C], v, LANES), load(a[D], v, LANES)
        i = first + v
        while i + LANES <= last:
            store(out, i, LANES, signs(fma(load(x, i, LANES), scale, shift)))
            i += period
        if i < last:
            store(out, i, last - i, signs(fma(load(x, i, last - i), scale, shift)))


@compiled
def _finish(a, task):
    """`PReLU(scale · y + shift + shortcut)` (A: y, B: shortcut, C: result, D: scale, E: shift, F: slope)."""
    y, shortcut, out, period = a[A], a[B], a[C], a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        scale, shift, slope = load(a[D], v, LANES), load(a[E], v, LANES), load(a[F], v, LANES)
        i = first + v
        while i + LANES <= last:
            z = fma(load(y, i, LANES), scale, shift) + load(shortcut, i, LANES)
            store(out, i, LANES, where_positive(z, z, slope * z))
            i += period
        if i < last:
            z = fma(load(y, i, last - i), scale, shift) + load(shortcut, i, last - i)
            store(out, i, last - i, where_positive(z, z, slope * z))


@compiled
def _unfinish_one(a, i, count, norm, slope, sums):
    scale, shift, mean = norm
    y, grad = load(a[B], i, count), load(a[A], i, count)
    z = fma(y, scale, shift) + load(a[C], i, count)
    inner = where_positive(z, grad, slope * grad)
    store(a[D], i, count, inner)
    none = splat(float32(0))
    return sums[0] + inner, fma(inner, y - mean, sums[1]), sums[2] + where_positive(z, none, grad * z)


@compiled
def _unfinish(a, task):
    """Gradient of the PReLU's input z from that of its result, and sums by channel of it, of it times `y − mean`, and
    of the slope's gradient (A: gradient, B: y, C: shortcut, D: result, E: scale, F: shift, G: slope, H: mean, I: sums
    `[tasks, 3, period]`)."""
    period = a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        norm, slope = (load(a[E], v, LANES), load(a[F], v, LANES), load(a[H], v, LANES)), load(a[G], v, LANES)
        none = splat(float32(0))
        sums = (none, none, none)
        i = first + v
        while i + LANES <= last:
            sums = _unfinish_one(a, i, LANES, norm, slope, sums)
            i += period
        if i < last:
            sums = _unfinish_one(a, i, last - i, norm, slope, sums)
        for k in range(3):
            store(a[I], (task * 3 + k) * period + v, LANES, sums[k])


@compiled
def _unsign_one(a, i, count, norm, sums):
    scale, shift, mean = norm
    x = load(a[B], i, count)
    size = magnitude(fma(x, scale, shift))
    none, one, two = splat(float32(0)), splat(float32(1)), splat(float32(2))
    if a[G] == 0:
        slope = two - two * size
        slope = where_positive(slope, slope, none)
    else:
        slope = where_positive(size - one, none, one)
    inner = load(a[A], i, count) * slope
    store(a[C], i, count, inner)
    return sums[0] + inner, fma(inner, x - mean, sums[1])


@compiled
def _unsign(a, task):
    """Gradient of the sign's input from that of the sign, and sums by channel of it and of it times `x − mean` (A:
    gradient, B: x, C: result, D: scale, E: shift, F: mean, G: 0 approx, 1 ste, H: sums `[tasks, 2, period]`)."""
    period = a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        norm = (load(a[D], v, LANES), load(a[E], v, LANES), load(a[F], v, LANES))
        none = splat(float32(0))
        sums = (none, none)
        i = first + v
        while i + LANES <= last:
            sums = _unsign_one(a, i, LANES, norm, sums)
            i += period
        if i < last:
            sums = _unsign_one(a, i, last - i, norm, sums)
        for k in range(2):
            store(a[H], (task * 2 + k) * period + v, LANES, sums[k])


@compiled
def _join_one(a, i, count, p, q, r, mean):
    value = fma(load(a[B], i, count) - mean, q, r)
    if a[A] != 0:
        value = fma(load(a[A], i, count), p, value)
    if a[D] != 0:
        value = value + load(a[D], i, count)
    store(a[C], i, count, value)


@compiled
def _join(a, task):
    """`p · gradient + q · (x − mean) + r + other`: gradient of a BatchNorm's input (A: gradient or none, B: x, C: the
    result, D: other gradient or none, E: p, F: q, G: r, H: mean)."""
    period = a[PERIOD]
    first, last = _bounds(a, task)
    for v in range(0, period, LANES):
        p, q, r, mean = load(a[E], v, LANES), load(a[F], v, LANES), load(a[G], v, LANES), load(a[H], v, LANES)
        i = first + v
        while i + LANES <= last:
            _join_one(a, i, LANES, p, q, r, mean)
            i += period
        if i < last:
            _join_one(a, i, last - i, p, q, r, mean)


@compiled
def mean_of(sums, pixels, mean):
    """`mean[c]` of sums by task `[tasks, C]`."""
    for c in range(sums.shape[1]):
        total = 0.0
        for task in range(len(sums)):
            total += float64(sums[task, c])
        mean[c] = float32(total / pixels)


@compiled
def norm_of(sums, pixels, eps, weight, bias, norm):
    """Rows of `norm` `[5, period]` from the sums of squared distances and row 0, which is the mean: 1 / deviation, the
    scale and shift that a BatchNorm is. As PyTorch rounds them. Columns
    repeat after C, also of row 4. Row 0 of `sums` becomes the sum of all tasks."""
    channels = sums.shape[1]
    for c in range(channels):
        total = 0.0
        for task in range(len(sums)):
            total += float64(sums[task, c])
        variance = float32(float32(total) / float32(pixels))
        norm[1, c] = float32(1.0 / (float64(variance) + eps) ** 0.5)
        norm[2, c] = norm[1, c] * weight[c]
        norm[3, c] = fma(-norm[0, c], norm[2, c], bias[c])
        sums[0, c] = float32(total)
    for row in range(5):
        for i in range(channels, norm.shape[1]):
            norm[row, i] = norm[row, i - channels]


@compiled
def track(mean, squares, pixels, momentum, running_mean, running_var):
    """Move running statistics, as a BatchNorm does."""
    for c in range(len(running_mean)):
        running_mean[c] = momentum * mean[c] + (1 - momentum) * running_mean[c]
        running_var[c] = momentum * squares[c] / (pixels - 1) + (1 - momentum) * running_var[c]


@compiled
def gradient_of_norm(sums, pixels, channels, factor, norm, coefficients, found):
    """What `_join` needs, `[3, period]`, from sums `[tasks, k, period]`; and `found` `[k, C]`: gradients of bias, scale
    and the rest. `factor` `[C]` multiplies the first."""
    tasks, kinds, period = sums.shape
    for c in range(channels):
        for k in range(kinds):
            total = 0.0
            for task in range(tasks):
                for i in range(c, period, channels):
                    total += float64(sums[task, k, i])
            if k == 0:
                bias = total
            elif k == 1:
                weight = total * float64(norm[1, c])
                found[1, c] = weight
            else:
                found[k, c] = total
        found[0, c] = bias
        scale = float64(norm[2, c]) * float64(factor[c])
        coefficients[0, c] = scale
        coefficients[1, c] = -scale * weight * float64(norm[1, c]) / pixels
        coefficients[2, c] = -scale * bias / pixels
    for row in range(3):
        for i in range(channels, period):
            coefficients[row, i] = coefficients[row, i - channels]


def _run(data):
    """Takes tasks of a pass until there are none left; any number of threads may run it on the same array."""
    a = carray(data, (ROOM,), types.int64)
    start = _address(data)
    while True:
        task = _take(start)
        if task >= a[TASKS]:
            break
        kind = a[PASS]
        if kind == SUMS:
            _moments(a, task, False)
        elif kind == SQUARES:
            _moments(a, task, True)
        elif kind == SIGN:
            _sign(a, task)
        elif kind == FINISH:
            _finish(a, task)
        elif kind == UNFINISH:
            _unfinish(a, task)
        elif kind == JOIN:
            _join(a, task)
        else:
            _unsign(a, task)


@functools.cache
def runner() -> Any:
    """`_run` as a C function of a pointer; compiled at the first call in an environment."""
    return numba.cfunc(types.void(types.voidptr), cache=keeps(), error_model="numpy")(_run)
