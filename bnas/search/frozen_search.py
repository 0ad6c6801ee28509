"""NSGA-II in a supernet whose weights stand still."""

from __future__ import annotations

import random
from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace

from bnas.records.search import GenerationRecord
from bnas.scoring.scorer import OnImages, Scorer
from bnas.search import generation
from bnas.search.contest import Contest
from bnas.search.gene_regression import Surrogate
from bnas.search.generation import VariationRates
from bnas.search.problem import SearchProblem
from bnas.search.selection import Selection, rule_of
from bnas.search.work import SCORING_WORK, UNWATCHED, Work
from bnas.space.genotype import Genotype
from bnas.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class SearchPlan:
    """The frozen search: generations, rule (`two_stage` included), and a fidelity that grows.

    Individuals of generation t are scored on the first k_t mini-batches, k_t growing linearly from `batches` to
    `last_batches`. The front of everything evaluated so far is scored on more before anybody is selected
    (`Contest.confirm`): from `front_batches`, if that is not 0, linearly to `last_front_batches` [ours]. Nobody
    survives on fewer than `survivor_batches`: who was only lucky is noticed before it becomes a parent [ours]. Where
    there are fewer mini-batches, all are meant. With `candidates` above 1 so many are made for each offspring wanted; a
    `Surrogate` of all scores so far screens them. Generations are numbered from `first_generation`; all draws follow
    from `seed`.
    """

    seed: int
    population: int
    generations: int
    selection: str
    immigrants: int
    variation: VariationRates
    batches: int
    last_batches: int
    front_batches: int = 0
    last_front_batches: int = 0
    survivor_batches: int = 0
    candidates: int = 1
    first_generation: int = 1

    def scored(self, generation: int, available: Sized) -> int:
        """k_t for generation t = 1 … generations."""
        return min(self._grown(generation, self.batches, self.last_batches), len(available))

    def front(self, generation: int, available: Sized) -> int:
        """Mini-batches for those on the front in generation t = 1 … generations; 0: no more than others."""
        if not self.front_batches:
            return 0
        return min(self._grown(generation, self.front_batches, self.last_front_batches), len(available))

    def survivors(self, available: Sized) -> int:
        """Mini-batches for those who survive a generation; 0: no more than others."""
        return min(self.survivor_batches, len(available))

    def _grown(self, generation: int, first: int, last: int) -> int:
        return round(first + (generation - 1) / max(1, self.generations - 1) * (last - first))

    def work(self, validation: int, batch_size: int) -> float:
        """A rough forecast in images trained on, for the time left, for so many images in such mini-batches."""
        last = min(validation, self.last_batches * batch_size)
        further = 3 * validation if self.front_batches else 0
        further += self.generations * self.survivor_batches * batch_size // 4
        return SCORING_WORK * self.population * ((self.generations + 2) * last * 0.8 + further)


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
    ranks: Ranks = ALONE,
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
    contest = Contest(scorer)
    screening = _screening(problem, scorer, plan.candidates, ranks)
    for t in range(1, plan.generations + 1):
        rule = rule_of(plan.selection, t, plan.generations)
        told = work.at(f"generation {t}/{plan.generations}, scoring").scored
        fidelity = plan.scored(t, scorer.batches), plan.front(t, scorer.batches)
        step = generation.step(
            members,
            _evaluation(problem, contest, *fidelity, told),
            selection=Selection(rule, t, plan.population),
            breeder=problem.breeder(plan.variation),
            rng=rng,
            exclude=evaluated.keys(),
            screening=screening,
            second_look=_second_look(scorer, plan.survivors(scorer.batches), told),
        )
        evaluated.update(dict.fromkeys(step.genotypes))
        members = step.population
        records.append(problem.record("search", plan.first_generation + t - 1, rule, step))
    return Searched(tuple(records), tuple(evaluated), members)


def _evaluation(
    problem: SearchProblem, contest: Contest, count: int, front: int, told: OnImages
) -> generation.Evaluate:
    """By errors on `count` mini-batches, or on as many more as the contest took a genotype to."""
    scorer = contest.scorer

    def errors(genotypes: Sequence[Genotype]) -> list[float]:
        scorer.score(genotypes, count, told)
        if front:
            contest.enter(genotypes, problem.resources(genotypes))
            contest.confirm(front, told)
        return [scorer.best_known(genotype) for genotype in genotypes]

    return problem.evaluation(errors)


def _second_look(scorer: Scorer, enough: int, told: OnImages) -> generation.SecondLook:
    """One mini-batch more for each who is known on fewer than enough: a lucky one may fall behind before the next."""

    def look(survivors: Sequence[Genotype]) -> bool:
        unsure = [genotype for genotype in survivors if scorer.known(genotype) < enough]
        if unsure:
            scorer.extend(unsure, told)
        return bool(unsure)

    return look


def _screening(problem: SearchProblem, scorer: Scorer, candidates: int, ranks: Ranks) -> generation.Screening | None:
    """Predictions from all scores at the time; all ranks use those of one, whatever their rounding."""
    if candidates == 1:
        return None
    surrogate = Surrogate(problem.space)

    def errors(genotypes: Sequence[Genotype]) -> list[float]:
        predicted: list[float] = ranks.main_value(surrogate.errors(scorer.scored(), genotypes).tolist())
        return predicted

    return generation.Screening(candidates, problem.evaluation(errors))


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
