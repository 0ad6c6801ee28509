"""NSGA-II with auxiliary objectives: from one generation of genotypes to the next.

Knows genotypes and objective vectors only; scores come from a callable. Letters: `U` individuals, parents
and offspring together; an objective vector is `(f1, f2)`, validation error and size over a fixed bound,
both minimised.

Plain NSGA-II on `(f1, f2)` falls into the small-model trap: small networks train faster inside a shared
supernet, dominate early and drive larger ones out before those are trained. The two-stage selection of Tan
et al. 2026 (IEEE Trans. Cybernetics, doi:10.1109/TCYB.2026.3651321) first sorts on auxiliary objectives
that favour size, then takes from both sortings in turn. What that paper leaves open is marked [ours].
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from deap import base, tools
from numpy.typing import ArrayLike, NDArray

from bnas.space import Genotype, Sampler, SearchSpace

RULES = ("nsga2", "auxiliary", "alternate", "cars")
"""Selection rules that `select` knows."""

TWO_STAGE = "two_stage"
"""A schedule of rules, see `rule_of`: `auxiliary` for the first half of the generations, then `alternate`."""

ATTEMPTS_EACH = 50
"""Tries for each offspring asked for, before `offspring` gives up finding new ones."""

Objectives = NDArray[np.float64]
"""[U, 2]: one row `(f1, f2)` per individual."""

Evaluate = Callable[[Sequence[Genotype]], Objectives]
"""Genotypes, `n` of them → their objectives [n, 2], finite."""


class _Fitness(base.Fitness):  # type: ignore[misc]  # DEAP is untyped
    """Two minimised values; a subclass because `deap.creator.create` would write a module global."""

    weights = (-1.0, -1.0)


class _Point:
    """What DEAP sorts: a fitness, and the row it came from."""

    __slots__ = ("fitness", "index")

    def __init__(self, index: int, values: Sequence[float]) -> None:
        self.index = index
        self.fitness = _Fitness(values)


def auxiliary_objectives(objectives: ArrayLike) -> Objectives:
    """`fa = f1 · (1 − f2)` and `fb = 1 − f2` [U, 2], both minimised: they favour size (Tan et al. 2026).

    Raises ValueError for anything but finite values [U, 2] with f1 ≥ 0 and f2 ≤ 1: below a negative `1 −
    f2` the larger error would rank better.
    """
    values = _objectives("objectives", objectives)
    f1, f2 = values[:, 0], values[:, 1]
    if (f1 < 0).any() or (f2 > 1).any():
        raise ValueError(
            "objectives: expected errors of at least 0 and sizes of at most 1, "
            f"found errors from {f1.min()} and sizes up to {f2.max()}"
        )
    return np.column_stack((f1 * (1 - f2), 1 - f2))


def fronts(values: ArrayLike) -> list[list[int]]:
    """Indices of the rows of `values` [U, 2] by non-dominated front, the best front first; both minimised.

    Equal rows share a front. Within a front, larger crowding distance comes first, then the lower index
    (Deb et al. 2002; the sorting is that of Fortin et al. 2013). Raises ValueError for a wrong shape or
    non-finite values.
    """
    return [[point.index for point in front] for front in _fronts(values)]


def select(objectives: ArrayLike, count: int, rule: str, rng: random.Random) -> list[int]:
    """Indices of the `count` individuals that survive, of `objectives` [U, 2], in the order they are taken.

    With F1 the sorting of `fronts` on `(f1, f2)` and F2 the one on the auxiliary objectives:

    - `nsga2`: the best of F1 (Deb et al. 2002).
    - `auxiliary`: the best of F2 (Tan et al. 2026, first stage).
    - `alternate`: the best not yet taken of F1, then of F2, in turn (Tan et al. 2026, second stage).
    - `cars`: front by front, the union of the sortings on `(f1, f2)` and `(f1, 1 / f2)`; of the last such
      union as many as there is room for, drawn by `rng`, which no other rule uses (Yang et al. 2020, their
      released code).

    Raises ValueError for an unknown rule, a count outside 0…U, anything but finite values [U, 2], or values
    that the rule cannot use: `cars` wants f2 > 0, the rules with F2 see `auxiliary_objectives`.
    """
    values = _objectives("objectives", objectives)
    _check_name("rule", rule, RULES)
    if not 0 <= count <= len(values):
        raise ValueError(f"count: expected a number from 0 to {len(values)}, found {count}")
    if rule == "cars":
        return _select_cars(values, count, rng)
    if rule == "alternate":
        return _in_turn(_ranking(values), _ranking(auxiliary_objectives(values)), count)
    return _ranking(auxiliary_objectives(values) if rule == "auxiliary" else values)[:count]


def rule_of(selection: str, generation: int, generations: int) -> str:
    """The rule in generation 1…`generations`: `two_stage` changes from `auxiliary` to `alternate` after half.

    Generations 1…`generations // 2` are the first half (Tan et al. 2026: T/2). A name out of `RULES` stays
    what it is. Raises ValueError for any other name or a generation out of range.
    """
    _check_name("selection", selection, (*RULES, TWO_STAGE))
    if not 1 <= generation <= generations:
        raise ValueError(f"generation: expected a number from 1 to {generations}, found {generation}")
    if selection != TWO_STAGE:
        return selection
    return "auxiliary" if generation <= generations // 2 else "alternate"


def mating_values(objectives: ArrayLike, rule: str, generation: int) -> Objectives:
    """The values [U, 2] that the mating tournament compares: those whose sorting the rule selects by.

    `auxiliary`: the auxiliary objectives; `alternate`: the objectives in odd generations, counted from 1,
    the auxiliary ones in even generations [ours]; `nsga2` and `cars`: the objectives (CARS itself mates at
    random). Raises ValueError for an unknown rule, a generation below 1, and what `auxiliary_objectives`
    refuses.
    """
    values = _objectives("objectives", objectives)
    _check_name("rule", rule, RULES)
    if generation < 1:
        raise ValueError(f"generation: expected at least 1, found {generation}")
    if rule == "auxiliary" or (rule == "alternate" and generation % 2 == 0):
        return auxiliary_objectives(values)
    return values


@dataclass(frozen=True)
class Variation:
    """How offspring come about: three probabilities, each in [0, 1], else ValueError.

    `crossover`: that a child has two parents; `mutation_rate`: that an integer of a genotype is drawn anew;
    `random_share`: share of the offspring that is sampled afresh.
    """

    crossover: float
    mutation_rate: float
    random_share: float

    def __post_init__(self) -> None:
        for name in ("crossover", "mutation_rate", "random_share"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"Variation.{name}: expected a value in [0, 1], found {value}")


def offspring(
    population: Sequence[Genotype],
    values: ArrayLike,
    count: int,
    *,
    space: SearchSpace,
    sampler: Sampler,
    variation: Variation,
    rng: random.Random,
    exclude: Container[Genotype] = frozenset(),
) -> list[Genotype]:
    """`count` distinct genotypes, none of them in `population` or `exclude`.

    `round(random_share · count)` come from `sampler`. For the others, parents win a tournament on dominance
    and crowding over `values` [len(population), 2] (Deb et al. 2002). A child of one parent is mutated; a
    child of two is mutated with the chance that any of its integers would be, and always when it is already
    known.

    Fewer than `count` come back when the space is nearly exhausted: after `ATTEMPTS_EACH` tries per
    genotype asked for, or at once where the space cannot hold more. All draws come from `rng`; the global
    generator that DEAP uses is left as it was. Raises ValueError for an empty population, a negative count,
    or values of another shape.
    """
    matrix = _objectives("values", values)
    if not population or len(matrix) != len(population):
        raise ValueError(
            "values: expected a non-empty population and one row for each of its members, "
            f"found {len(matrix)} rows for {len(population)} members"
        )
    if count < 0:
        raise ValueError(f"count: expected at least 0, found {count}")
    known = set(population)
    count = min(count, max(0, space.size - len(known)))
    children: dict[Genotype, None] = {}

    def is_new(genotype: Genotype) -> bool:
        return genotype not in known and genotype not in children and genotype not in exclude

    sampled = round(variation.random_share * count)
    for _ in range(ATTEMPTS_EACH):
        if len(children) >= sampled:
            break
        for genotype in sampler(rng, sampled - len(children)):
            if is_new(genotype):
                children[genotype] = None
    parents = _tournament(matrix, rng)
    for _ in range(ATTEMPTS_EACH * (count - len(children))):
        if len(children) == count:
            break
        child = _child(population[next(parents)], population[next(parents)], space, variation, rng)
        if not is_new(child):
            child = space.mutate(child, rng, variation.mutation_rate)
        if is_new(child):
            children[child] = None
    return list(children)


SecondLook = Callable[[Sequence[Genotype]], bool]
"""Told who would survive; looks closer at those who were only lucky, perhaps, and says whether it did [ours]."""


@dataclass(frozen=True)
class Screening:
    """Offspring chosen by predictions before they are evaluated: `candidates` are made for each that is wanted [ours].

    `predict` is called once a generation, after the parents were evaluated; the generation's own rule chooses by what
    it returns. Raises ValueError for fewer than one candidate.
    """

    candidates: int
    predict: Evaluate

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"Screening.candidates: expected at least 1, found {self.candidates}")

    def choose(self, candidates: list[Genotype], count: int, rule: str, rng: random.Random) -> list[Genotype]:
        """The `count` that the rule selects by their predicted objectives."""
        if len(candidates) <= count:
            return candidates
        return [candidates[i] for i in select(_evaluated(self.predict, candidates), count, rule, rng)]


@dataclass(frozen=True, eq=False)
class Generation:
    """One generation: `genotypes` (U, parents first), `objectives` [U, 2], and the rows that survive.

    Raises ValueError if rows and genotypes do not match or a survivor is no row.
    """

    genotypes: tuple[Genotype, ...]
    objectives: Objectives
    parents: int
    survivors: tuple[int, ...]

    def __post_init__(self) -> None:
        rows = len(_objectives("Generation.objectives", self.objectives))
        if rows != len(self.genotypes):
            raise ValueError(f"Generation.objectives: expected {len(self.genotypes)} rows, found {rows}")
        if not 0 <= self.parents <= rows:
            raise ValueError(f"Generation.parents: expected a number from 0 to {rows}, found {self.parents}")
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
    generation: int,
    rule: str,
    count: int,
    space: SearchSpace,
    sampler: Sampler,
    variation: Variation,
    rng: random.Random,
    exclude: Container[Genotype] = frozenset(),
    screening: Screening | None = None,
    second_look: SecondLook | None = None,
) -> Generation:
    """One generation: evaluate the parents, make and evaluate `count` offspring, let `count` of all survive.

    `population` may be of any size from 1 up, `generation` counts from 1, `rule` is one of `RULES`. Fewer
    survive only where fewer exist. `evaluate` is called with the parents and with the offspring, if there are
    any. With `screening` more offspring are made, of which `count` are evaluated. With a `second_look` all are
    evaluated and selected again for as long as it changes anything. Raises ValueError for an empty population or
    one with duplicates, a count below 1, results of `evaluate` that are not finite values [n, 2], and what
    `offspring` and `select` refuse.
    """
    if not population or len(set(population)) != len(population):
        raise ValueError(
            "population: expected at least one genotype and no duplicates, "
            f"found {len(population)} with {len(set(population))} distinct"
        )
    if count < 1:
        raise ValueError(f"count: expected at least 1, found {count}")
    known = _evaluated(evaluate, population)
    children = offspring(
        population,
        mating_values(known, rule, generation),
        count * (screening.candidates if screening else 1),
        space=space,
        sampler=sampler,
        variation=variation,
        rng=rng,
        exclude=exclude,
    )
    if screening:
        children = screening.choose(children, count, rule, rng)
    objectives = np.concatenate((known, _evaluated(evaluate, children))) if children else known
    everyone = (*population, *children)
    survivors = select(objectives, min(count, len(everyone)), rule, rng)
    while second_look and second_look([everyone[i] for i in survivors]):
        objectives = _evaluated(evaluate, everyone)
        survivors = select(objectives, min(count, len(everyone)), rule, rng)
    objectives.setflags(write=False)
    return Generation(everyone, objectives, len(population), tuple(survivors))


def _fronts(values: ArrayLike) -> list[list[_Point]]:
    """The fronts of `fronts`, as points that carry their crowding distance."""
    points = [_Point(i, row) for i, row in enumerate(_objectives("values", values).tolist())]
    result = []
    for front in tools.sortLogNondominated(points, len(points)):
        front.sort(key=lambda point: point.index)
        tools.emo.assignCrowdingDist(front)
        result.append(sorted(front, key=lambda point: (-point.fitness.crowding_dist, point.index)))
    return result


def _ranking(values: ArrayLike) -> list[int]:
    """All indices, best first."""
    return list(itertools.chain.from_iterable(fronts(values)))


def _in_turn(first: Sequence[int], second: Sequence[int], count: int) -> list[int]:
    """The best not yet taken of `first`, then of `second`, and so on; both rank the same indices."""
    rankings = itertools.cycle((iter(first), iter(second)))
    taken: dict[int, None] = {}
    while len(taken) < count:
        taken[next(i for i in next(rankings) if i not in taken)] = None
    return list(taken)


def _select_cars(objectives: Objectives, count: int, rng: random.Random) -> list[int]:
    f1, f2 = objectives[:, 0], objectives[:, 1]
    if (f2 <= 0).any():
        raise ValueError(f"objectives: expected sizes above 0 for rule 'cars', found {f2.min()}")
    small, large = fronts(objectives), fronts(np.column_stack((f1, 1 / f2)))
    chosen: list[int] = []
    for level in itertools.zip_longest(small, large, fillvalue=()):
        union = sorted({i for front in level for i in front}.difference(chosen))
        room = count - len(chosen)
        if len(union) > room:
            return chosen + rng.sample(union, room)
        chosen += union
    return chosen


def _tournament(values: Objectives, rng: random.Random) -> Iterator[int]:
    """Winners' indices without end, pair by pair of different parents where there are at least four.

    DEAP's tournament wants a multiple of four: the pool is filled up with its best members, best first
    [ours].
    """
    ranked = [point for front in _fronts(values) for point in front]
    pool = ranked + [ranked[i % len(ranked)] for i in range(-len(ranked) % 4)]
    while True:
        with _global_random(rng.getrandbits(64)):
            winners = tools.selTournamentDCD(pool, len(pool))
        yield from (point.index for point in winners)


def _child(a: Genotype, b: Genotype, space: SearchSpace, variation: Variation, rng: random.Random) -> Genotype:
    """A mutation of `a`, or a cross of both, which is mutated as often as any of its integers would be."""
    rate = variation.mutation_rate
    if rng.random() >= variation.crossover:
        return space.mutate(a, rng, rate)
    child = space.crossover(a, b, rng)
    unmutated = (1 - rate) ** (2 * len(child.genes))
    return child if rng.random() < unmutated else space.mutate(child, rng, rate)


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
    values = _objectives("evaluate", evaluate(genotypes))
    if len(values) != len(genotypes):
        raise ValueError(f"evaluate: expected {len(genotypes)} rows of objectives, found {len(values)}")
    return values.copy()


def _objectives(name: str, values: ArrayLike) -> Objectives:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name}: expected shape [U, 2], found {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values, found {array[~np.isfinite(array)][0]}")
    return array


def _check_name(field: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{field}: expected one of {', '.join(known)}, found {name!r}")
