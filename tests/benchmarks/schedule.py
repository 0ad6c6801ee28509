"""The mini-batch schedule of the frozen search against full scores: how much it saves, and what that costs.

On a supernet like the default run's, trained here (a minute or two). Full answers of whoever is met are computed once
and handed to all searches, each of which counts what it would have computed itself.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bnas import pareto
from bnas.coevolution import SearchPlan, search
from bnas.data import MiniBatches
from bnas.evaluate import Problem, Scorer, confirm_front
from bnas.network import Supernet
from bnas.space import Genotype
from tests.benchmarks.evolved import SCORING, VARIATION, Digits, Evolved, evolved
from tests.benchmarks.text import table

SEEDS = (0, 1, 2)
VALIDATION = 800


class Known(Scorer):
    """A scorer whose answers come from a memory that others share; it counts as if it had computed them."""

    def __init__(self, supernet: Supernet, batches: MiniBatches, memory: dict[Genotype, list[int]]) -> None:
        super().__init__(supernet, batches, workers=2)
        self.memory = memory

    def answers(self, todo: Mapping[Genotype, range]) -> Iterator[tuple[Genotype, int, int]]:
        """What the memory holds, after it was told what is new to it."""
        new = [genotype for genotype in todo if genotype not in self.memory]
        for genotype in new:
            self.memory[genotype] = [0] * len(self.batches)
        for genotype, index, wrong in super().answers({g: range(len(self.batches)) for g in new}):
            self.memory[genotype][index] = wrong
        for genotype, indices in todo.items():
            yield from ((genotype, index, self.memory[genotype][index]) for index in indices)


def separated_tau(scores: Sequence[float], full: Sequence[float], images: int) -> tuple[float, int]:
    """Kendall's τ-b over the pairs whose full errors differ by more than two standard errors, and how many those are.

    The standard error of a difference of two errors on the same number of images, taken as independent.
    """
    agree = tied = pairs = 0
    for i, j in itertools.combinations(range(len(full)), 2):
        error = np.sqrt((full[i] * (1 - full[i]) + full[j] * (1 - full[j])) / images)
        if abs(full[i] - full[j]) > 2 * error:
            pairs += 1
            sign = np.sign(scores[i] - scores[j]) * np.sign(full[i] - full[j])
            agree += int(sign)
            tied += sign == 0
    return (agree / np.sqrt(pairs * (pairs - tied)) if pairs > tied else float("nan")), pairs


def searched(start: Evolved, scorer: Known, population: int, first: int, last: int, seed: int) -> dict[str, float]:
    """One search by a schedule, its front confirmed: what it spent and found."""
    plan = SearchPlan(population, 12, "nsga2", population, VARIATION, replace(SCORING, batches=first), last)
    problem: Problem = start.problem
    found = search(scorer, problem, plan, start.population, seed=seed, first_generation=1)
    scheduled = [scorer.best_known(genotype) for genotype in found.population]
    searching = scorer.image_evaluations
    front = confirm_front(found.evaluated, problem.resources(found.evaluated), scorer)
    spent, everything = scorer.image_evaluations, len(scorer.batches)
    images = scorer.batches.images(everything)
    full = [scorer.error(genotype, everything) for genotype in found.population]
    space = problem.range(10)
    errors = [scorer.error(genotype, everything) for genotype in front]
    sizes = [problem.costs.size(genotype) for genotype in front]
    tau, pairs = separated_tau(scheduled, full, images)
    return {
        "times fewer": len(found.evaluated) * images / spent,
        "confirming": (spent - searching) / spent,
        "tau": tau,
        "pairs": pairs,
        "tau of all pairs": pareto.kendall_tau(scheduled, full),
        "hypervolume": pareto.front_hypervolume(
            errors, sizes, space.chance_error, space.smallest_bytes, space.largest_bytes
        ),
    }


def curve(batch_sizes: Sequence[int] = (50, 100)) -> list[dict[str, Any]]:
    """Schedules from cheap to full, three seeds each, on one supernet."""
    digits = Digits(validation=VALIDATION)
    start = evolved(digits, channels=8, population=32)
    return curve_of(start, digits, batch_sizes)


def curve_of(start: Evolved, digits: Digits, batch_sizes: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of `curve` on a given supernet."""
    torch.set_num_threads(1)
    rows = []
    for size in batch_sizes:
        batches = digits.batches(size)
        full, memory = len(batches), dict[Genotype, list[int]]()
        for first, last in ((1, 1), (1, 2), (1, 3), (1, 4), (2, 2), (2, 4), (2, 6), (full, full)):
            if last * size > 600 and (size, first) != (100, full):
                continue
            found = [searched(start, Known(start.supernet, batches, memory), 32, first, last, seed) for seed in SEEDS]
            rows.append({"images a mini-batch": size, "first": first, "last": last} | summary(found))
    return rows


def summary(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over seeds; of τ and hypervolume the least, too."""
    row: dict[str, Any] = {
        name: round(statistics.mean(each[name] for each in found), 3)
        for name in ("times fewer", "confirming", "tau", "tau of all pairs", "hypervolume")
    }
    row["least tau"] = round(min(each["tau"] for each in found), 3)
    row["hypervolumes"] = ", ".join(f"{each['hypervolume']:.4f}" for each in found)
    return row


MEASURES = {"schedule": curve}
"""Name of the figures → what measures them."""


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as paragraphs of Markdown."""
    return [
        "## The mini-batch schedule",
        "Frozen searches by NSGA-II (population 32, 12 generations, 800 validation images, three seeds) in a supernet "
        "like the default run's, by the mini-batches of the first and of the last generation. `times fewer`: image "
        "evaluations of the whole search, the confirmation of its front (share `confirming`) included, against scoring "
        "everyone in full. `tau`: Kendall's τ-b between the last population's scores and its full scores, over pairs "
        "whose full errors differ by more than two standard errors.",
        table(found["schedule"]),
    ]
