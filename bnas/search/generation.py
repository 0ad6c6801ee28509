"""NSGA-II with auxiliary objectives: from one generation of genotypes to the next.

This module knows genotypes and objective vectors only; scores come from a callable. Letters: `U` individuals, parents
and offspring together; an objective vector is `(f1, f2)`, validation error and size over a fixed bound,
both minimised.

Plain NSGA-II on `(f1, f2)` falls into the small-model trap: small networks train faster inside a shared
supernet, dominate early and drive larger ones out before those are trained. The two-stage selection of Tan
et al. 2026 (IEEE Trans. Cybernetics, doi:10.1109/TCYB.2026.3651321) first sorts on auxiliary objectives
that favour size, then takes from both sortings in turn. What that paper leaves open is marked [ours].
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from deap import tools
from numpy.typing import ArrayLike

from bnas.search.selection import Objectives, Selection, objective_rows, sorted_fronts
from bnas.space.genotype import Genotype
from bnas.space.search_space import ATTEMPTS_EACH, Sampler, SearchSpace

Evaluate = Callable[[Sequence[Genotype]], Objectives]
"""Genotypes, `n` of them → their objectives [n, 2], finite."""


@dataclass(frozen=True)
class VariationRates:
    """How offspring come about: three values in [0, 1]; raises ValueError for others.

    `crossover` is the probability that a child has two parents, `mutation_rate` the one that an integer of a genotype
    is drawn anew, `random_share` the share of the offspring that is sampled afresh.
    """

    crossover: float
    mutation_rate: float
    random_share: float

    def __post_init__(self) -> None:
        for name in ("crossover", "mutation_rate", "random_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"VariationRates.{name}: expected a value in [0, 1], found {value}")


@dataclass(frozen=True)
class Breeder:
    """What offspring are made with: the space they belong to, a sampler for random ones, and the rates of variation."""

    space: SearchSpace
    sampler: Sampler
    variation: VariationRates

    def child(self, a: Genotype, b: Genotype, rng: random.Random) -> Genotype:
        """A mutation of `a`, or a cross of both, which is mutated as often as any of its integers would be."""
        rate = self.variation.mutation_rate
        if rng.random() >= self.variation.crossover:
            return self.space.mutate(a, rng, rate)
        child = self.space.crossover(a, b, rng)
        unmutated = (1 - rate) ** (2 * len(child.genes))
        return child if rng.random() < unmutated else self.space.mutate(child, rng, rate)


def offspring(
    population: Sequence[Genotype],
    values: ArrayLike,
    count: int,
    *,
    breeder: Breeder,
    rng: random.Random,
    exclude: Container[Genotype] = frozenset(),
) -> list[Genotype]:
    """`count` distinct genotypes, none of them in `population` or `exclude`.

    `round(random_share · count)` come from the breeder's sampler. For the others, parents win a tournament on dominance
    and crowding over `values` [len(population), 2] (Deb et al. 2002). A child of one parent is mutated; a child of two
    is mutated with the chance that any of its integers would be, and always when it is already known.

    Fewer than `count` come back when the space is nearly exhausted: after `ATTEMPTS_EACH` tries per
    genotype asked for, or at once where the space cannot hold more. All draws come from `rng`; the global
    generator that DEAP uses is left as it was. Raises ValueError for an empty population, a negative count,
    or values of another shape.
    """
    matrix = objective_rows("values", values)
    if not population or len(matrix) != len(population):
        raise ValueError(
            "values: expected a non-empty population and one row for each of its members, "
            f"found {len(matrix)} rows for {len(population)} members"
        )
    if count < 0:
        raise ValueError(f"count: expected at least 0, found {count}")
    known = set(population)
    space, rates = breeder.space, breeder.variation
    count = min(count, max(0, space.size - len(known)))
    children: dict[Genotype, None] = {}

    def is_new(genotype: Genotype) -> bool:
        return genotype not in known and genotype not in children and genotype not in exclude

    sampled = round(rates.random_share * count)
    for _ in range(ATTEMPTS_EACH):
        if len(children) >= sampled:
            break
        for genotype in breeder.sampler(rng, sampled - len(children)):
            if is_new(genotype):
                children[genotype] = None
    parents = _tournament(matrix, rng)
    for _ in range(ATTEMPTS_EACH * (count - len(children))):
        if len(children) == count:
            break
        child = breeder.child(population[next(parents)], population[next(parents)], rng)
        if not is_new(child):
            child = space.mutate(child, rng, rates.mutation_rate)
        if is_new(child):
            children[child] = None
    return list(children)


SecondLook = Callable[[Sequence[Genotype]], bool]
"""Is told who would survive, and says whether estimates have moved since, so that all are selected anew [ours]."""


@dataclass(frozen=True)
class Screening:
    """A choice of offspring before they are evaluated: `candidates` are made for each that is wanted [ours].

    `predict` is called once a generation, after the parents were evaluated; the generation's own rule chooses by what
    it returns. Raises ValueError for fewer than one candidate.
    """

    candidates: int
    predict: Evaluate

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"Screening.candidates: expected at least 1, found {self.candidates}")

    def choose(self, candidates: list[Genotype], selection: Selection, rng: random.Random) -> list[Genotype]:
        """Those that are selected by their predicted objectives."""
        if len(candidates) <= selection.count:
            return candidates
        return [candidates[i] for i in selection.survivors(_evaluated(self.predict, candidates), rng)]


@dataclass(frozen=True, eq=False)
class Generation:
    """One generation: `genotypes` (U, parents first), `objectives` [U, 2], and the rows that survive.

    Raises ValueError if rows and genotypes do not match or a survivor is no row.
    """

    genotypes: tuple[Genotype, ...]
    objectives: Objectives
    survivors: tuple[int, ...]

    def __post_init__(self) -> None:
        rows = len(objective_rows("Generation.objectives", self.objectives))
        if rows != len(self.genotypes):
            raise ValueError(f"Generation.objectives: expected {len(self.genotypes)} rows, found {rows}")
        if len(set(self.survivors)) != len(self.survivors) or not set(self.survivors) <= set(range(rows)):
            raise ValueError(f"Generation.survivors: expected distinct rows below {rows}, found {self.survivors}")

    @property
    def population(self) -> tuple[Genotype, ...]:
        """The surviving genotypes, in the order of selection: the next generation's parents."""
        return tuple(self.genotypes[i] for i in self.survivors)

    @property
    def survivor_objectives(self) -> Objectives:
        """Objectives [len(population), 2] of the survivors, in the same order."""
        return self.objectives[list(self.survivors)]


def step(
    population: Sequence[Genotype],
    evaluate: Evaluate,
    *,
    selection: Selection,
    breeder: Breeder,
    rng: random.Random,
    exclude: Container[Genotype] = frozenset(),
    screening: Screening | None = None,
    second_look: SecondLook | None = None,
) -> Generation:
    """One generation: evaluate the parents, make and evaluate `selection.count` offspring, let as many of all survive.

    `population` may be of any size from 1 up. Fewer survive only where fewer exist. `evaluate` is called with the
    parents and with the offspring, if there are any; none of these is in `exclude`. With `screening` more offspring are
    made, and as many as wanted are evaluated. With a `second_look` all are evaluated and selected again for as long as
    it says so. Raises ValueError for an empty population or one with duplicates, a count below 1, results of
    `evaluate` that are not finite values [n, 2], and what `offspring` and `select` refuse.
    """
    if not population or len(set(population)) != len(population):
        raise ValueError(
            "population: expected at least one genotype and no duplicates, "
            f"found {len(population)} with {len(set(population))} distinct"
        )
    if selection.count < 1:
        raise ValueError(f"count: expected at least 1, found {selection.count}")
    known = _evaluated(evaluate, population)
    children = offspring(
        population,
        selection.mating_values(known),
        selection.count * (screening.candidates if screening else 1),
        breeder=breeder,
        rng=rng,
        exclude=exclude,
    )
    if screening:
        children = screening.choose(children, selection, rng)
    objectives = np.concatenate((known, _evaluated(evaluate, children))) if children else known
    everyone = (*population, *children)
    survivors = selection.survivors(objectives, rng)
    while second_look and second_look([everyone[i] for i in survivors]):
        objectives = _evaluated(evaluate, everyone)
        survivors = selection.survivors(objectives, rng)
    objectives.setflags(write=False)
    return Generation(everyone, objectives, tuple(survivors))


def _tournament(values: Objectives, rng: random.Random) -> Iterator[int]:
    """Winners' indices without end, pair by pair of different parents where there are at least four.

    DEAP's tournament wants a multiple of four: the pool is filled up with its best members, best first
    [ours].
    """
    ranked = [point for front in sorted_fronts(values) for point in front]
    pool = ranked + [ranked[i % len(ranked)] for i in range(-len(ranked) % 4)]
    while True:
        with _global_random(rng.getrandbits(64)):
            winners = tools.selTournamentDCD(pool, len(pool))
        yield from (point.index for point in winners)


@contextmanager
def _global_random(seed: int) -> Iterator[None]:
    """Seeds the module-level generator, which DEAP draws from, and puts its state back afterwards."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _evaluated(evaluate: Evaluate, genotypes: Sequence[Genotype]) -> Objectives:
    values = objective_rows("evaluate", evaluate(genotypes))
    if len(values) != len(genotypes):
        raise ValueError(f"evaluate: expected {len(genotypes)} rows of objectives, found {len(values)}")
    return values.copy()
