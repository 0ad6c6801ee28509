"""Genotypes and the search spaces they live in: plain data, no torch.

A network is a stack of two kinds of cell, as in DARTS. Each cell sees the outputs of the two
cells before it (states 0 and 1); intermediate node `i` is state `i + 2` and is the sum of two operations applied
to two *distinct* earlier states; all nodes are concatenated.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

CELL_INPUTS = 2
"""States a cell starts from: the outputs of the two previous cells."""

OPERATIONS: Mapping[str, tuple[str, ...]] = {
    # Exactly the seven operations of EBNAS.
    "bnas": (
        "skip_connect",
        "max_pool_3x3",
        "avg_pool_3x3",
        "bin_conv_3x3",
        "bin_conv_5x5",
        "bin_dil_conv_3x3",
        "bin_dil_conv_5x5",
    ),
    # The eight of DARTS, every convolution binary; `none` gives zeros.
    "darts": (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    ),
}
"""Name of a space → the operations it may use."""

PARAMETER_FREE = frozenset({"none", "skip_connect", "max_pool_3x3", "avg_pool_3x3"})
"""Operations without a weight: what the small-model trap fills cells with."""

PLAIN_CONVOLUTION = {"bnas": "bin_conv_3x3", "darts": "sep_conv_3x3"}
"""Name of a space → the operation of its hand-designed cell."""


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
        normal, reduction = (",".join(map(_node_json, cell)) for cell in (self.normal, self.reduction))
        return f'{{"space":{json.dumps(self.space)},"normal":[{normal}],"reduction":[{reduction}]}}'

    def to_dict(self) -> dict[str, Any]:
        """The plain value behind `to_json`, for files that hold several genotypes."""
        cells = {
            name: [[[gene.op, gene.source] for gene in node] for node in nodes]
            for name, nodes in (("normal", self.normal), ("reduction", self.reduction))
        }
        return {"space": self.space, **cells}

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
    # Searches build thousands of genotypes of a few hundred nodes. Equal values of other types go the slow way.
    if type(genes) is tuple and all(
        type(gene) is Gene and type(gene.source) is int and type(gene.op) is str for gene in genes
    ):
        return _remembered_node(genes, cell, index, space)
    return _checked_node(genes, cell, index, space)


@lru_cache(maxsize=10_000)
def _node_json(node: Node) -> str:
    return json.dumps([[gene.op, gene.source] for gene in node], separators=(",", ":"))


@lru_cache(maxsize=10_000)
def _remembered_node(genes: Node, cell: str, index: int, space: str) -> Node:
    return _checked_node(genes, cell, index, space)


def _checked_node(genes: Sequence[Gene], cell: str, index: int, space: str) -> Node:
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


def _valid(normal: tuple[Node, ...], reduction: tuple[Node, ...], space: str) -> Genotype:
    """The genotype of nodes that are valid and in order by construction, which the constructor would check again."""
    genotype = object.__new__(Genotype)
    genotype.__dict__.update(normal=normal, reduction=reduction, space=space)
    return genotype


_Kinds = tuple[tuple[tuple[Node, ...], tuple[Node, ...]], tuple[tuple[Node, ...], tuple[Node, ...]]]


@lru_cache(maxsize=100)
def _all_nodes(count: int, ops: tuple[str, ...], others: tuple[str, ...]) -> tuple[_Kinds, ...]:
    """All that each node can be, by whether its first and its second operation are of `ops` or `others`."""

    def known(index: int, first: tuple[str, ...], second: tuple[str, ...]) -> tuple[Node, ...]:
        return tuple(
            (Gene(a, one), Gene(b, other))
            for a, b in itertools.combinations(range(CELL_INPUTS + index), 2)
            for one, other in itertools.product(first, second)
        )

    return tuple(
        ((known(i, others, others), known(i, others, ops)), (known(i, ops, others), known(i, ops, ops)))
        for i in range(count)
    )


@dataclass(frozen=True)
class SearchSpace:
    """All genotypes with `nodes` nodes a cell over the operation names `ops`.

    Raises ValueError for an unknown space name, an unknown or repeated operation, or fewer than one node.
    """

    ops: tuple[str, ...] = OPERATIONS["bnas"]
    nodes: int = 4
    name: str = "bnas"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        if self.name not in OPERATIONS:
            raise ValueError(f"SearchSpace.name: expected one of {', '.join(OPERATIONS)}, found {self.name!r}")
        known = OPERATIONS[self.name]
        unknown = [op for op in self.ops if op not in known]
        if not self.ops or unknown or len(set(self.ops)) != len(self.ops):
            raise ValueError(
                f"SearchSpace.ops: expected distinct names out of {', '.join(known)}, found {list(self.ops)}"
            )
        if type(self.nodes) is not int or self.nodes < 1:
            raise ValueError(f"SearchSpace.nodes: expected at least 1, found {self.nodes}")

    def sample(self, rng: random.Random) -> Genotype:
        """A genotype with every gene drawn uniformly."""
        return self._draw(1.0, self.ops, (), rng)

    def sample_mixed(self, rng: random.Random) -> Genotype:
        """A genotype whose share of weighted operations is itself drawn first, with both extremes likely.

        The share follows the arcsine distribution on [0, 1]; within each kind operations are uniform. Equal to
        `sample` where the space has only one kind of operation.
        """
        weighted, free = self._kinds
        if not free or not weighted:
            return self.sample(rng)
        return self._draw(math.sin(rng.random() * math.pi / 2) ** 2, weighted, free, rng)

    @cached_property
    def _kinds(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The operations with weights, and those without."""
        free = tuple(op for op in self.ops if op in PARAMETER_FREE)
        return tuple(op for op in self.ops if op not in PARAMETER_FREE), free

    def _draw(self, share: float, ops: tuple[str, ...], others: tuple[str, ...], rng: random.Random) -> Genotype:
        """Operations are uniform in `ops` with probability `share`, else in `others`.

        Searches draw a dozen candidates for each genotype they keep, so nothing is checked that holds by construction,
        and a node is drawn whole.
        """
        number, nodes = rng.random, _all_nodes(self.nodes, ops, others)

        def cell() -> tuple[Node, ...]:
            drawn = []
            for kinds in nodes:
                known = kinds[number() < share][number() < share]
                drawn.append(known[int(number() * len(known))])
            return tuple(drawn)

        return _valid(cell(), cell(), self.name)

    def mutate(self, genotype: Genotype, rng: random.Random, rate: float) -> Genotype:
        """Each of the two integers of each gene is drawn anew with probability `rate`; at least one is changed.

        A source is drawn among the states that the node's other gene does not use. Returns the genotype itself only
        where the space holds no other.
        """
        for _ in range(1000):
            changed = self._mutate_once(genotype, rng, rate)
            if changed != genotype:
                return changed
            rate = max(rate, 1 / (2 * len(genotype.genes)))
        return genotype

    def _mutate_once(self, genotype: Genotype, rng: random.Random, rate: float) -> Genotype:
        # As `_draw`: what holds by construction is not checked.
        number = rng.random

        def cell(nodes: Sequence[Node]) -> tuple[Node, ...]:
            mutated = []
            for i, node in enumerate(nodes):
                first, second = node
                if number() < rate:
                    first = Gene(rng.choice([s for s in range(CELL_INPUTS + i) if s != second.source]), first.op)
                if number() < rate:
                    first = Gene(first.source, rng.choice(self.ops))
                if number() < rate:
                    second = Gene(rng.choice([s for s in range(CELL_INPUTS + i) if s != first.source]), second.op)
                if number() < rate:
                    second = Gene(second.source, rng.choice(self.ops))
                if first is not node[0] or second is not node[1]:
                    node = (first, second) if first.source < second.source else (second, first)
                mutated.append(node)
            return tuple(mutated)

        return _valid(cell(genotype.normal), cell(genotype.reduction), genotype.space)

    def crossover(self, a: Genotype, b: Genotype, rng: random.Random) -> Genotype:
        """A child of two parents: with equal chance whole cells or single nodes come from either one."""
        by_cell = rng.random() < 0.5

        def cell(first: tuple[Node, ...], second: tuple[Node, ...]) -> tuple[Node, ...]:
            if by_cell:
                return rng.choice((first, second))
            return tuple(rng.choice(pair) for pair in zip(first, second, strict=True))

        return _valid(cell(a.normal, b.normal), cell(a.reduction, b.reduction), a.space)

    def validate(self, genotype: Genotype) -> None:
        """Raises ValueError if the genotype is not a member of this space."""
        if genotype.space != self.name:
            raise ValueError(f"genotype {genotype.key}: expected space {self.name!r}, found {genotype.space!r}")
        if genotype.nodes != self.nodes:
            raise ValueError(f"genotype {genotype.key}: expected {self.nodes} nodes, found {genotype.nodes}")
        for gene in genotype.genes:
            if gene.op not in self.ops:
                raise ValueError(
                    f"genotype {genotype.key}: expected operations out of {', '.join(self.ops)}, found {gene.op!r}"
                )

    @property
    def size(self) -> int:
        """Number of distinct genotypes."""
        per_cell = math.prod(math.comb(CELL_INPUTS + i, 2) * len(self.ops) ** 2 for i in range(self.nodes))
        return per_cell**2


Sampler = Callable[[random.Random, int], list[Genotype]]
"""Draws so many distinct genotypes; fewer only where the space holds fewer."""

POOL_PER_SAMPLE, FEW_SAMPLES, POOL_PER_FURTHER = 12, 64, 4
"""Candidates drawn for each genotype that stratified sampling returns: for the first few, and for each of many more."""


def distinct(draw: Callable[[], Genotype], count: int, attempts_each: int = 50) -> list[Genotype]:
    """Up to `count` different genotypes out of at most `attempts_each · count` draws, in order of drawing."""
    found: dict[Genotype, None] = {}
    for _ in range(attempts_each * count):
        if len(found) == count:
            break
        found.setdefault(draw())
    return list(found)


def sample_uniform(space: SearchSpace, rng: random.Random, count: int) -> list[Genotype]:
    """`count` distinct genotypes, every gene uniform."""
    return distinct(lambda: space.sample(rng), count)


def sample_stratified(
    space: SearchSpace, size: Callable[[Genotype], float], rng: random.Random, count: int
) -> list[Genotype]:
    """`count` distinct genotypes spread evenly over the range of log sizes.

    Uniform genes concentrate sizes in the middle of the range, so [ours] a pool of `POOL_PER_SAMPLE · count` candidates
    (fewer for each of many) is drawn by `SearchSpace.sample_mixed`. The range between the pool's smallest and largest
    log size is cut into `count` equal strata, and for a target drawn in each the nearest candidate not yet taken is
    kept. The order of the result is shuffled. `size` must be positive.
    """
    few = min(count, FEW_SAMPLES)
    pool = distinct(lambda: space.sample_mixed(rng), POOL_PER_SAMPLE * few + POOL_PER_FURTHER * (count - few))
    if len(pool) <= count:
        return pool
    ranked = sorted((math.log(size(genotype)), i) for i, genotype in enumerate(pool))
    low, high = ranked[0][0], ranked[-1][0]
    taken: list[Genotype] = []
    for k in range(count):
        target = low + (high - low) * (k + rng.random()) / count
        above = bisect_left(ranked, (target,))
        near = range(max(0, above - 1), min(len(ranked), above + 1))
        nearest = min(near, key=lambda place: abs(ranked[place][0] - target))
        taken.append(pool[ranked.pop(nearest)[1]])
    rng.shuffle(taken)
    return taken
