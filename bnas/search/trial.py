"""NSGA-II that goes on at the next fidelity: candidates are trained from scratch for a short while [ours]."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bnas.records.trial import Origin
from bnas.search import generation
from bnas.search.generation import Screening, VariationRates
from bnas.search.network_regression import Features, NetworkRegression
from bnas.search.problem import SearchProblem
from bnas.search.selection import Selection, bin_ranks, rule_of
from bnas.space.genotype import Genotype


@dataclass(frozen=True)
class ShortRun:
    """What a short training came to: the training loss of its last epoch, and wrong answers to validation images."""

    loss: float
    wrong: int
    images: int


Train = Callable[[Sequence[Genotype], int], Sequence[ShortRun]]
"""Trains genotypes from scratch, each for so many epochs → their results."""


@dataclass(frozen=True)
class TrialPlan:
    """What is trained: the first population, offspring of some generations, then the best of them for longer.

    A generation trains `population` networks for the trial's epochs: chosen from `candidates` times as many offspring
    by the regression. `own_share` is as in `Trial.estimate`. Then the best of every one of `bins` equal log-size bins
    in turn, `finalists` in all, are trained for `finalist_epochs` (0 finalists: nothing is trained again).
    """

    seed: int
    population: int
    generations: int
    candidates: int
    own_share: float
    variation: VariationRates
    selection: str
    finalists: int
    finalist_epochs: int
    bins: int


@dataclass
class Trial:
    """A trial as it goes: what was trained for how long, what it came to, and the estimates that follow.

    All networks are trained for `epochs` epochs, finalists for more, too. `runs` and `estimates` map epochs to what
    networks trained for as long came to, and to their estimates. `agree` returns the main rank's values on all ranks,
    whose rounding may differ.
    """

    problem: SearchProblem
    epochs: int
    agree: Callable[[list[float]], list[float]] = list
    runs: dict[int, dict[Genotype, ShortRun]] = field(default_factory=dict)
    estimates: dict[int, dict[Genotype, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        costs = self.problem.costs
        self._features = Features(self.problem.space, (costs.size, costs.ops))
        self._regressions: dict[int, NetworkRegression] = {}

    def fit(self, runs: Mapping[Genotype, ShortRun], epochs: int) -> None:
        """Take in what genotypes trained for so long came to, and fit the regression of the rung anew."""
        rung = self.runs.setdefault(epochs, {})
        rung.update(runs)
        rows = self._rows(list(rung), epochs)
        self._regressions[epochs] = NetworkRegression(rows, [run.loss for run in rung.values()])

    def estimate(self, epochs: int, own_share: float) -> None:
        """Estimate all of a rung: this share of a network's own loss, the rest of what the regression makes of it."""
        rung = self.runs[epochs]
        self.estimates[epochs] = {
            genotype: own_share * rung[genotype].loss + (1 - own_share) * expected
            for genotype, expected in zip(rung, self.predict(list(rung), epochs), strict=True)
        }

    def predict(self, genotypes: Sequence[Genotype], epochs: int) -> list[float]:
        """What the regression of a rung expects of genotypes, trained or not, in nats and at least 0."""
        predicted = self._regressions[epochs](self._rows(genotypes, epochs))
        return self.agree(np.maximum(predicted, 0.0).tolist())

    @property
    def longest(self) -> int:
        """The epochs of the longest trainings."""
        return max(self.runs)

    def final(self, genotypes: Sequence[Genotype]) -> list[float]:
        """The estimate by all that was trained: of the finalists' rung if there is one."""
        return self._estimate(genotypes, self.longest)

    def _estimate(self, genotypes: Sequence[Genotype], epochs: int) -> list[float]:
        """The estimates of those that were trained for so long, and what the regression expects of others."""
        known, unknown = self.estimates[epochs], [each for each in genotypes if each not in self.estimates[epochs]]
        expected = dict(zip(unknown, self.predict(unknown, epochs), strict=True)) if unknown else {}
        return [known[each] if each in known else expected[each] for each in genotypes]

    def _rows(self, genotypes: Sequence[Genotype], epochs: int) -> NDArray[np.float64]:
        """Features `[U, F]`; in the finalists' rung they are log size and the estimate of the first rung."""
        if epochs != self.epochs:
            sizes = [math.log(self.problem.costs.size(genotype)) for genotype in genotypes]
            return np.column_stack([sizes, self._estimate(genotypes, self.epochs)])
        return self._features(genotypes)


def run_trial(trial: Trial, plan: TrialPlan, first: Mapping[Genotype, Origin], train: Train) -> dict[Genotype, Origin]:
    """Train the first population, generations of offspring, and the finalists; where each of them came from.

    With `candidates` 1 and `random_share` 1 all offspring are random and none is chosen: random search.
    """
    problem, rng = trial.problem, random.Random(plan.seed)
    origins, drawn = dict(first), set[Genotype]()
    breeder = problem.breeder(plan.variation)

    def sampler(rng: random.Random, count: int) -> list[Genotype]:
        genotypes = breeder.sampler(rng, count)
        drawn.update(genotypes)
        return genotypes

    def trained(genotypes: Sequence[Genotype], epochs: int) -> None:
        missing = [genotype for genotype in genotypes if genotype not in trial.runs.get(epochs, {})]
        if missing:
            trial.fit(dict(zip(missing, train(missing, epochs), strict=True)), epochs)
            trial.estimate(epochs, plan.own_share)

    def estimates(genotypes: Sequence[Genotype]) -> list[float]:
        trained(genotypes, trial.epochs)
        return [trial.estimates[trial.epochs][genotype] for genotype in genotypes]

    def predictions(genotypes: Sequence[Genotype]) -> list[float]:
        return trial.predict(genotypes, trial.epochs)

    population = tuple(first)
    for t in range(1, plan.generations + 1):
        known = len(trial.runs.get(trial.epochs, ()))
        drawn.clear()

        def moved(survivors: Sequence[Genotype]) -> bool:
            """Whether estimates have moved since the parents were looked at: once, when the offspring are trained."""
            nonlocal known
            before, known = known, len(trial.runs[trial.epochs])
            return known > before

        step = generation.step(
            population,
            problem.evaluation(estimates),
            selection=Selection(rule_of(plan.selection, t, plan.generations), t, plan.population),
            breeder=replace(breeder, sampler=sampler),
            rng=rng,
            exclude=trial.runs.get(trial.epochs, {}).keys(),
            screening=Screening(plan.candidates, problem.evaluation(predictions)),
            second_look=moved,
        )
        population = step.population
        for genotype in step.genotypes:
            origins.setdefault(genotype, "random" if genotype in drawn else "offspring")
    trained(population, trial.epochs)
    if plan.finalists:
        trained(best_of_bins(trial.estimates[trial.epochs], problem, plan.bins, plan.finalists), plan.finalist_epochs)
    return origins


def best_of_bins(
    estimates: Mapping[Genotype, float], problem: SearchProblem, bins: int, count: int | None = None
) -> list[Genotype]:
    """The smallest and the best of every one of `bins` parts of the space's range of log resource, smallest first.

    With `count` so many: after them the second best of every bin, and so on. After a short training small networks are
    ahead of large ones that will overtake them, so estimates are compared at equal size only [ours].
    """
    genotypes = sorted(estimates, key=lambda each: (problem.resource(each), each.key))
    objectives = problem.objectives(genotypes, [estimates[each] for each in genotypes])
    least, most = problem.resource.range()
    ranks = bin_ranks(objectives, bins, (least / most / problem.margin, 1 / problem.margin))
    chosen = np.argsort(ranks, kind="stable")[: int((ranks == 0).sum()) if count is None else count]
    return [genotypes[row] for row in chosen]
