"""The steps that a packed network computes, and the place of each step's parameters. Both follow from the
configuration and the genotype, so a file needs no graph.

Maps are numbered in the order in which they come to be; map 0 holds the normalised images. A step reads earlier maps
and makes one. The order of the steps is the order of their parameters in a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bnas.space.genotype import CELL_INPUTS, Genotype
from bnas.space.network_config import NetworkConfig
from bnas.space.operations import OPERATION, ChannelShuffle, Convolution, Part, Pooling, PoolKind
from bnas.space.topology import Shape as Shape  # part of this module's interface
from bnas.space.topology import topology

MOST_PRODUCTS = 2**16 - 1
"""Products in one sum of a binary convolution: what the kernels count to."""


@dataclass(frozen=True)
class _Layer:
    """A step that reads map `source` of shape `shape`; without parameters, unless it says otherwise."""

    name: str
    source: int
    shape: Shape
    out: Shape

    @property
    def bits(self) -> int:
        """Binary weights."""
        return 0

    @property
    def floats(self) -> int:
        """Other parameters."""
        return 0


@dataclass(frozen=True)
class Stem(_Layer):
    """A full-precision 3×3 convolution, BatchNorm folded into weights and bias; with `relu`, negative results are 0.

    `norm` is the name of the BatchNorm's module.
    """

    stride: int
    relu: bool = False
    norm: str = ""
    kernel: int = 3

    @property
    def floats(self) -> int:
        """Weights `[out, in, 3, 3]`, then biases `[out]`."""
        return self.out.channels * (self.shape.channels * self.kernel**2 + 1)


@dataclass(frozen=True)
class Block(_Layer):
    """`sign(scale·x + shift)`, binary convolution, `· scale + shift`, `+` shortcut, PReLU: a `BinaryBlock`.

    Raises ValueError for sums of more than `MOST_PRODUCTS` products.
    """

    kernel: int
    stride: int
    dilation: int
    groups: int = 1

    def __post_init__(self) -> None:
        products = self.shape.channels // self.groups * self.kernel**2
        if products > MOST_PRODUCTS:
            raise ValueError(f"{self.name}: expected sums of at most {MOST_PRODUCTS} products, found {products}")

    @property
    def padding(self) -> int:
        """Zeros around the map, on every side."""
        return self.dilation * (self.kernel - 1) // 2

    @property
    def bits(self) -> int:
        """Weights `[out, in / groups, kernel, kernel]`, a set bit for +1."""
        return self.out.channels * (self.shape.channels // self.groups) * self.kernel**2

    @property
    def floats(self) -> int:
        """Scale and shift before the sign `[2, in]`; scale (α included), shift and slope after `[3, out]`."""
        return 2 * self.shape.channels + 3 * self.out.channels


@dataclass(frozen=True)
class Pool(_Layer):
    """A `Pooling`: `skip` (the identity, or at stride 2 the 2×2 average), 3×3 `max` or `avg`, `none` (zeros)."""

    kind: PoolKind
    stride: int


@dataclass(frozen=True)
class Shuffle(_Layer):
    """Channel `a · groups + b` is channel `b · (channels / groups) + a` of the source."""

    groups: int


@dataclass(frozen=True)
class Sum:
    """The maps `source` and `other` added."""

    name: str
    source: int
    other: int
    shape: Shape
    out: Shape
    bits: int = 0
    floats: int = 0


@dataclass(frozen=True)
class Concat:
    """The maps `sources` one after another along the channels."""

    name: str
    sources: tuple[int, ...]
    out: Shape
    bits: int = 0
    floats: int = 0


@dataclass(frozen=True)
class Classifier(_Layer):
    """Mean over each channel, then a linear layer with the normalisation before it folded in; the last step."""

    @property
    def floats(self) -> int:
        """Weights `[classes, channels]`, then biases `[classes]`."""
        return self.out.channels * (self.shape.channels + 1)


EdgeStep = Block | Pool | Shuffle
"""A step of an edge."""

Step = Stem | EdgeStep | Sum | Concat | Classifier


def part_step(part: Part, name: str, source: int, shape: Shape, channels: int | None = None) -> EdgeStep:
    """The step of a part of an operation that reads map `source`; `channels` is its width, by default the map's."""
    match part:
        case ChannelShuffle(groups):
            return Shuffle(name, source, shape, shape, groups)
        case Pooling(kind, stride):
            return Pool(name, source, shape, shape.halved(shape.channels, stride), kind, stride)
        case Convolution():
            return Block(name, source, shape, shape.halved(channels or shape.channels, part.stride), *part)


def layout(config: NetworkConfig, genotype: Genotype, height: int, width: int) -> tuple[Step, ...]:
    """The steps of a network on images of that size, named after the modules of `bnas.nn.network.Network`.

    Raises ValueError for a block that the kernels cannot compute.
    """
    steps: list[Step] = []
    shapes = [Shape(config.in_channels, height, width)]

    def add(step: Step) -> int:
        steps.append(step)
        shapes.append(step.out)
        return len(shapes) - 1

    def edge(name: str, source: int, op: str, stride: int) -> int:
        several = OPERATION[op].parts(shapes[source].channels, stride)
        for i, part in enumerate(several):
            source = add(part_step(part, name if len(several) == 1 else f"{name}.{i}", source, shapes[source]))
        return source

    for i, (channels, stride) in enumerate(config.stem):
        shape, relu = shapes[-1], i + 1 < len(config.stem)
        out = shape.halved(channels, stride)
        stem = add(Stem(f"stem.{3 * i}", i, shape, out, stride, relu, norm=f"stem.{3 * i + 1}"))
    inputs = (stem, stem)
    for cell in topology(config, genotype).cells:
        states = [
            add(part_step(Convolution(1, read.stride), cell.input_name(i), source, shapes[source], cell.channels))
            for i, (source, read) in enumerate(zip(inputs, cell.inputs, strict=True))
        ]
        for i, node in enumerate(cell.nodes):
            first, second = (edge(cell.module_name(e), states[e.source], e.op, e.stride) for e in node)
            states.append(add(Sum(f"{cell.name}.nodes.{i}", first, second, shapes[first], shapes[first])))
        made = tuple(states[CELL_INPUTS:])
        out = shapes[made[0]]._replace(channels=cell.out_channels)
        inputs = (inputs[1], add(Concat(cell.name, made, out)))
    add(Classifier("classifier", inputs[1], shapes[inputs[1]], Shape(config.classes, 1, 1)))
    return tuple(steps)


def payload(steps: Sequence[Step]) -> tuple[int, int]:
    """Bits and floats of all parameters; `bnas.packed.rounding` says what bytes they take."""
    return sum(step.bits for step in steps), sum(step.floats for step in steps)


def elements(shape: Shape) -> int:
    """Values in a map of one image."""
    return math.prod(shape)
