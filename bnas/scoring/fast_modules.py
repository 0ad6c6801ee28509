"""Modules of a frozen supernet in the form that computes fastest on a whole mini-batch: see `bnas.scoring.kernels`.

A map is a `Map`: float32 `[C, N, H, W]`, and the moments of its channels, which every BatchNorm that reads it needs
and which are therefore computed once. A module that has no such form here is called itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas.nn.operations import BinaryBlock, ShuffleChannels, SkipConnect, Zero
from bnas.nn.pooling import AvgPool, MaxPool
from bnas.packed.kernels import Scratch, Tables
from bnas.packed.lanes import POSITIONS
from bnas.packed.parameters import BlockParameters
from bnas.packed.program import Room, build, interleaved
from bnas.scoring import kernels
from bnas.space.layout import Block, Pool
from bnas.space.topology import Shape

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SLACK = POSITIONS
"""Floats before a map and behind its end, which vectors may read and write."""

MOST_PRODUCTS = 16_000
"""Most products in a sum; twice as many still fit into 16 bits."""


@dataclass
class Map:
    """`values` float32 `[C · N · H · W]` and room behind; `moments` float64 `[C]` each, once somebody needs them."""

    shape: Shape
    images: int
    values: Floats
    moments: tuple[Doubles, Doubles] | None = None

    @property
    def pixels(self) -> int:
        """Values of a channel."""
        return self.images * self.shape.height * self.shape.width

    @property
    def array(self) -> Floats:
        """The map as `[C, N, H, W]`, without a copy."""
        channels, height, width = self.shape
        values: Floats = self.values[: channels * self.pixels].reshape(channels, self.images, height, width)
        return values

    def with_moments(self) -> tuple[Doubles, Doubles]:
        """Mean and biased variance of every channel."""
        if self.moments is None:
            self.moments = np.empty(self.shape.channels), np.empty(self.shape.channels)
            kernels.moments(self.values, self.pixels, *self.moments)
        return self.moments


class Workbench:
    """What one thread computes with: buffers for maps, used again once given back, and the kernels' own arrays."""

    def __init__(self) -> None:
        self._free: dict[int, list[Floats]] = {}
        self._rooms: dict[tuple[Room, int], Scratch] = {}
        self._row = np.zeros(SLACK, np.float32)

    def map(self, shape: Shape, images: int) -> Map:
        """A map whose values are not set yet."""
        size = shape.channels * images * shape.height * shape.width + SLACK
        free = self._free.get(size)
        return Map(shape, images, free.pop() if free else np.zeros(SLACK + size, np.float32)[SLACK:])

    def give_back(self, done: Map) -> None:
        """Frees the buffer of a map that is read no more."""
        self._free.setdefault(len(done.values), []).append(done.values)

    def room(self, room: Room, images: int) -> Scratch:
        """See `bnas.packed.program.Room.arrays`."""
        if (room, images) not in self._rooms:
            self._rooms[room, images] = room.arrays(images)
        return self._rooms[room, images]

    def row(self, width: int) -> Floats:
        """Room for a row of a map."""
        if len(self._row) < width + SLACK:
            self._row = np.zeros(width + SLACK, np.float32)
        return self._row


Frozen = Callable[[Map, Workbench], Map]
"""A module's fast form."""


def frozen(module: nn.Module, shape: Shape) -> Frozen:
    """The fastest form there is of a module that gets maps of this shape."""
    if isinstance(module, BinaryBlock):
        return _frozen_block(module, shape) or _Called(module)
    if isinstance(module, nn.Sequential):
        return _chain(module, shape) or _Called(module)
    if isinstance(module, Zero):
        return _zeros(shape.halved(shape.channels, module.stride))
    if isinstance(module, SkipConnect) and module.stride == 2:
        return _halve(shape)
    if isinstance(module, MaxPool | AvgPool):
        return _pool(isinstance(module, MaxPool), shape, 1 if module.stride == 1 else 2)
    return _Called(module)


def from_tensor(x: Tensor, bench: Workbench) -> Map:
    """x `[N, C, H, W]` as a map."""
    images, *shape = x.shape
    made = bench.map(Shape(*shape), images)
    made.array[...] = x.detach().permute(1, 0, 2, 3).numpy()
    return made


class _Called:
    """Any module, as it is: on tensors, channels last."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Map, bench: Workbench) -> Map:
        tensor = torch.from_numpy(x.array).permute(1, 0, 2, 3).contiguous(memory_format=torch.channels_last)
        return from_tensor(self.module(tensor), bench)


def _zeros(out: Shape) -> Frozen:
    def run(x: Map, bench: Workbench) -> Map:
        made = bench.map(out, x.images)
        made.values[:] = 0
        return made

    return run


def _shuffle(groups: int) -> Frozen:
    def run(x: Map, bench: Workbench) -> Map:
        made = bench.map(x.shape, x.images)
        channels, *rest = made.array.shape
        parts = x.array.reshape(groups, channels // groups, *rest)
        made.array.reshape(channels // groups, groups, *rest)[...] = parts.swapaxes(0, 1)
        return made

    return run


def _chain(layers: nn.Sequential, shape: Shape) -> Frozen | None:
    """Blocks and shuffles one after another, if there is nothing else."""
    forms: list[Frozen] = []
    for layer in layers:
        form = _frozen_block(layer, shape) if isinstance(layer, BinaryBlock) else None
        if isinstance(layer, ShuffleChannels):
            form = _shuffle(layer.groups)
        if form is None:
            return None
        forms.append(form)
        if isinstance(layer, BinaryBlock):
            shape = shape.halved(layer.out_channels, layer.stride)

    def run(x: Map, bench: Workbench) -> Map:
        for i, form in enumerate(forms):
            before, x = x, form(x, bench)
            if i:
                bench.give_back(before)
        return x

    return run


def _halve(shape: Shape) -> Frozen:
    out = shape.halved(shape.channels, 2)
    steps = build([Pool("skip", 0, shape, out, "skip", 2)], [None]).steps

    def run(x: Map, bench: Workbench) -> Map:
        made = bench.map(out, x.images)
        kernels.halve(x.values, made.values, x.images, steps)
        return made

    return run


def _pool(largest: bool, shape: Shape, stride: int) -> Frozen:
    channels, height, width = shape
    out = shape.halved(shape.channels, stride)

    def run(x: Map, bench: Workbench) -> Map:
        made = bench.map(out, x.images)
        values = x.values[: channels * x.pixels]
        kernels.pool(values, made.values, bench.row(width), largest, stride, height, width)
        return made

    return run


@dataclass(frozen=True)
class _Geometry:
    """What blocks of one shape share: a packed program of one step, which of its taps lie over the border, room."""

    steps: NDArray[np.void]
    tables: Tables
    outside: Floats
    """`[taps of the kernel, H', W']`, 1 where a tap lies over the border, else 0."""
    room: Room


@cache
def _geometry(step: Block) -> _Geometry:
    depth = step.shape.channels // step.groups
    weight = np.ones((step.out.channels, depth, step.kernel, step.kernel), np.int8)
    before, after = np.ones(step.shape.channels, np.float32), np.ones(step.out.channels, np.float32)
    program = build([step], [BlockParameters(before, before, weight, after, after, after)])
    outside = np.empty((step.kernel**2, *step.out[1:]), np.float32)
    for tap in range(step.kernel**2):
        first = [position * step.dilation - step.padding for position in divmod(tap, step.kernel)]
        real = [
            (place >= 0) & (place < side)
            for place, side in (
                (np.arange(made) * step.stride + start, side)
                for made, start, side in zip(step.out[1:], first, step.shape[1:], strict=True)
            )
        ]
        outside[tap] = ~(real[0][:, None] & real[1])
    return _Geometry(program.steps, program.tables, outside, program.room._replace(maps=0))


def _frozen_block(block: BinaryBlock, shape: Shape) -> Frozen | None:
    """The fast form of a block on the mini-batch's own statistics, if the kernels can count its sums."""
    conv, norms, made = block.conv, (block.norm_in, block.norm_out), block.out_channels
    kernel, dilation = conv.kernel_size[0], conv.dilation[0]
    if norms[0].track_running_stats or conv.in_channels // conv.groups * kernel**2 > MOST_PRODUCTS:
        return None
    out = shape.halved(made, block.stride)
    step = Block("block", 0, shape, out, kernel, block.stride, dilation, conv.groups)
    geometry = _geometry(step)
    latent = conv.weight.detach().numpy()
    bits = latent >= 0
    set_bits = bits.sum(axis=1).reshape(made, -1).astype(np.float32)
    depth = np.float32(bits.shape[1])
    outside = geometry.outside.reshape(kernel**2, -1)
    fixes = (depth * (kernel**2 - outside.sum(0)) + 2 * set_bits @ outside).astype(np.int32)
    alpha = np.abs(latent).mean(axis=(1, 2, 3))
    numbers = [norms[0].weight, norms[0].bias, None, norms[1].weight, norms[1].bias, block.activation.weight]
    values = [alpha if number is None else number.detach().numpy() for number in numbers]
    flat = np.concatenate([*values, [norms[0].eps, norms[1].eps]]).astype(np.float64)
    packed = interleaved(np.packbits(bits, axis=1, bitorder="little"), conv.groups)
    tables = geometry.tables._replace(weights=packed.ravel(), fixes=fixes.ravel())

    def run(x: Map, bench: Workbench) -> Map:
        result = bench.map(step.out, x.images)
        scratch = bench.room(geometry.room, x.images)
        kernels.block(x.values, *x.with_moments(), result.values, flat, tables, scratch, x.images, geometry.steps)
        return result

    return run
