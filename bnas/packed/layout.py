"""What a packed network computes, step by step, and where each step's parameters lie: all of it follows from the
configuration and the genotype, so a file holds nothing but numbers.

Maps are numbered in the order in which they come to be; map 0 holds the normalised images. A step reads earlier maps
and makes one. The order of the steps is the order of their parameters in a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bnas.space.convolutions import CONVOLUTIONS, ChannelShuffle, Convolution, Part, parts
from bnas.space.genotype import CELL_INPUTS, Gene, Genotype
from bnas.space.network_config import NetworkConfig

MOST_PRODUCTS = 2**16 - 1
"""Products in one sum of a binary convolution: what the kernels count to."""


class Shape(NamedTuple):
    """Channels, height and width of a map of one image."""

    channels: int
    height: int
    width: int

    def halved(self, channels: int, stride: int) -> Shape:
        """The shape after a step of that stride and with so many channels."""
        return Shape(channels, -(-self.height // stride), -(-self.width // stride))


@dataclass(frozen=True)
class Stem:
    """A full-precision 3×3 convolution, BatchNorm folded into weights and bias; with `relu`, negative results are 0."""

    name: str
    source: int
    shape: Shape
    out: Shape
    stride: int
    relu: bool = False
    kernel: int = 3
    bits: int = 0

    @property
    def floats(self) -> int:
        """Weights `[out, in, 3, 3]`, then biases `[out]`."""
        return self.out.channels * (self.shape.channels * self.kernel**2 + 1)


@dataclass(frozen=True)
class Block:
    """`sign(scale·x + shift)`, binary convolution, `· scale + shift`, `+` shortcut, PReLU: a `BinaryBlock`."""

    name: str
    source: int
    shape: Shape
    out: Shape
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
class Pool:
    """`skip` (the identity, or at stride 2 the 2×2 average), `max`, `avg` (3×3, the border not counted), `none` (0)."""

    name: str
    source: int
    shape: Shape
    out: Shape
    kind: str
    stride: int
    bits: int = 0
    floats: int = 0


@dataclass(frozen=True)
class Shuffle:
    """Channel `a · groups + b` is channel `b · (channels / groups) + a` of the source."""

    name: str
    source: int
    shape: Shape
    out: Shape
    groups: int
    bits: int = 0
    floats: int = 0


@dataclass(frozen=True)
class Sum:
    """Two maps added."""

    name: str
    source: int
    other: int
    shape: Shape
    out: Shape
    bits: int = 0
    floats: int = 0


@dataclass(frozen=True)
class Concat:
    """Maps one after another along the channels."""

    name: str
    sources: tuple[int, ...]
    out: Shape
    bits: int = 0
    floats: int = 0


@dataclass(frozen=True)
class Classifier:
    """Mean over each channel, then a linear layer with the normalisation before it folded in; the last step."""

    name: str
    source: int
    shape: Shape
    out: Shape
    bits: int = 0

    @property
    def floats(self) -> int:
        """Weights `[classes, channels]`, then biases `[classes]`."""
        return self.out.channels * (self.shape.channels + 1)


Step = Stem | Block | Pool | Shuffle | Sum | Concat | Classifier

POOLS = {"none": "none", "skip_connect": "skip", "max_pool_3x3": "max", "avg_pool_3x3": "avg"}
"""Operation without weights → kind of `Pool`."""


def layout(config: NetworkConfig, genotype: Genotype, height: int, width: int) -> tuple[Step, ...]:
    """The steps of a network on images of that size, named after the modules of `bnas.nn.network.Network`.

    Raises ValueError for an operation that cannot be packed.
    """
    steps: list[Step] = []
    shapes = [Shape(config.in_channels, height, width)]

    def add(step: Step) -> int:
        steps.append(step)
        shapes.append(step.out)
        return len(shapes) - 1

    def block(name: str, source: int, channels: int, conv: Convolution) -> int:
        shape = shapes[source]
        return add(Block(name, source, shape, shape.halved(channels, conv.stride), *conv))

    def part(name: str, source: int, part: Part) -> int:
        shape = shapes[source]
        if isinstance(part, ChannelShuffle):
            return add(Shuffle(name, source, shape, shape, part.groups))
        return block(name, source, shape.channels, part)

    def edge(name: str, source: int, gene: Gene, stride: int) -> int:
        shape = shapes[source]
        if gene.op in CONVOLUTIONS:
            several = parts(gene.op, shape.channels, stride)
            for i, each in enumerate(several):
                source = part(name if len(several) == 1 else f"{name}.{i}", source, each)
            return source
        if gene.op not in POOLS:
            raise ValueError(f"genotype {genotype.key}: expected an operation that can be packed, found {gene.op!r}")
        return add(Pool(name, source, shape, shape.halved(shape.channels, stride), POOLS[gene.op], stride))

    width_now, halved = config.channels, False
    for i, (channels, stride) in enumerate(config.stem):
        shape, relu = shapes[-1], i + 1 < len(config.stem)
        stem = add(Stem(f"stem.{3 * i}", i, shape, shape.halved(channels, stride), stride, relu))
    inputs = (stem, stem)
    for index in range(config.cells):
        reduces = index in config.reductions
        width_now *= 2 if reduces else 1
        cell = f"cells.{index}"
        states = [
            block(f"{cell}.preprocess.{i}", source, width_now, Convolution(1, stride))
            for i, (source, stride) in enumerate(zip(inputs, (2 if halved else 1, 1), strict=True))
        ]
        nodes = genotype.reduction if reduces else genotype.normal
        for i, node in enumerate(nodes):
            ends = [
                edge(
                    f"{cell}.edges.{i}_{gene.source}_{gene.op}",
                    states[gene.source],
                    gene,
                    2 if reduces and gene.source < CELL_INPUTS else 1,
                )
                for gene in node
            ]
            shape = shapes[ends[0]]
            states.append(add(Sum(f"{cell}.nodes.{i}", ends[0], ends[1], shape, shape)))
        made = tuple(states[CELL_INPUTS:])
        shape = shapes[made[0]]
        joined = add(Concat(cell, made, shape._replace(channels=shape.channels * len(made))))
        inputs, halved = (inputs[1], joined), reduces
    shape = shapes[inputs[1]]
    add(Classifier("classifier", inputs[1], shape, Shape(config.classes, 1, 1)))
    return tuple(steps)


def payload(steps: Sequence[Step]) -> tuple[int, int]:
    """Bits and floats of all parameters; a file's payload is `⌈bits / 8⌉ + 4 · floats` bytes."""
    return sum(step.bits for step in steps), sum(step.floats for step in steps)


def elements(shape: Shape) -> int:
    """Values in a map of one image."""
    return math.prod(shape)
