"""What plans of a trial find, simulated: how far the networks that it hands over lie below random ones of their sizes.

The world is the regression fitted to what the trial of the last run trained (`make run` comes first); a training there
is its value and noise as large as its residuals. Networks are judged by their true values, in standard deviations of
random networks of their sizes. Real networks differ more than this smooth world does.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.records.trial import read_trial
from bnas.search.network_regression import Features, NetworkRegression
from bnas.search.problem import SearchProblem
from bnas.search.trial import ShortRun, Trial, TrialPlan, best_of_bins, run_trial
from bnas.space.genotype import Genotype
from pipeline import build
from pipeline.config import dataset
from pipeline.params import load
from pipeline.trial import RESULT, first, plan_of
from tests.benchmarks.measure import spread
from tests.benchmarks.text import table as markdown

REPETITIONS = 16
RANDOM_NETWORKS, NEAREST = 3000, 60
"""Random networks, and how many of them of nearly its size a network is compared with."""

PLANS: Sequence[tuple[int, int, int]] = (
    (48, 3, 32),
    (48, 3, 64),
    (36, 3, 64),
    (24, 5, 64),
    (16, 8, 32),
    (16, 8, 64),
    (16, 8, 128),
    (16, 7, 64),
    (8, 17, 64),
)
"""Networks of a generation, generations of offspring, candidates for each that is trained (params.yaml: at most 64)."""


class World:
    """Losses that trainings would have, and how far networks lie below random ones of their sizes."""

    def __init__(self, problem: SearchProblem, networks: Mapping[Genotype, float]) -> None:
        costs = problem.costs
        self._features, self._size = Features(problem.space, (costs.size, costs.ops)), costs.size
        losses = list(networks.values())
        self._regression = NetworkRegression(self._features(list(networks)), losses)
        self.noise = float(np.std(np.array(losses) - self.values(list(networks))))
        drawn = problem.sampler(random.Random(0), RANDOM_NETWORKS)
        self._sizes, self._losses = self._log_sizes(drawn), self.values(drawn)

    def values(self, genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
        """Losses without noise."""
        return np.asarray(self._regression(self._features(genotypes)))

    def below_random(self, genotypes: Sequence[Genotype]) -> float:
        """Mean distance of networks below the mean of random ones of about their sizes, in these' deviations."""
        distances = []
        for size, value in zip(self._log_sizes(genotypes), self.values(genotypes), strict=True):
            near = self._losses[np.argsort(abs(self._sizes - size), kind="stable")[:NEAREST]]
            distances.append((near.mean() - value) / near.std())
        return float(np.mean(distances))

    def _log_sizes(self, genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
        return np.log([self._size(genotype) for genotype in genotypes])


def simulation() -> list[dict[str, Any]]:
    """A row for each plan."""
    params = load("params.yaml")
    problem = build.problem(params, dataset())
    trained = [each for each in read_trial(RESULT / "networks.json") if each.epochs == params.trial.epochs]
    if not trained or params.trial.source != "search":
        raise SystemExit("simulation: expected a trial, found none: make run with trial.source: search")
    world = World(problem, {each.genotype: each.loss for each in trained})
    rows = []
    for population, generations, candidates in PLANS:
        plan = replace(
            plan_of(params.trial), population=population, generations=generations, candidates=candidates, finalists=0
        )
        distances = [found(world, problem, replace(plan, seed=seed)) for seed in range(REPETITIONS)]
        rows.append(
            {
                "networks a generation": population,
                "generations": generations + 1,
                "candidates": candidates,
                "trainings": population * (generations + 1),
                "standard deviations below random networks (quartiles)": spread(distances),
            }
        )
    return rows


def found(world: World, problem: SearchProblem, plan: TrialPlan) -> float:
    """What a simulated trial hands over, as `World.below_random` says."""
    rng = np.random.default_rng(plan.seed)

    def train(genotypes: Sequence[Genotype], epochs: int) -> list[ShortRun]:
        losses = world.values(genotypes) + rng.normal(0, world.noise, len(genotypes))
        return [ShortRun(float(loss), 1, 10) for loss in losses]

    trial = Trial(problem, 1)
    run_trial(trial, plan, first(plan, "search", problem), train)
    return world.below_random(best_of_bins(trial.estimates[1], problem, plan.bins))


def text(rows: Mapping[str, Any]) -> list[str]:
    """The section of the report."""
    parts = [part.replace("\n", " ") for part in (__doc__ or "").strip().split("\n\n")]
    return ["## What plans of a trial find", parts[1], markdown(rows["simulation"])]


MEASURES = {"simulation": simulation}
