"""The topology of a network: which maps its cells read, their widths, strides and edges, and the names of modules.

The one walk over a configuration and a genotype (or a whole search space): what builds, scores, counts, packs and times
networks takes all this from here. Plain data, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bnas.space.genotype import CELL_INPUTS, Gene, Genotype
from bnas.space.network_config import NetworkConfig
from bnas.space.search_space import SearchSpace


class Shape(NamedTuple):
    """Channels, height and width of a map of one image."""

    channels: int
    height: int
    width: int

    def halved(self, channels: int, stride: int) -> Shape:
        """The shape after a layer of that stride and with so many channels: sides are divided and rounded up."""
        return Shape(channels, -(-self.height // stride), -(-self.width // stride))


class Edge(NamedTuple):
    """One operation of a cell: it reads state `source` and adds to intermediate node `node`."""

    node: int
    source: int
    op: str
    stride: int

    @property
    def name(self) -> str:
        """The name of the edge's module among the edges of its cell."""
        return edge_name(self.node, self.source, self.op)


def edge_name(node: int, source: int, op: str) -> str:
    """The name of an edge's module among the edges of its cell, as in the weights of saved networks."""
    return f"{node}_{source}_{op}"


def edge_stride(source: int, reduction: bool) -> int:
    """2 for an edge of a reduction cell that reads one of the cell's inputs, else 1."""
    return 2 if reduction and source < CELL_INPUTS else 1


class CellInput(NamedTuple):
    """One of the two 1×1 blocks that a cell begins with.

    It reads a map of so many channels, makes `Cell.channels` of them, and has stride 2 where the map is that of a cell
    before a reduction.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class CellTopology:
    """A cell: its two inputs, and for each intermediate node the edges that end there (two of a genotype's network).

    `channels` is the width of every state inside the cell; its output are the nodes, one after another. `scale` says
    how many pixels of the image's side make one of the states 0 and 1 (rounded up at the border).
    """

    index: int
    reduction: bool
    channels: int
    scale: int
    inputs: tuple[CellInput, CellInput]
    nodes: tuple[tuple[Edge, ...], ...]

    @property
    def out_channels(self) -> int:
        """Channels of the cell's output."""
        return len(self.nodes) * self.channels

    @property
    def name(self) -> str:
        """The full name of the cell's module."""
        return f"cells.{self.index}"

    def input_name(self, which: int) -> str:
        """The full name of the module of an input's block (0 or 1)."""
        return f"{self.name}.preprocess.{which}"

    def module_name(self, edge: Edge) -> str:
        """The full name of an edge's module."""
        return f"{self.name}.edges.{edge.name}"

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides that edges of this cell have, in ascending order."""
        return tuple(sorted({edge.stride for node in self.nodes for edge in node}))

    def source_shape(self, stride: int, height: int, width: int) -> Shape:
        """The shape of the state that an edge of this stride reads, for images `[·, height, width]`."""
        nodes = 2 * self.scale if self.reduction else self.scale
        return Shape(self.channels, height, width).halved(self.channels, nodes // stride)


@dataclass(frozen=True)
class Topology:
    """All cells from input to output, and the number of channels that the classifier reads."""

    cells: tuple[CellTopology, ...]
    features: int


def topology(config: NetworkConfig, architecture: Genotype | SearchSpace) -> Topology:
    """The topology of a genotype's network, or of the supernet that holds all networks of a search space."""
    if isinstance(architecture, Genotype):
        normal, reduced = _path(architecture.normal, False), _path(architecture.reduction, True)
    else:
        normal, reduced = _all_edges(architecture, False), _all_edges(architecture, True)
    cells = []
    width, scale = config.channels, config.stem_stride
    before = last = CellInput(width, 1)
    for index in range(config.cells):
        reduction = index in config.reductions
        factor, nodes = (2, reduced) if reduction else (1, normal)
        width *= factor
        cell = CellTopology(index, reduction, width, scale, (before, last), nodes)
        cells.append(cell)
        scale *= factor
        before, last = last._replace(stride=factor), CellInput(cell.out_channels, 1)
    return Topology(tuple(cells), last.channels)


def _path(nodes: Sequence[Sequence[Gene]], reduction: bool) -> tuple[tuple[Edge, ...], ...]:
    return tuple(
        tuple(Edge(i, source, op, edge_stride(source, reduction)) for source, op in node)
        for i, node in enumerate(nodes)
    )


def _all_edges(space: SearchSpace, reduction: bool) -> tuple[tuple[Edge, ...], ...]:
    genes = [[Gene(source, op) for source in range(CELL_INPUTS + i) for op in space.ops] for i in range(space.nodes)]
    return _path(genes, reduction)
