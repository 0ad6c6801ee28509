"""Quantities of a network that are sums over its edges: bytes, operations, seconds. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from bnas.space.genotype import CELL_INPUTS, Gene, Genotype, Node
from bnas.space.search_space import SearchSpace
from bnas.space.topology import edge_stride

Edges = Mapping[tuple[int, str], float]
"""(stride, operation) → the quantity of one such edge of a cell."""


def used(genotype: Genotype, reduction: bool) -> Iterator[tuple[int, str]]:
    """(stride, operation) of every edge of one of the genotype's cells."""
    for node in genotype.reduction if reduction else genotype.normal:
        for gene in node:
            yield edge_stride(gene.source, reduction), gene.op


@dataclass(frozen=True)
class EdgeTable:
    """`table(genotype)` is `fixed`, what all networks of a space have in common, plus the sum over all edges.

    `cells` holds, from input to output, whether a cell reduces and what its edges come to.
    """

    space: SearchSpace
    fixed: float
    cells: Sequence[tuple[bool, Edges]]

    def __call__(self, genotype: Genotype) -> float:
        """The quantity of the network of this genotype; raises ValueError if it is not of the table's space."""
        if genotype.space != self.space.name or len(genotype.normal) != self.space.nodes:
            self.space.validate(genotype)  # raises
        normal, reduction = self._genes
        total = self.fixed
        try:
            for first, second in genotype.normal:
                total += normal[first] + normal[second]
            for first, second in genotype.reduction:
                total += reduction[first] + reduction[second]
        except KeyError:
            self.space.validate(genotype)  # raises
            raise
        return total

    @cached_property
    def _genes(self) -> tuple[dict[Gene, float], dict[Gene, float]]:
        """What a gene comes to in all normal and in all reduction cells: a search asks for thousands of genotypes."""
        sources, ops = range(CELL_INPUTS + self.space.nodes - 1), self.space.ops

        def sums(kind: bool) -> dict[Gene, float]:
            cells = [edges for reduction, edges in self.cells if reduction == kind]
            genes = [Gene(source, op) for source in sources for op in ops]
            return {gene: sum(edges[edge_stride(gene.source, kind), gene.op] for edges in cells) for gene in genes}

        return sums(False), sums(True)

    def range(self) -> tuple[float, float]:
        """The least and the most that a network of the space can have."""
        return self.fixed + sum(self._extremes(min)), self.fixed + sum(self._extremes(max))

    def _extremes(self, pick: Callable[[Iterable[float]], float]) -> Iterator[float]:
        # One genotype serves all cells of a kind, so an operation is chosen for all of them at once. The sources
        # matter in reduction cells only: between 2 and 2 − i of a node's two genes read a cell input.
        for kind in (False, True):
            cells = [edges for reduction, edges in self.cells if reduction == kind]
            for i in range(self.space.nodes):
                strided = range(max(0, CELL_INPUTS - i), CELL_INPUTS + 1) if kind else (0,)

                def best(stride: int, cells: Sequence[Edges] = cells) -> float:
                    return pick(sum(edges[stride, op] for edges in cells) for op in self.space.ops)

                # Not a stride that no edge has: with one node, a reduction cell has no stride 1.
                yield pick([sum(n * best(stride) for stride, n in ((2, k), (1, 2 - k)) if n) for k in strided])


def everywhere(op: str, space: SearchSpace) -> Genotype:
    """A genotype with one operation on all edges; they have all strides that edges of the space can have."""
    nodes: list[Node] = [(Gene(min(i, 1), op), Gene(i + 1, op)) for i in range(space.nodes)]
    return Genotype(tuple(nodes), tuple(nodes), space.name)
