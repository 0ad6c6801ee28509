"""NSGA-II in a supernet whose weights stand still."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bnas.records.search import GenerationRecord
from bnas.scoring.scorer import Scorer
from bnas.search import generation, pareto
from bnas.search.generation import VariationRates
from bnas.search.problem import SearchProblem
from bnas.search.selection import Selection, rule_of
from bnas.search.work import SCORING_WORK, UNWATCHED, Work
from bnas.space.genotype import Genotype


@dataclass(frozen=True)
class SearchPlan:
    """The frozen search: its generations and their rule (`two_stage` included).

    Everyone is scored on the same `batches` mini-batches, on all where there are fewer. Generations are numbered from
    `first_generation`; all draws follow from `seed`.
    """

    seed: int
    population: int
    generations: int
    selection: str
    immigrants: int
    variation: VariationRates
    batches: int
    first_generation: int = 1

    def work(self, scored: int) -> float:
        """A rough forecast in images trained on, for the time left; each individual is scored on `scored` images."""
        return SCORING_WORK * (self.population * (self.generations + 1) + self.immigrants) * scored


@dataclass(frozen=True)
class Searched:
    """All generations of the frozen search, everything it evaluated, and its last population."""

    generations: tuple[GenerationRecord, ...]
    evaluated: tuple[Genotype, ...]
    population: tuple[Genotype, ...]


def search(
    scorer: Scorer,
    problem: SearchProblem,
    plan: SearchPlan,
    population: Sequence[Genotype],
    *,
    work: Work = UNWATCHED,
) -> Searched:
    """NSGA-II with the supernet frozen, from a population and immigrants; no architecture is evaluated twice.

    The population is filled up to `plan.population`, `plan.immigrants` newly drawn ones join it, and the first
    selection brings it back to size. Ranks take all the same way; they divide the genotypes to score.
    """
    rng = random.Random(plan.seed)
    members = tuple(problem.topped_up(population, plan.population, rng))
    members = tuple(problem.topped_up(members, len(members) + plan.immigrants, rng))
    evaluated: dict[Genotype, None] = {}
    records: list[GenerationRecord] = []
    for t in range(1, plan.generations + 1):
        rule = rule_of(plan.selection, t, plan.generations)
        told = work.at(f"generation {t}/{plan.generations}, scoring").scored
        step = generation.step(
            members,
            problem.evaluation(partial(scorer.errors, count=plan.batches, on_images=told)),
            selection=Selection(rule, t, plan.population),
            breeder=problem.breeder(plan.variation),
            rng=rng,
            exclude=evaluated.keys(),
        )
        evaluated.update(dict.fromkeys(step.genotypes))
        members = step.population
        records.append(problem.record("search", plan.first_generation + t - 1, rule, step))
    return Searched(tuple(records), tuple(evaluated), members)


def confirm_front(
    genotypes: Sequence[Genotype], sizes: NDArray[np.float64], scorer: Scorer, batches: int
) -> list[Genotype]:
    """The non-dominated ones of everything evaluated, all of them scored on every mini-batch, smallest first [ours].

    `sizes` `[U]`; everyone was scored on `batches` mini-batches. Those on the front are scored on all; an error that
    rises may let others in, so this is repeated until nobody is left. Of several with equal objectives all are kept.
    """
    errors, confirmed = np.array(scorer.errors(genotypes, batches)), set[int]()
    while True:
        points = np.column_stack([errors, sizes])
        front: list[int] = np.flatnonzero(pareto.nondominated(points)).tolist()
        unsure = [row for row in front if row not in confirmed]
        if not unsure:
            return [genotypes[row] for row in sorted(front, key=lambda row: (sizes[row], genotypes[row].key))]
        errors[unsure] = scorer.errors([genotypes[row] for row in unsure], len(scorer.batches))
        confirmed.update(unsure)


def rescored(
    records: Sequence[GenerationRecord], scorer: Scorer, batches: int, work: Work = UNWATCHED
) -> list[GenerationRecord]:
    """The records with every member scored again, with the scorer's weights, on its first `batches` mini-batches."""
    everyone = [member.genotype for record in records for member in record.members]
    scorer.score(everyone, batches, work.at("scoring earlier generations again").scored)
    return [
        replace(
            record,
            members=tuple(replace(m, rescored_error=scorer.error(m.genotype, batches)) for m in record.members),
        )
        for record in records
    ]
