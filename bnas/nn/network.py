"""One cell, and the networks built from it: the supernet (one sampled path at a time) and the stand-alone network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnas.nn.binarize import SIGNS
from bnas.nn.operations import BinaryBlock, FoldedNorm, Sign, operation
from bnas.space.genotype import CELL_INPUTS, Gene, Genotype, Node
from bnas.space.network_config import Architecture
from bnas.space.network_config import NetworkConfig as NetworkConfig  # part of this room's interface
from bnas.space.operations import SKIPS, Convolution
from bnas.space.search_space import SearchSpace
from bnas.space.topology import CellTopology, edge_name, topology


@dataclass(frozen=True)
class Rows:
    """Images `start` to `stop` of a mini-batch of `total`: what a forward pass sees of it."""

    start: int
    stop: int
    total: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class PathDropout:
    """Dropping edges of the path while training [paper: in the second stage only; its form is ours].

    `mode` `sample`: each edge is dropped for each sample with `probability`, survivors scaled by 1/(1 − p), as
    DARTS' drop-path. `batch`: a whole edge is dropped for the mini-batch, unscaled, with at least one live input per
    node, so that an edge stays with probability 1 − p + p²/2. Skips are exempt in both. `generator` is the source of
    randomness. Draws are made for the whole mini-batch also where a forward pass sees only `rows` of it, so that they
    do not depend on how it is divided.
    """

    mode: str
    probability: float
    generator: torch.Generator
    rows: Rows | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("sample", "batch"):
            raise ValueError(f"PathDropout.mode: expected sample or batch, found {self.mode!r}")
        if not 0 <= self.probability < 1:
            raise ValueError(f"PathDropout.probability: expected 0 <= p < 1, found {self.probability}")

    def live(self, node: Node) -> list[Gene]:
        """The genes of a node that take part in this mini-batch (all of them in mode `sample`)."""
        if self.mode == "sample":
            return list(node)
        draws = torch.rand(len(node) + 1, generator=self.generator).tolist()
        live = [gene for gene, draw in zip(node, draws, strict=False) if gene.op in SKIPS or draw >= self.probability]
        return live or [node[int(draws[-1] * len(node))]]

    def scale(self, gene: Gene, y: Tensor) -> Tensor:
        """y `[N, C, H, W]` with some samples zeroed and the others scaled, in mode `sample`; else y itself."""
        if self.mode == "batch" or gene.op in SKIPS or self.probability == 0:
            return y
        keep = 1 - self.probability
        rows = self.rows or Rows(0, y.shape[0], y.shape[0])
        kept = torch.rand(rows.total, 1, 1, 1, generator=self.generator)[rows.start : rows.stop] < keep
        return y * (kept.to(y.dtype) / keep).to(y.device)


class Cell(nn.Module):
    """The modules of some edges between states; `forward` runs those that the given nodes name.

    A stand-alone network's cell holds just the edges of its genotype, a supernet's cell all of them.
    """

    def __init__(self, cell: CellTopology, sign: Sign, *, running_stats: bool) -> None:
        super().__init__()
        self.channels, self.reduction = cell.channels, cell.reduction
        self.preprocess = nn.ModuleList(
            BinaryBlock(channels, cell.channels, Convolution(1, stride), sign=sign, running_stats=running_stats)
            for channels, stride in cell.inputs
        )
        self.edges = nn.ModuleDict(
            {
                edge.name: operation(edge.op, cell.channels, edge.stride, sign, running_stats)
                for node in cell.nodes
                for edge in node
            }
        )

    def forward(self, s0: Tensor, s1: Tensor, nodes: Sequence[Node], dropout: PathDropout | None) -> Tensor:
        """Two states `[N, ·, H, W]` → the concatenated nodes `[N, len(nodes) · channels, H', W']`."""
        states = [self.preprocess[0](s0), self.preprocess[1](s1)]
        for i, node in enumerate(nodes):
            total: Tensor | None = None
            for gene in node if dropout is None else dropout.live(node):
                y = self.edges[edge_name(i, gene.source, gene.op)](states[gene.source])
                if dropout is not None:
                    y = dropout.scale(gene, y)
                total = y if total is None else total + y
            assert total is not None
            states.append(total)
        return torch.cat(states[CELL_INPUTS:], dim=1)


class _Backbone(nn.Module):
    """Stem, cells and classifier: full precision at both ends, binary between."""

    def __init__(self, config: NetworkConfig, architecture: Genotype | SearchSpace, *, running_stats: bool) -> None:
        super().__init__()
        self.config = config
        self.topology = topology(config, architecture)
        self.stem = nn.Sequential(*_stem(config, running_stats))
        self.cells = nn.ModuleList(
            Cell(cell, SIGNS[config.sign], running_stats=running_stats) for cell in self.topology.cells
        )
        self.norm = FoldedNorm(self.topology.features, running_stats=running_stats)
        self.classifier = nn.Linear(self.topology.features, config.classes)

    def states(self, x: Tensor, genotype: Genotype, dropout: PathDropout | None) -> Iterator[Tensor]:
        """The output `[N, ·, H, W]` of every cell, in order.

        Under autocast only what is not binary is computed in low precision: every cell gets and gives float32.
        """
        s0 = s1 = self.stem(x)
        if s0.dtype == torch.bfloat16:
            s0 = s1 = s0.float()
        for cell in self.cells:
            assert isinstance(cell, Cell)
            nodes = genotype.reduction if cell.reduction else genotype.normal
            with without_autocast(x):
                s0, s1 = s1, cell(s0, s1, nodes, dropout)
            yield s1

    def classify(self, state: Tensor) -> Tensor:
        """The last cell's output `[N, ·, H, W]` → logits `[N, classes]`."""
        logits: Tensor = self.classifier(self.norm(state.mean(dim=(2, 3))))
        return logits

    def run(self, x: Tensor, genotype: Genotype, dropout: PathDropout | None) -> Tensor:
        for state in self.states(x, genotype, dropout):
            last = state
        return self.classify(last)


def _stem(config: NetworkConfig, running_stats: bool) -> Iterator[nn.Module]:
    have = config.in_channels
    for i, (made, stride) in enumerate(config.stem):
        if i:
            yield nn.ReLU()
        yield nn.Conv2d(have, made, 3, stride, padding=1, bias=False)
        yield nn.BatchNorm2d(made, track_running_stats=running_stats)
        have = made


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which computations with x keep their precision."""
    kind = x.device.type
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class Network(_Backbone):
    """A stand-alone network of one genotype, with running BatchNorm statistics.

    `network(x)` takes images `[N, in_channels, H, W]` to logits `[N, classes]`.
    """

    def __init__(self, config: NetworkConfig, genotype: Genotype) -> None:
        super().__init__(config, genotype, running_stats=True)
        self.genotype = genotype

    @property
    def architecture(self) -> Architecture:
        """What it was built from."""
        return Architecture(self.config, self.genotype)

    def forward(self, x: Tensor, dropout: PathDropout | None = None) -> Tensor:
        """Images `[N, in_channels, H, W]` → logits `[N, classes]`."""
        return self.run(x, self.genotype, dropout)


class Supernet(_Backbone):
    """All networks of a search space in one set of shared weights: a weight per (cell, node, source, operation).

    `supernet(x, genotype)` runs one path. BatchNorm uses the mini-batch's own statistics, also in evaluation: there
    are no running ones, since every path would need its own.
    """

    def __init__(self, config: NetworkConfig, space: SearchSpace) -> None:
        super().__init__(config, space, running_stats=False)
        self.space = space

    def forward(self, x: Tensor, genotype: Genotype, dropout: PathDropout | None = None) -> Tensor:
        """Images `[N, in_channels, H, W]` and a path → logits `[N, classes]`."""
        return self.run(x, genotype, dropout)

    def extract(self, genotype: Genotype) -> Network:
        """The stand-alone network of one path, with a copy of its weights and fresh running statistics.

        On a mini-batch's own statistics (`.train()`) both compute the same, bit for bit. Raises ValueError if the
        genotype is not of this supernet's space.
        """
        self.space.validate(genotype)
        network = Network(self.config, genotype).to(next(self.parameters()).device)
        own = self.state_dict()
        # Assigned, not copied into: a clone keeps the memory format, and with it the order of every sum.
        path = {name: own[name].clone() for name in network.state_dict() if name in own}
        network.load_state_dict(path, strict=False, assign=True)
        return network
