"""The numbers of a file that are not binary, from float32 to bytes and back, as `bnas.space.shipped` names it.

All are kept in the order of `bnas.space.layout`, in which the classifier comes last: its weights, then its biases.
With `int8` a weight is a whole number from −127 to 127 times the float16 scale of its class; scales stand before the
biases, weights at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bnas.packed.parameters import Floats
from bnas.space.layout import Classifier, Step
from bnas.space.shipped import SHIPPED

MOST = 127
"""The largest whole number that stands for a weight."""

TYPES = {2: "<f2", 4: "<f4"}
"""Bytes → type of a number."""


def stored(floats: Floats, steps: Sequence[Step], shipped: str) -> bytes:
    """The bytes of the numbers of a network of these steps; raises ValueError for one that is too large for them."""
    kind = TYPES[SHIPPED[shipped].number]
    if not SHIPPED[shipped].scale:
        return _narrowed(floats, kind, steps).tobytes()
    before, weight, bias = _parts(floats, steps)
    scale = _narrowed(np.abs(weight).max(axis=1) / np.float32(MOST), kind, steps[-1:]).astype(np.float32)[:, None]
    whole = np.divide(weight, scale, out=np.zeros_like(weight), where=scale > 0)
    weights = np.clip(np.rint(whole), -MOST, MOST).astype(np.int8)
    numbers = np.concatenate([before, scale.ravel(), bias])
    return _narrowed(numbers, kind, steps).tobytes() + weights.tobytes()


def restored(content: bytes, steps: Sequence[Step], shipped: str) -> Floats:
    """What `stored` rounded the numbers to, float32; `content` has as many bytes as the steps need."""
    narrow, whole = arrays(content, steps, shipped)
    numbers = narrow.astype(np.float32)
    if not len(whole):
        return numbers
    classes = steps[-1].out.channels
    before, scale, bias = np.split(numbers, [len(numbers) - 2 * classes, len(numbers) - classes])
    weights = whole.astype(np.float32).reshape(classes, -1) * scale[:, None]
    return np.concatenate([before, weights.ravel(), bias])


def arrays(content: bytes, steps: Sequence[Step], shipped: str) -> tuple[NDArray[np.floating], NDArray[np.int8]]:
    """The same numbers as they are stored: float16 or float32, and the classifier's whole numbers, if it has any."""
    end = len(content) - (_weights(steps) if SHIPPED[shipped].scale else 0)
    return np.frombuffer(content[:end], TYPES[SHIPPED[shipped].number]), np.frombuffer(content[end:], np.int8)


def bytes_of(steps: Sequence[Step], shipped: str) -> int:
    """How many bytes `stored` makes of the numbers of these steps."""
    floats, weights = sum(step.floats for step in steps), _weights(steps)
    return int(SHIPPED[shipped].size(0, floats - weights, weights, steps[-1].out.channels))


def step_bytes(step: Step, shipped: str) -> float:
    """The bytes of one step's parameters, its bits among them."""
    weights = _weights([step])
    return SHIPPED[shipped].size(step.bits, step.floats - weights, weights, step.out.channels if weights else 0)


def _weights(steps: Sequence[Step]) -> int:
    """Weights of the classifier that may come last."""
    last = steps[-1]
    return last.floats - last.out.channels if isinstance(last, Classifier) else 0


def _parts(floats: Floats, steps: Sequence[Step]) -> tuple[Floats, Floats, Floats]:
    """Numbers before the classifier, its weights `[classes, channels]`, its biases."""
    classes = steps[-1].out.channels
    before, weight, bias = np.split(floats, [len(floats) - steps[-1].floats, len(floats) - classes])
    return before, weight.reshape(classes, -1), bias


def _narrowed(numbers: Floats, kind: str, steps: Sequence[Step]) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):
        narrow: NDArray[np.floating] = numbers.astype(kind)
    if np.isfinite(numbers).all() and not np.isfinite(narrow).all():
        at = int(np.flatnonzero(~np.isfinite(narrow))[0])
        ends = np.cumsum([step.floats for step in steps])
        raise ValueError(
            f"{steps[min(int(np.searchsorted(ends, at, side='right')), len(steps) - 1)].name}: expected numbers of at "
            f"most {np.finfo(kind).max:,.0f} for {narrow.dtype}, found {numbers[at]:g}; float32 holds it"
        )
    return narrow
