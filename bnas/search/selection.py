"""Selection rules on objective vectors: NSGA-II, auxiliary objectives, both in turn, CARS, bins of size."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from deap import base, tools
from numpy.typing import ArrayLike, NDArray

RULES = ("nsga2", "auxiliary", "alternate", "cars", "bins")
"""Selection rules that `select` knows."""

BINS = 10
"""Bins of the second objective that the rule `bins` compares individuals within."""

TWO_STAGE = "two_stage"
"""A schedule of rules, see `rule_of`: `auxiliary` for the first half of the generations, then `alternate`."""

Objectives = NDArray[np.float64]
"""[U, 2]: one row `(f1, f2)` per individual."""


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
    values = objective_rows("objectives", objectives)
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
    return [[point.index for point in front] for front in sorted_fronts(values)]


def select(objectives: ArrayLike, count: int, rule: str, rng: random.Random) -> list[int]:
    """Indices of the `count` individuals that survive, of `objectives` [U, 2], in the order they are taken.

    With F1 the sorting of `fronts` on `(f1, f2)` and F2 the one on the auxiliary objectives:

    - `nsga2`: the best of F1 (Deb et al. 2002).
    - `auxiliary`: the best of F2 (Tan et al. 2026, first stage).
    - `alternate`: the best not yet taken of F1, then of F2, in turn (Tan et al. 2026, second stage).
    - `cars`: front by front, the union of the sortings on `(f1, f2)` and `(f1, 1 / f2)`; of the last such
      union as many as there is room for, drawn by `rng`, which no other rule uses (Yang et al. 2020, their
      released code).
    - `bins`: the smallest and the best of every bin of size, then the second best of each, and so on; see `bin_ranks`
      [ours].

    Raises ValueError for an unknown rule, a count outside 0…U, anything but finite values [U, 2], or values
    that the rule cannot use: `cars` and `bins` want f2 > 0, the rules with F2 see `auxiliary_objectives`.
    """
    values = objective_rows("objectives", objectives)
    _check_name("rule", rule, RULES)
    if not 0 <= count <= len(values):
        raise ValueError(f"count: expected a number from 0 to {len(values)}, found {count}")
    if rule == "cars":
        return _select_cars(values, count, rng)
    if rule == "alternate":
        return _in_turn(_ranking(values), _ranking(auxiliary_objectives(values)), count)
    if rule == "bins":
        return [int(row) for row in np.argsort(bin_ranks(values), kind="stable")[:count]]
    return _ranking(auxiliary_objectives(values) if rule == "auxiliary" else values)[:count]


def bin_ranks(objectives: ArrayLike, bins: int = BINS, limits: tuple[float, float] | None = None) -> NDArray[np.int64]:
    """The place of each of `objectives` [U, 2] by f1 among those in its bin, from 0; of equal ones the first is better.

    Bins are equal parts of the range of log f2: from the least to the greatest, or between the limits. f1 is compared
    at equal size only, so that an error estimate that favours small networks, as that of any short training does,
    drives no large one out [ours]. The best of the least f2 has place 0, too: within its bin larger ones beat it, but
    a front reaches down to it, as NSGA-II's crowding distance provides for. Raises ValueError for f2 of 0 or less.
    """
    values = objective_rows("objectives", objectives)
    f1, f2 = values[:, 0], values[:, 1]
    ranks = np.zeros(len(f2), np.int64)
    if not len(f2):
        return ranks
    low, high = limits or (f2.min(), f2.max())
    if low <= 0:
        raise ValueError(f"objectives: expected sizes above 0 for rule 'bins', found {low}")
    # Rounded, so that what lies on an edge stays in its bin whatever the last digit of its logarithm.
    place = np.searchsorted(
        np.round(np.linspace(np.log(low), np.log(high), bins + 1)[1:-1], 9), np.round(np.log(f2), 9)
    )
    for each in np.unique(place):
        inside = np.flatnonzero(place == each)
        ranks[inside[np.argsort(f1[inside], kind="stable")]] = np.arange(len(inside))
    ranks[np.lexsort((f1, f2))[0]] = 0
    return ranks


@dataclass(frozen=True)
class Selection:
    """How one generation selects: `count` survive by `rule`, one of `RULES`; generations count from 1.

    Raises ValueError for an unknown rule and a generation below 1.
    """

    rule: str
    generation: int
    count: int

    def __post_init__(self) -> None:
        _check_name("rule", self.rule, RULES)
        if self.generation < 1:
            raise ValueError(f"generation: expected at least 1, found {self.generation}")

    def survivors(self, objectives: ArrayLike, rng: random.Random) -> list[int]:
        """`select` of so many, or of all where there are fewer."""
        values = objective_rows("objectives", objectives)
        return select(values, min(self.count, len(values)), self.rule, rng)

    def mating_values(self, objectives: ArrayLike) -> Objectives:
        """The values [U, 2] that the mating tournament compares: those whose sorting the rule selects by.

        `auxiliary`: the auxiliary objectives; `alternate`: the objectives in odd generations, the auxiliary ones in
        even generations [ours]; `bins`: the place within the bin, twice [ours]; `nsga2` and `cars`: the objectives
        (CARS itself mates at random). Raises ValueError for what `auxiliary_objectives` and `bin_ranks` refuse.
        """
        values = objective_rows("objectives", objectives)
        if self.rule == "bins":
            return np.repeat(bin_ranks(values).astype(np.float64)[:, None], 2, axis=1)
        if self.rule == "auxiliary" or (self.rule == "alternate" and self.generation % 2 == 0):
            return auxiliary_objectives(values)
        return values


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


def sorted_fronts(values: ArrayLike) -> list[list[_Point]]:
    """The fronts of `fronts`, as points that carry their crowding distance."""
    points = [_Point(i, row) for i, row in enumerate(objective_rows("values", values).tolist())]
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


def objective_rows(name: str, values: ArrayLike) -> Objectives:
    """The values as finite rows [U, 2]; raises ValueError, with this name, for any others."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name}: expected shape [U, 2], found {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values, found {array[~np.isfinite(array)][0]}")
    return array


def _check_name(field: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"{field}: expected one of {', '.join(known)}, found {name!r}")
