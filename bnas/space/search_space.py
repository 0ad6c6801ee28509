"""Search spaces: sampling, mutation and crossover of genotypes."""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from bnas.space.genotype import CELL_INPUTS, Gene, Genotype, Node, valid_genotype
from bnas.space.operations import OPERATIONS, PARAMETER_FREE

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

        return valid_genotype(cell(), cell(), self.name)

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

        return valid_genotype(cell(genotype.normal), cell(genotype.reduction), genotype.space)

    def crossover(self, a: Genotype, b: Genotype, rng: random.Random) -> Genotype:
        """A child of two parents: with equal chance whole cells or single nodes come from either one."""
        by_cell = rng.random() < 0.5

        def cell(first: tuple[Node, ...], second: tuple[Node, ...]) -> tuple[Node, ...]:
            if by_cell:
                return rng.choice((first, second))
            return tuple(rng.choice(pair) for pair in zip(first, second, strict=True))

        return valid_genotype(cell(a.normal, b.normal), cell(a.reduction, b.reduction), a.space)

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

    def __contains__(self, genotype: Genotype) -> bool:
        """Whether the genotype is a member of this space."""
        try:
            self.validate(genotype)
        except ValueError:
            return False
        return True

    @property
    def size(self) -> int:
        """Number of distinct genotypes."""
        per_cell = math.prod(math.comb(CELL_INPUTS + i, 2) * len(self.ops) ** 2 for i in range(self.nodes))
        return per_cell**2


Sampler = Callable[[random.Random, int], list[Genotype]]
"""Draws so many distinct genotypes; fewer only where the space holds fewer."""

POOL_PER_SAMPLE, FEW_SAMPLES, POOL_PER_FURTHER = 12, 64, 4
"""Candidates drawn for each genotype that stratified sampling returns: for the first few, and for each of many more."""


ATTEMPTS_EACH = 50
"""Draws for each genotype that is asked for, after which fewer are returned."""


def distinct(draw: Callable[[], Genotype], count: int) -> list[Genotype]:
    """Up to `count` different genotypes out of at most `ATTEMPTS_EACH · count` draws, in order of drawing."""
    genotypes: dict[Genotype, None] = {}
    for _ in range(ATTEMPTS_EACH * count):
        if len(genotypes) == count:
            break
        genotypes.setdefault(draw())
    return list(genotypes)


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
