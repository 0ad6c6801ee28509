"""NSGA-II in a supernet whose weights stand still."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bnas.data.batches import MiniBatches
from bnas.records.search import GenerationRecord
from bnas.scoring.scorer import Scorer
from bnas.search import generation, selection
from bnas.search.coevolution import scored_members
from bnas.search.contest import Contest
from bnas.search.gene_regression import Surrogate
from bnas.search.generation import Variation
from bnas.search.problem import Problem
from bnas.search.scoring_plan import SCORING_WORK, Advance, Scoring, record_generation
from bnas.space.genotype import Genotype


@dataclass(frozen=True)
class SearchPlan:
    """The frozen search: generations, rule (`two_stage` included), and a fidelity that grows.

    Individuals of generation t are scored on the first k_t mini-batches, k_t growing linearly from `scoring.batches`
    to `last_batches`. The front of everything evaluated so far is scored on more before anybody is selected
    (`Contest.confirm`): from `front_batches`, if that is not 0, linearly to `last_front_batches` [ours]. Nobody
    survives on fewer than `survivor_batches`: who was only lucky is found out before it becomes a parent [ours]. With
    `candidates` above 1 so many are made for each offspring wanted; a `Surrogate` of all scores so far screens them.
    """

    population: int
    generations: int
    selection: str
    immigrants: int
    variation: Variation
    scoring: Scoring
    last_batches: int
    front_batches: int = 0
    last_front_batches: int = 0
    survivor_batches: int = 0
    candidates: int = 1

    def front(self, generation: int, available: MiniBatches) -> int:
        """Mini-batches for those on the front in generation t = 1 … generations; 0: no more than others."""
        if self.scoring.mode == "full" or not self.front_batches:
            return 0
        return min(self._grown(generation, self.front_batches, self.last_front_batches), len(available))

    def survivors(self, available: MiniBatches) -> int:
        """Mini-batches for those who survive a generation; 0: no more than others."""
        return 0 if self.scoring.mode == "full" else min(self.survivor_batches, len(available))

    def batches(self, generation: int, available: MiniBatches) -> int:
        """k_t for generation t = 1 … generations."""
        return self.scoring.count(available, self._grown(generation, self.scoring.batches, self.last_batches))

    def _grown(self, generation: int, first: int, last: int) -> int:
        return round(first + (generation - 1) / max(1, self.generations - 1) * (last - first))

    def work(self, validation: int) -> float:
        """A rough forecast in images trained on, for the time left."""
        last = validation if self.scoring.mode == "full" else self.last_batches * self.scoring.batch_size
        further = 3 * validation if self.front_batches and self.scoring.mode != "full" else 0
        further += self.generations * self.survivor_batches * self.scoring.batch_size // 4
        return SCORING_WORK * self.population * ((self.generations + 2) * last * 0.8 + further)


@dataclass(frozen=True)
class Searched:
    """All generations of the frozen search, and everything it evaluated with relative sizes `[U]`."""

    generations: tuple[GenerationRecord, ...]
    evaluated: tuple[Genotype, ...]
    population: tuple[Genotype, ...]


def search(
    scorer: Scorer,
    problem: Problem,
    plan: SearchPlan,
    population: Sequence[Genotype],
    *,
    seed: int,
    first_generation: int,
    advance: Advance = lambda work, note: None,
) -> Searched:
    """NSGA-II with the supernet frozen, from a population and immigrants; no architecture is evaluated twice.

    The population is filled up to `plan.population`, `plan.immigrants` newly drawn ones join it, and the first
    selection brings it back to size.
    """
    rng = random.Random(seed)
    members = tuple(problem.topped_up(population, plan.population, rng))
    members = tuple(problem.topped_up(members, len(members) + plan.immigrants, rng))
    evaluated: dict[Genotype, None] = {}
    records: list[GenerationRecord] = []
    contest = Contest(scorer)
    screening = _screening(problem, scorer, plan.candidates)
    enough = plan.survivors(scorer.batches)
    for t in range(1, plan.generations + 1):
        rule = selection.rule_of(plan.selection, t, plan.generations)
        note = f"generation {t}/{plan.generations}"
        step = generation.step(
            members,
            scored_members(
                problem,
                scorer,
                plan.batches(t, scorer.batches),
                advance,
                note,
                contest,
                plan.front(t, scorer.batches),
            ),
            generation=t,
            rule=rule,
            count=plan.population,
            space=problem.space,
            sampler=problem.sampler,
            variation=plan.variation,
            rng=rng,
            exclude=evaluated.keys(),
            screening=screening,
            second_look=_second_look(scorer, enough, advance, note),
        )
        evaluated.update(dict.fromkeys(step.genotypes))
        members = step.population
        records.append(record_generation("search", first_generation + t - 1, rule, step, problem))
    return Searched(tuple(records), tuple(evaluated), members)


def _second_look(scorer: Scorer, enough: int, advance: Advance, note: str) -> generation.SecondLook:
    """One mini-batch more for each who is known on fewer than enough: a lucky one may fall behind before the next."""

    def look(survivors: Sequence[Genotype]) -> bool:
        unsure = [genotype for genotype in survivors if scorer.known(genotype) < enough]
        if unsure:
            scorer.extend(unsure, lambda images: advance(SCORING_WORK * images, f"{note}, scoring"))
        return bool(unsure)

    return look


def _screening(problem: Problem, scorer: Scorer, candidates: int) -> generation.Screening | None:
    """Predictions from all scores at the time; all ranks use those of one, whatever their rounding."""
    if candidates == 1:
        return None
    surrogate = Surrogate(problem.space)

    def predict(genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
        errors = surrogate.errors(scorer.scored(), genotypes).tolist()
        return problem.objectives(genotypes, scorer.ranks.main_value(errors))

    return generation.Screening(candidates, predict)


def rescored(
    records: Sequence[GenerationRecord], scorer: Scorer, batches: int, advance: Advance = lambda work, note: None
) -> list[GenerationRecord]:
    """The records with every member scored again, with the scorer's weights, on its first `batches` mini-batches."""
    everyone = [member.genotype for record in records for member in record.members]
    note = "scoring earlier generations again"
    scorer.score(everyone, batches, lambda images: advance(SCORING_WORK * images, note))
    return [
        replace(
            record,
            members=tuple(replace(m, rescored_error=scorer.error(m.genotype, batches)) for m in record.members),
        )
        for record in records
    ]
