"""Genotypes and the search spaces they live in: plain data, no torch.

A network is a stack of two kinds of cell, as in DARTS. Each cell sees the outputs of the two
cells before it (states 0 and 1); intermediate node `i` is state `i + 2` and is the sum of two operations applied
to two *distinct* earlier states; all nodes are concatenated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from bnas.space.operations import OPERATIONS, PARAMETER_FREE

CELL_INPUTS = 2
"""States a cell starts from: the outputs of the two previous cells."""


class Gene(NamedTuple):
    """One edge of a cell: operation `op` applied to state `source`."""

    source: int
    op: str


Node = tuple[Gene, Gene]


@dataclass(frozen=True)
class Genotype:
    """Two cells as data: per node two genes, kept in sorted order so that equal networks are equal values.

    Hashable and ordered nowhere; `key` is a short stable name. Raises ValueError if a node does not hold two genes
    with distinct, earlier sources, or an operation is not one of its space. With `none` among the operations a node may
    be zeros [ours]: such an architecture is a valid one, and a bad one. DARTS leaves `none` out of the architectures it
    derives; leave it out of the space's operations for that.
    """

    normal: tuple[Node, ...]
    reduction: tuple[Node, ...]
    space: str = "bnas"

    def __post_init__(self) -> None:
        for cell in ("normal", "reduction"):
            nodes = tuple(_node(genes, cell, i, self.space) for i, genes in enumerate(getattr(self, cell)))
            if not nodes:
                raise ValueError(f"Genotype.{cell}: expected at least one node, found none")
            object.__setattr__(self, cell, nodes)
        if len(self.normal) != len(self.reduction):
            raise ValueError(
                "Genotype: expected as many nodes in both cells, "
                f"found {len(self.normal)} normal and {len(self.reduction)} reduction nodes"
            )

    @property
    def nodes(self) -> int:
        """Intermediate nodes of each cell."""
        return len(self.normal)

    @property
    def genes(self) -> tuple[Gene, ...]:
        """All genes, normal cell first, node by node."""
        return tuple(gene for cell in (self.normal, self.reduction) for node in cell for gene in node)

    @cached_property
    def key(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of `to_json()`: equal for equal networks."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @property
    def parameter_free_share(self) -> float:
        """Share of genes, in [0, 1], whose operation has no weights."""
        genes = self.genes
        return sum(gene.op in PARAMETER_FREE for gene in genes) / len(genes)

    def to_json(self) -> str:
        """One line of JSON: the space's name and, per cell and node, `[operation, source]` pairs."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """The plain value behind `to_json`, for files that hold several genotypes."""
        normal, reduction = (
            [[[gene.op, gene.source] for gene in node] for node in cell] for cell in (self.normal, self.reduction)
        )
        return {"space": self.space, "normal": normal, "reduction": reduction}

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """The inverse of `to_json`; raises ValueError saying what is wrong with the text."""
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Genotype: expected JSON, found {text[:60]!r} ({error})") from None
        return cls.from_dict(value)

    @classmethod
    def from_dict(cls, value: object) -> Genotype:
        """The inverse of `to_dict`; raises ValueError saying what is wrong with the value."""
        if not isinstance(value, dict) or set(value) != {"space", "normal", "reduction"}:
            raise ValueError(f"Genotype: expected an object with space, normal and reduction, found {str(value)[:80]}")
        if not isinstance(value["space"], str):
            raise ValueError(f"Genotype.space: expected a name, found {value['space']!r:.80}")
        cells = []
        for name in ("normal", "reduction"):
            try:
                nodes = tuple(tuple(Gene(source, op) for op, source in node) for node in value[name])
            except (TypeError, ValueError):
                raise ValueError(
                    f"Genotype.{name}: expected nodes of two [operation, source] pairs, found {str(value[name])[:80]}"
                ) from None
            cells.append(nodes)
        return cls(cells[0], cells[1], value["space"])  # type: ignore[arg-type]  # checked by the constructor


def _node(genes: Sequence[Gene], cell: str, index: int, space: str) -> Node:
    """The genes of a node in order; raises ValueError as `Genotype` says."""
    where, known = f"{cell} node {index}", OPERATIONS.get(space)
    if len(genes) != 2:
        raise ValueError(f"Genotype: expected two genes in {where}, found {len(genes)}")
    for gene in genes:
        gene = Gene(*gene)
        if not isinstance(gene.op, str):
            raise ValueError(f"Genotype: expected an operation name in {where}, found {gene.op!r:.80}")
        if type(gene.source) is not int or not 0 <= gene.source < CELL_INPUTS + index:
            raise ValueError(
                f"Genotype: expected a source from 0 to {CELL_INPUTS + index - 1} in {where}, found {gene.source!r:.80}"
            )
    first, second = sorted(Gene(*gene) for gene in genes)
    if first.source == second.source:
        raise ValueError(f"Genotype: expected two distinct sources in {where}, found {first.source} twice")
    for gene in (first, second):
        if known is not None and gene.op not in known:
            raise ValueError(
                f"Genotype: expected an operation out of {', '.join(known)} in {where}, found {gene.op!r:.80}"
            )
    return first, second


def valid_genotype(normal: tuple[Node, ...], reduction: tuple[Node, ...], space: str) -> Genotype:
    """The genotype of nodes that are valid and in order by construction, which the constructor would check again."""
    genotype = object.__new__(Genotype)
    genotype.__dict__.update(normal=normal, reduction=reduction, space=space)
    return genotype
