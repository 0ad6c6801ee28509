"""The mini-batch schedule of the frozen search against full scores: how much it saves, and what that costs.

On a supernet like the default run's, trained here. Every answer is computed once and handed to all searches of one cut
of the split, each of which counts what it would have computed itself. Each seed cuts and searches anew, as in the
pipeline. The default schedule was chosen on another supernet (`evolved` with seed 1; cuts and searches 0 to 5, 7 and
8), after a look at what seed 0 lost here; so seeds 1 to 5 only check it. 20 minutes or more.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from bnas.data.batches import MiniBatches
from bnas.scoring.answers import Answered, Answers, Questions, Way
from bnas.scoring.scorer import ALL_BATCHES, Scorer
from bnas.scoring.supernet_scorer import ESTIMATORS, ScoringData, supernet_scorer
from bnas.scoring.ways import together
from bnas.search import pareto
from bnas.search.contest import confirm_front
from bnas.search.frozen_search import SearchPlan, search
from bnas.search.problem import SearchProblem
from bnas.space.genotype import Genotype
from bnas.training.ranks import ALONE
from pipeline.params import load
from tests.benchmarks.evolved import SCORING, VARIATION, Digits, Evolved, evolved
from tests.benchmarks.text import table
from tests.imports import ROOT

SEEDS, OTHERS = (0, 1, 2), (3, 4, 5)
"""Of cuts and searches: for all schedules, and for the default and full scoring only."""

VALIDATION = 800
POPULATION, GENERATIONS = 64, 24
"""Of the search by full scores that others are compared with."""


class Schedule(NamedTuple):
    """Images a mini-batch, references for difficulty, mini-batches of the first and the last generation (0: all).

    `front` and `last_front` are those of the front of all so far (0: as others), `survivors` those of whoever survives
    (0: as others); `margin` is that of the front's confirmation; `candidates` are made for each offspring; `score` is
    what stands for the error on the split.
    """

    size: int
    references: int
    first: int
    last: int
    front: int = 0
    last_front: int = 1
    survivors: int = 0
    margin: float = 0.0
    generations: int = GENERATIONS
    candidates: int = 1
    score: str = "error"


def _default() -> Schedule:
    search = load(ROOT / "pipeline/presets/mnist5k.yaml").search
    scored = search.evaluation
    return Schedule(
        scored.batch_size,
        scored.references,
        scored.first_batches,
        scored.last_batches,
        scored.front_batches,
        scored.last_front_batches,
        scored.survivor_batches,
        scored.front_margin,
        search.generations,
        search.candidates,
        scored.score,
    )


DEFAULT = _default()
FULL = Schedule(50, 8, 0, 0)
FULL_SCREENED = FULL._replace(generations=DEFAULT.generations, candidates=DEFAULT.candidates)
CURVE = (
    FULL,
    FULL_SCREENED,
    *(FULL._replace(first=first, last=last) for first, last in ((1, 1), (1, 2), (2, 4), (2, 8))),
    DEFAULT,
    DEFAULT._replace(candidates=1),
    DEFAULT._replace(survivors=0),
    DEFAULT._replace(references=0),
    DEFAULT._replace(score="error"),
)


Memory = dict[tuple[Genotype, int], Answers]
"""(genotype, mini-batch) → answers."""


def known(batches: MiniBatches, memory: Memory, way: Way, schedule: Schedule | None = None) -> Scorer:
    """A scorer whose answers come from a memory that others share; it counts as if it had computed them."""

    def answers(questions: Questions) -> Iterator[Answered]:
        """What the memory holds, after it was told what is new to it."""
        new = {
            g: range(next(i for i in indices if (g, i) not in memory), indices.stop)
            for g, indices in questions.items()
            if any((g, i) not in memory for i in indices)
        }
        memory.update({(genotype, index): answers for genotype, index, answers in way.answers(new)})
        for genotype, indices in questions.items():
            yield from ((genotype, index, memory[genotype, index]) for index in indices)

    images = len(batches.split)
    return Scorer(
        batches,
        Way(answers),
        estimator=ESTIMATORS[schedule.score if schedule else "error"](images, ALONE),
        images_spent=schedule.references * images if schedule and schedule.first else 0,
    )


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


def search_plan(schedule: Schedule, population: int, generations: int, seed: int = 0) -> SearchPlan:
    """NSGA-II by a schedule, with as many immigrants as there are members."""
    return SearchPlan(
        seed=seed,
        population=population,
        generations=generations,
        selection="nsga2",
        immigrants=population,
        variation=VARIATION,
        batches=schedule.first or ALL_BATCHES,
        last_batches=schedule.last or ALL_BATCHES,
        front_batches=schedule.front,
        last_front_batches=schedule.last_front,
        survivor_batches=schedule.survivors,
        candidates=schedule.candidates,
    )


def searched(
    start: Evolved, schedule: Schedule, batches: MiniBatches, memory: Memory, way: Way, seed: int
) -> tuple[dict[str, float], list[Genotype]]:
    """One search by a schedule, its front confirmed: what it spent and found, and the front."""
    scorer = known(batches, memory, way, schedule)
    everything, images, problem = len(batches), batches.images(len(batches)), start.problem
    found = search(scorer, problem, search_plan(schedule, POPULATION, schedule.generations, seed), start.population)
    scheduled = [scorer.best_known(genotype) for genotype in found.population]
    searching = scorer.image_evaluations
    front = confirm_front(found.evaluated, problem.resources(found.evaluated), scorer, schedule.margin)
    spent = scorer.image_evaluations
    full = [scorer.error(genotype, everything) for genotype in found.population]
    tau, pairs = separated_tau(scheduled, full, images)
    return {
        "times fewer": POPULATION * (GENERATIONS + 2) * images / spent,
        "than its own in full": len(found.evaluated) * images / spent,
        "confirming": (spent - searching) / spent,
        "tau": tau,
        "pairs": pairs,
        "tau of all pairs": pareto.kendall_tau(scheduled, full),
        "hypervolume": front_hypervolume(problem, front, scorer),
    }, front


def front_hypervolume(problem: SearchProblem, front: Sequence[Genotype], scorer: Scorer) -> float:
    """Hypervolume of a front by its errors on the whole split, as a scorer cuts it."""
    everything, space = len(scorer.batches), problem.range(0.9)
    scorer.score(front, everything)
    errors = [scorer.error(genotype, everything) for genotype in front]
    sizes = [problem.costs.size(genotype) for genotype in front]
    return pareto.front_hypervolume(errors, sizes, space.chance_error, space.smallest_bytes, space.largest_bytes)


def curve() -> list[dict[str, Any]]:
    """Schedules from cheap to full, three seeds each, and the default's and full scoring on three others."""
    torch.set_num_threads(1)  # as the pipeline; networks as small as these train no faster on two
    digits = Digits(validation=VALIDATION)
    start = evolved(digits, channels=8, population=32)
    return [*rows(start, digits, CURVE, SEEDS), *rows(start, digits, (FULL, FULL_SCREENED, DEFAULT), OTHERS)]


def rows(start: Evolved, digits: Digits, schedules: Sequence[Schedule], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of `curve` on a given supernet."""
    found = dict[Schedule, list[dict[str, float]]]()
    unseen, seen = (
        MiniBatches(digits.unseen, 100, digits.normalise, 0),
        ScoringData(digits.train, digits.validation, digits.normalise),
    )
    yardstick = known(unseen, {}, together(start.supernet, unseen, 2))
    for seed in seeds:
        cuts: dict[tuple[int, int], tuple[MiniBatches, Memory, Way]] = {}
        for schedule in schedules:
            if schedule[:2] not in cuts:
                scoring = replace(SCORING, batch_size=schedule.size, references=schedule.references)
                cut = supernet_scorer(start.supernet, scoring, seen, seed, population=start.population).batches
                cuts[schedule[:2]] = cut, {}, together(start.supernet, cut, 2)
            one, front = searched(start, schedule, *cuts[schedule[:2]], seed)
            one["on unseen images"] = front_hypervolume(start.problem, front, yardstick)
            found.setdefault(schedule, []).append(one)
            print(f"seed {seed}, {schedule}: {one}", flush=True)
    return [named(schedule, seeds) | summary(each) for schedule, each in found.items()]


def named(schedule: Schedule, seeds: Sequence[int]) -> dict[str, Any]:
    """What stands in a row besides its figures."""
    return {
        "images a mini-batch": schedule.size,
        "references": schedule.references,
        "first": schedule.first or "all",
        "last": schedule.last or "all",
        "front": f"{schedule.front} → {schedule.last_front}" if schedule.front else "as others",
        "survivors": schedule.survivors or "as others",
        "margin": schedule.margin,
        "generations": schedule.generations,
        "candidates": schedule.candidates,
        "score": schedule.score,
        "seeds": ", ".join(map(str, seeds)),
    }


def summary(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Means over seeds; of τ the least, too, and every hypervolume."""
    names = ("times fewer", "than its own in full", "confirming", "tau", "tau of all pairs", "hypervolume")
    row: dict[str, Any] = {
        name: round(statistics.mean(each[name] for each in found), 4) for name in (*names, "on unseen images")
    }
    row["least tau"] = round(min(each["tau"] for each in found), 3)
    for name in ("hypervolume", "on unseen images"):
        row[f"each {name}"] = ", ".join(f"{each[name]:.4f}" for each in found)
    return row


MEASURES = {"schedule": curve}
"""Name of the figures → what measures them."""


def verdicts(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Whether the default schedule meets each target, on the first seeds and on the others."""

    def row(schedule: Schedule, seeds: Sequence[int]) -> Mapping[str, Any]:
        wanted = named(schedule, seeds)
        return next(row for row in found if wanted.items() <= row.items())

    def met(value: bool) -> str:
        return "met" if value else "NOT met"

    both = (SEEDS, OTHERS)
    for seeds in both:
        ours, full, own = (row(schedule, seeds) for schedule in (DEFAULT, FULL, FULL_SCREENED))
        fewer, than_own, tau = ours["times fewer"], ours["than its own in full"], ours["least tau"]
        reached, plain, same = (each["hypervolume"] for each in (ours, full, own))
        yield (
            f"Seeds {ours['seeds']}: {fewer:.2f} times fewer image evaluations than {GENERATIONS} generations by full "
            f"scores without screening (demanded: 5, {met(fewer >= 5)}), {than_own:.2f} times fewer than the same "
            f"search by full scores ({met(than_own >= 5)}); least tau {tau} (demanded: 0.9, {met(tau >= 0.9)}); mean "
            f"hypervolume {reached}, by those {plain} (demanded: no smaller, {met(reached >= plain)}) and {same} "
            f"({met(reached >= same)}); on unseen images {ours['on unseen images']}, {full['on unseen images']} and "
            f"{own['on unseen images']}."
        )

    def apart(rival: Schedule, figure: str) -> str:
        pairs = [
            [row(schedule, seeds)[f"each {figure}"].split(", ") for schedule in (DEFAULT, rival)] for seeds in both
        ]
        found = [float(ours) - float(full) for pair in pairs for ours, full in zip(*pair, strict=True)]
        return f"{statistics.mean(found):+.4f} (standard error {statistics.stdev(found) / len(found) ** 0.5:.4f})"

    for name, rival in ((f"{GENERATIONS} generations without screening", FULL), ("the same search", FULL_SCREENED)):
        yield (
            f"Over all {sum(map(len, both))} seeds the default's hypervolume differs from that of {name} by full "
            f"scores by {apart(rival, 'hypervolume')}, on unseen images by {apart(rival, 'on unseen images')}."
        )


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as paragraphs of Markdown."""
    return [
        "## The mini-batch schedule",
        f"Frozen searches by NSGA-II (population {POPULATION}, {GENERATIONS} generations, {VALIDATION} validation "
        "images) in a supernet like the default run's, by the mini-batches of the first and of the last generation; "
        "the front of all so far and the survivors of a generation may be scored on more, and the front is confirmed, "
        "perhaps with a margin, in the end. The default was chosen on another supernet, after a look at seed 0 here. "
        "With references, mini-batches are equally hard. With several "
        "candidates for each offspring, a ridge regression on the genes of everyone scored chooses among them. A "
        "composite score is made of the error on the images seen and the one that is to be expected. "
        "`times fewer`: image evaluations of the whole search, references and the confirmation of its front (share "
        "`confirming`) included, against the search of "
        f"{GENERATIONS} generations by full scores; `than its own in full`: against scoring the same architectures in "
        "full, which are more where the schedule spends what it saves on generations. "
        "`tau`: Kendall's τ-b between the last population's scores before the confirmation and its full scores, over "
        "pairs whose full errors differ by more than two standard errors. `hypervolume`: of the confirmed front by its "
        "own full scores, means of the seeds; full scoring chooses by those very scores. `on unseen images`: of the "
        "same front by its errors on 1,000 other images in mini-batches of 100, one yardstick for all.",
        table(found["schedule"]),
        "The default: " + ", ".join(f"{name} {value}" for name, value in named(DEFAULT, SEEDS).items()) + ".",
        *verdicts(found["schedule"]),
    ]
