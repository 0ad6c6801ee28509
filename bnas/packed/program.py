"""Turns steps and parameters into the tables that the compiled kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnas.kernels.emitter import LANES
from bnas.packed import kernels as k
from bnas.packed.lanes import POSITIONS, TOGETHER
from bnas.packed.parameters import BlockParameters, ClassifierParameters, Floats, Parameters, StemParameters
from bnas.packed.thresholds import thresholded
from bnas.space.layout import Block, Classifier, Concat, Pool, Shape, Shuffle, Stem, Step, Sum, elements
from bnas.space.places import Span, arranged

SHARING, WASTE = 32, 1.3
"""Taps are gathered from so many outputs of a group on, and so many positions of the planes a pixel (measured)."""

LINE = 64
"""Bytes of a cache line."""

GAP = LANES
"""Floats between two maps of an image."""


class Room(NamedTuple):
    """Working memory of one image, in elements of the arrays of `kernels.Scratch`."""

    maps: int = 0
    signs: int = 0
    dense: int = 0
    planes: int = 0
    positions: int = 0
    shortcuts: int = 0

    @property
    def bytes(self) -> int:
        """Memory in bytes."""
        return 4 * (self.maps + self.planes + self.shortcuts) + self.signs + self.dense + 13 * self.positions

    def arrays(self, block: int) -> k.Scratch:
        """Arrays for `block` images, with space behind their ends for whole vectors."""

        def zeros(count: int, kind: type[np.generic]) -> NDArray[Any]:
            return aligned(count * block + TOGETHER * 16 * POSITIONS, kind)

        return k.Scratch(
            maps=zeros(self.maps, np.float32),
            signs=zeros(self.signs, np.uint8),
            dense=zeros(self.dense, np.uint8),
            planes=zeros(self.planes, np.float32),
            flat=zeros(self.positions, np.uint8),
            sums=zeros(self.positions, np.float32),
            counts=zeros(TOGETHER * self.positions, np.uint16),
            shortcuts=zeros(self.shortcuts, np.float32),
        )


def aligned(count: int, kind: type[np.generic]) -> NDArray[Any]:
    """Zeros that begin at a cache line; elsewhere kernels took up to a tenth longer."""
    size = np.dtype(kind).itemsize
    room = np.zeros(count + LINE // size, kind)
    return room[-room.ctypes.data % LINE // size :][:count]


class Program(NamedTuple):
    """Steps (`kernels.STEP`), their parameters, the room that one image needs, and the shape of the last map."""

    steps: NDArray[np.void]
    tables: k.Tables
    room: Room
    out: Shape


def build(steps: Sequence[Step], parameters: Sequence[Parameters]) -> Program:
    """The program of these steps. A map's place is free for later maps once its last reader has run."""
    builder = _Builder(steps)
    for step, values in zip(steps, parameters, strict=True):
        builder.add(step, values)
    return builder.finished()


class _Builder:
    def __init__(self, steps: Sequence[Step]) -> None:
        self.rows: list[NDArray[np.void]] = []
        self.tables: dict[str, list[NDArray[Any]]] = {name: [] for name in k.Tables._fields}
        self.used = dict.fromkeys(k.Tables._fields, 0)
        self.places = _places(steps)
        self.room = Room(maps=self.places.total)
        self.made = 0

    def add(self, step: Step, values: Parameters) -> None:
        """Append a step's row and tables."""
        self.made += 1
        if isinstance(step, Concat) or (isinstance(step, Pool) and step.kind == "skip" and step.stride == 1):
            return  # its parts already lie where it is
        row = np.zeros((), k.STEP)
        row["source"], row["out"] = self.places.of[step.source], self.places.of[self.made]
        row["channels"], row["height"], row["width"] = step.shape
        row["made"], row["high"], row["wide"] = step.out
        row["stride"], row["groups"] = 1, 1
        match step, values:
            case Stem(), StemParameters():
                row["op"], row["relu"] = k.STEM, step.relu
                window = (step.kernel, 1, step.stride, step.kernel // 2)
                self._need(planes=self._planes(row, *window, step.shape.channels))
                row["floats"] = self._keep("floats", values.weight, values.bias)
            case Block(), BlockParameters():
                row["op"] = k.BLOCK
                self._block(row, step, values)
            case Pool(kind="skip"), None:
                row["op"], row["stride"] = k.HALVE, step.stride
            case Pool(kind="none"), None:
                row["op"] = k.NONE
            case Pool(), None:
                row["op"] = k.MAX if step.kind == "max" else k.AVG
                self._need(planes=self._planes(row, 3, 1, step.stride, 1, 1))
                row["floats"] = self._keep("floats", _inside(step))
            case Shuffle(), None:
                row["op"], row["groups"] = k.SHUFFLE, step.groups
            case Sum(), None:
                row["op"], row["other"] = k.SUM, self.places.of[step.other]
            case Classifier(), ClassifierParameters():
                row["op"] = k.CLASSIFY
                row["floats"] = self._keep("floats", values.weight.T, values.bias)
            case _:
                raise ValueError(f"{step.name}: parameters {type(values).__name__} do not belong to this step")
        self.rows.append(row)
        self.out = step.out

    def finished(self) -> Program:
        """The tables as arrays."""
        # The last row of fixes is read a whole vector at a time, like every other.
        self._keep("fixes", np.zeros(LANES, np.int32))
        tables = k.Tables(
            floats=_joined(self.tables["floats"], np.float32),
            thresholds=_joined(self.tables["thresholds"], np.float32),
            weights=_joined(self.tables["weights"], np.uint8),
            taps=_joined(self.tables["taps"], np.int64).reshape(-1, 2),
            fixes=_joined(self.tables["fixes"], np.int32),
        )
        return Program(np.stack(self.rows), tables, self.room, self.out)

    def _keep(self, table: str, *arrays: NDArray[np.generic]) -> int:
        """Appends to a table; the place of the first number."""
        start = self.used[table]
        for array in arrays:
            self.tables[table].append(np.ascontiguousarray(array).ravel())
            self.used[table] += array.size
        return start

    def _need(self, **elements: int) -> None:
        """Makes room for a step that needs so many elements."""
        self.room = Room(*map(max, self.room, Room(**elements)))

    def _planes(self, row: NDArray[np.void], kernel: int, dilation: int, stride: int, padding: int, depth: int) -> int:
        """Geometry of the padded planes, and where in them every tap of one group lies; elements of all planes."""
        height, width, groups = int(row["height"]), int(row["width"]), int(row["groups"])
        # Neighbouring rows share their padding; with a stride they have it each to themselves.
        rows, line = (side + padding if stride == 1 else -(-(side + 2 * padding) // stride) for side in (height, width))
        taps = []
        for plane, ky, kx in product(range(depth), *[range(kernel)] * 2):
            y, x = ky * dilation, kx * dilation
            phase = y % stride * stride + x % stride
            taps.append((plane * stride**2 + phase, y // stride * line + x // stride))
        row["stride"], row["padding"], row["rows"], row["line"] = stride, padding, rows, line
        row["taps"], row["tap_count"] = self._keep("taps", np.array(taps)) // 2, len(taps)
        row["planes"] = groups * depth
        self._need(positions=max(rows * line, height * width))
        # Taps of the last positions reach over the end of the last plane.
        return groups * depth * stride**2 * rows * line + max(distance for _, distance in taps)

    def _block(self, row: NDArray[np.void], step: Block, values: BlockParameters) -> None:
        have, made, depth = step.shape.channels, step.out.channels, step.shape.channels // step.groups
        row["groups"] = step.groups
        self._need(signs=self._planes(row, step.kernel, step.dilation, step.stride, step.padding, -(-depth // 8)))
        t, bits = thresholded(values, step.groups)
        packed = np.packbits(bits, axis=1, bitorder="little")  # [O, bytes, k, k]
        row["thresholds"] = self._keep("thresholds", t)
        row["weights"] = self._keep("weights", interleaved(packed, step.groups))
        row["fixes"] = self._keep("fixes", _fixes(bits, step))
        row["floats"] = self._keep("floats", values.scale_out, values.shift_out, values.slope)
        pixels = step.out.height * step.out.width
        if made // step.groups >= SHARING and int(row["rows"] * row["line"]) > WASTE * pixels:
            row["dense"] = 1
            self._need(dense=step.groups * int(row["tap_count"]) * pixels)
        self._need(shortcuts=((have if step.stride == 2 else 0) + (made if have > made else 0)) * pixels)


def interleaved(packed: NDArray[np.uint8], groups: int) -> NDArray[np.uint8]:
    """Weights `[O, bytes, k, k]` as `[groups, ⌈O / groups / 4⌉, taps, 4]`, missing outputs as zeros."""
    made = packed.shape[0] // groups
    rows = packed.reshape(groups, made, -1)
    blocks = -(-made // TOGETHER)
    wide = np.zeros((groups, blocks * TOGETHER, rows.shape[2]), np.uint8)
    wide[:, :made] = rows
    return wide.reshape(groups, blocks, TOGETHER, -1).transpose(0, 1, 3, 2)


def _fixes(bits: NDArray[np.bool_], step: Block) -> NDArray[np.int32]:
    """Real taps plus twice the set weight bits over the border, int32 `[O, H', W']`: see `bnas.packed.kernels`."""
    depth, kernel = bits.shape[1], step.kernel
    set_bits = bits.sum(axis=1, dtype=np.int32)  # [O, k, k]
    fixes = np.zeros(tuple(step.out), np.int32)
    for ky, kx in product(range(kernel), repeat=2):
        rows = np.arange(step.out.height) * step.stride + ky * step.dilation - step.padding
        columns = np.arange(step.out.width) * step.stride + kx * step.dilation - step.padding
        real = ((rows >= 0) & (rows < step.shape.height))[:, None] & (columns >= 0) & (columns < step.shape.width)
        fixes += np.where(real, np.int32(depth), 2 * set_bits[:, ky, kx, None, None])
    return fixes


def _inside(step: Pool) -> Floats:
    """How many of the nine taps lie inside the map, float32 `[H', W']`."""

    def along(side: int, made: int) -> NDArray[np.int64]:
        first = np.arange(made) * step.stride - 1
        return np.minimum(first + 3, side) - np.maximum(first, 0)

    rows, columns = along(step.shape.height, step.out.height), along(step.shape.width, step.out.width)
    return (rows[:, None] * columns).astype(np.float32)


class _Places(NamedTuple):
    of: list[int]
    total: int


def _places(steps: Sequence[Step]) -> _Places:
    """The place of each map, in floats per image. Parts of a concatenation lie in it, an identity where its source is.

    A place is given to another map once its last reader has run.
    """
    shapes = [steps[0].shape if not isinstance(steps[0], Concat) else steps[0].out, *(step.out for step in steps)]
    same: dict[int, tuple[int, int]] = {}  # map → (map it lies in, offset)
    for made, step in enumerate(steps, 1):
        if isinstance(step, Concat):
            at = 0
            for source in step.sources:
                same[source] = (made, at)
                at += elements(shapes[source])
        elif isinstance(step, Pool) and step.kind == "skip" and step.stride == 1:
            same[made] = (step.source, 0)

    def root(index: int) -> tuple[int, int]:
        offset = 0
        while index in same:
            index, more = same[index]
            offset += more
        return index, offset

    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for made in range(len(shapes)):
        first.setdefault(root(made)[0], made)
        last[root(made)[0]] = made
    for made, step in enumerate(steps, 1):
        for source in step.sources if isinstance(step, Concat) else [step.source]:
            last[root(source)[0]] = max(last[root(source)[0]], made)
        if isinstance(step, Sum):
            last[root(step.other)[0]] = max(last[root(step.other)[0]], made)
    roots = sorted(first, key=first.__getitem__)
    found = arranged([[Span(0, elements(shapes[i]) + GAP, first[i], last[i])] for i in roots])
    starts = dict(zip(roots, found.starts, strict=True))
    return _Places([starts[root(i)[0]] + root(i)[1] for i in range(len(shapes))], found.total)


def _joined(arrays: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    joined = aligned(sum(map(len, arrays)) or 2, dtype)
    if arrays:
        np.concatenate(arrays, out=joined, casting="unsafe")
    return joined
