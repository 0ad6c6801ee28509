"""Supernet epochs and generations in turn: stage 1 and stage 2 are two calls of `coevolve`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas import evolve
from bnas.checkpoint import Save, State, forget
from bnas.data import MiniBatches, Normalise, Split, TrainingFeed
from bnas.distributed import ALONE, Ranks
from bnas.evaluate import Contest, Problem, Scorer, difficulty
from bnas.evolve import Variation
from bnas.network import PathDropout, Rows, Supernet
from bnas.progress import Progress
from bnas.results import EpochRecord, GenerationRecord, Member, StageName
from bnas.space import Genotype, sample_uniform
from bnas.surrogate import Surrogate
from bnas.train import UNDIVIDED, CosineRate, Sharing, Training, TrainingError, adam, fit

Advance = Callable[[float, str], None]
"""Told how much work is done, in images trained on (scoring an image counts `SCORING_WORK`), and a short note."""

SCORING_WORK = 0.05
"""Cost of scoring an image relative to training on it: a forward pass in binary arithmetic, shared with others."""


@dataclass(frozen=True)
class Scoring:
    """How individuals are scored: mini-batches of `batch_size` images, on `batches` of them or (`mode` full) all.

    `batch_norm` `batch`: the mini-batch's own statistics; `recalibrated`: statistics of each path on
    `calibration_batches` mini-batches of training images. `seed` cuts the validation split.
    """

    mode: str
    batch_size: int
    batches: int
    batch_norm: str
    calibration_batches: int
    workers: int
    """Individuals scored side by side; does not change a score."""
    where: str
    """The parameters' section, for messages."""
    references: int = 0
    """Members of a population that say how hard each image is, so that all mini-batches are alike; 0: by chance.
    For weights that stand still, and of no use in mode full [ours]."""
    score: str = "error"
    """What stands for the error on the split: `error`, that of the part seen, or `composite` [ours] (`estimate`)."""

    def __post_init__(self) -> None:
        if self.score not in ("error", "composite"):
            raise ValueError(f"Scoring.score: expected error or composite, found {self.score!r}")

    def scorer(
        self,
        supernet: Supernet,
        train: Split,
        validation: Split,
        normalise: Normalise,
        seed: int,
        ranks: Ranks = ALONE,
        population: Sequence[Genotype] = (),
    ) -> Scorer:
        """A scorer on a sequence of mini-batches of the validation split, drawn by the seed.

        The references are spread evenly over the population, with random ones for those that a small one lacks; the
        images that they saw count among the scorer's image evaluations.
        """
        cut = partial(
            MiniBatches, batch_size=self.batch_size, normalise=normalise, seed=seed, where=f"{self.where}.batch_size"
        )
        calibration: list[Tensor] = []
        if self.batch_norm == "recalibrated":
            inputs = cut(train)
            calibration = [inputs[i][0] for i in range(min(self.calibration_batches, len(inputs)))]
        batches = cut(validation)
        wanted = self.references if self.mode == "minibatch" else 0
        if wanted:
            references = [*population[:: max(1, len(population) // wanted)][:wanted]]
            references += sample_uniform(supernet.space, random.Random(seed), wanted - len(references))
            # All ranks have to cut alike, whatever their rounding.
            hard = np.array(ranks.main_value(difficulty(supernet, batches, references).tolist()))
            batches = cut(validation, difficulty=hard)
        scorer = Scorer(supernet, batches, calibration, self.workers, ranks, self.score == "composite")
        scorer.image_evaluations += wanted * len(validation)
        return scorer

    def count(self, batches: MiniBatches, wanted: int | None = None) -> int:
        """Mini-batches that individuals are scored on: `wanted` (default `batches`), or all in mode full."""
        return len(batches) if self.mode == "full" else min(wanted or self.batches, len(batches))


@dataclass(frozen=True)
class Plan:
    """One supernet stage: `epochs` on uniformly sampled paths, then `generations` of co-evolution.

    With no generations the stage is plain supernet training. `rate` runs from first to last over the whole stage.
    `dropout_mode` is `none`, `sample` or `batch`; its probability rises linearly from 0 to `dropout_maximum`.
    """

    stage: StageName
    population: int
    epochs: int
    generations: int
    epochs_per_generation: int
    learning_rate: float
    final_learning_rate: float
    weight_decay: float
    selection: str
    variation: Variation
    scoring: Scoring
    dropout_mode: str = "none"
    dropout_maximum: float = 0.0
    mixed_precision: bool = False

    @property
    def all_epochs(self) -> int:
        """Training epochs of the stage."""
        return self.epochs + self.generations * self.epochs_per_generation

    def work(self, feed: TrainingFeed, validation: int) -> float:
        """The stage's work in images trained on, for the time left."""
        return self._work(feed, validation, self.all_epochs, self.generations)

    def done(self, feed: TrainingFeed, validation: int, state: State | None) -> float:
        """The part of `work` that lies behind a checkpoint."""
        if state is None:
            return 0.0
        return self._work(feed, validation, len(state.plain["curve"]), len(state.plain["generations"]))

    def _work(self, feed: TrainingFeed, validation: int, epochs: int, generations: int) -> float:
        scored = validation if self.scoring.mode == "full" else self.scoring.batches * self.scoring.batch_size
        trained = epochs * feed.steps * feed.batch_size
        return trained + SCORING_WORK * 2 * self.population * scored * generations


@dataclass(frozen=True)
class SupernetData:
    """What a supernet stage sees: mini-batches to train on, and the two splits that scoring draws from."""

    feed: TrainingFeed
    validation: Split
    normalise: Normalise


@dataclass(frozen=True)
class Coevolved:
    """What a stage hands on: its last population, each generation, the loss curve, everything it evaluated."""

    population: tuple[Genotype, ...]
    generations: tuple[GenerationRecord, ...]
    curve: tuple[EpochRecord, ...]
    evaluated: frozenset[Genotype]


def coevolve(
    supernet: Supernet,
    problem: Problem,
    plan: Plan,
    data: SupernetData,
    population: Sequence[Genotype],
    *,
    seed: int,
    first_generation: int,
    advance: Advance = lambda work, note: None,
    state: State | None = None,
    save: Save = forget,
    sharing: Sharing = UNDIVIDED,
) -> Coevolved:
    """Train the supernet in place and evolve the population on it (Tan et al. 2026; the schedule is ours).

    Warm-up epochs on uniformly sampled paths come first. Each generation then trains the supernet on its population
    (each mini-batch updates one member, in shuffled round-robin, so that steps per member differ by one at the most),
    draws fresh validation mini-batches shared by all, scores parents and offspring on them and selects by
    `plan.selection`. A population smaller than `plan.population` is filled up with drawn members. Generations are
    numbered from `first_generation`. `save` gets the stage's state after every epoch and generation; from such a
    `state` the stage goes on, and ends as if it had never stopped. Ranks take all the same way: each draws and selects
    by the same seed, and they divide only the images of a training step and the genotypes to score.
    """
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    progress = Progress(Training(supernet, adam(supernet, plan.weight_decay), generator), rng, tuple(population))
    if state is not None:
        progress.restore(state)
    train = _trainer(progress, plan, data.feed, sharing, save, advance)
    train(lambda: problem.space.sample(rng), plan.epochs, "uniform paths")
    if plan.generations and len(progress.training.curve) == plan.epochs and not progress.generations:
        progress.members = tuple(problem.topped_up(population, plan.population, rng))
    for t in range(len(progress.generations) + 1, plan.generations + 1):
        note = f"generation {t}/{plan.generations}"
        train(progress.next_member, plan.epochs + t * plan.epochs_per_generation, note)
        progress.waiting.clear()
        cut = rng.randrange(2**32)
        scorer = plan.scoring.scorer(supernet, data.feed.split, data.validation, data.normalise, cut, sharing.ranks)
        count = plan.scoring.count(scorer.batches)
        step = evolve.step(
            progress.members,
            _scored(problem, scorer, count, advance, note),
            generation=t,
            rule=plan.selection,
            count=plan.population,
            space=problem.space,
            sampler=problem.sampler,
            variation=plan.variation,
            rng=rng,
        )
        progress.members = step.population
        progress.evaluated.update(step.genotypes)
        number = first_generation + t - 1
        progress.generations.append(record_generation(plan.stage, number, plan.selection, step, problem))
        save(progress.state())
    curve, records = tuple(progress.training.curve), tuple(progress.generations)
    return Coevolved(progress.members, records, curve, frozenset(progress.evaluated))


def _trainer(
    progress: Progress, plan: Plan, feed: TrainingFeed, sharing: Sharing, save: Save, advance: Advance
) -> Callable[[Callable[[], Genotype], int, str], None]:
    """Trains, on the paths that the first argument returns, until so many epochs of the stage are done."""
    training = progress.training
    rate = CosineRate(plan.learning_rate, plan.final_learning_rate, max(1, plan.all_epochs * feed.steps))

    def train(path: Callable[[], Genotype], epochs: int, note: str) -> None:
        last: Genotype | None = None
        at = -1

        def forward(x: Tensor, step: int, rows: Rows) -> Tensor:
            nonlocal last, at
            if step != at:
                last, at = path(), step
            dropout = _dropout(plan, step / rate.steps, training.generator, rows)
            logits: Tensor = training.model(x, last, dropout)
            return logits

        def finish(record: EpochRecord) -> None:
            training.curve.append(record)
            save(progress.state())
            epoch = f"epoch {record.epoch}/{plan.all_epochs}"
            advance(feed.steps * feed.batch_size, f"{note}, {epoch}: loss {record.loss:.3f}")

        todo = range(len(training.curve), epochs)
        try:
            fit(
                forward,
                training.optimizer,
                feed,
                rate,
                todo,
                generator=training.generator,
                sharing=sharing,
                mixed_precision=plan.mixed_precision,
                on_epoch=finish,
            )
        except TrainingError as error:
            raise TrainingError(f"{error}, genotype {last.key if last else 'none'}") from None

    return train


def _scored(
    problem: Problem,
    scorer: Scorer,
    count: int,
    advance: Advance,
    note: str,
    contest: Contest | None = None,
    front: int = 0,
) -> Callable[[Sequence[Genotype]], NDArray[np.float64]]:
    """Errors on `count` mini-batches, or on as many more as the contest took a genotype to."""

    def on_images(images: int) -> None:
        advance(SCORING_WORK * images, f"{note}, scoring")

    def evaluate(genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
        scorer.score(genotypes, count, on_images)
        if contest and front:
            contest.enter(genotypes, problem.resources(genotypes))
            contest.confirm(front, on_images)
        return problem.objectives(genotypes, [scorer.best_known(genotype) for genotype in genotypes])

    return evaluate


def record_generation(
    stage: StageName, generation: int, rule: str, step: evolve.Generation, problem: Problem
) -> GenerationRecord:
    """The survivors of a step as a record, in order of size."""
    members = [
        Member(genotype, float(error), None, problem.costs.size(genotype))
        for genotype, (error, _) in zip(step.population, step.survivor_objectives, strict=True)
    ]
    ordered = tuple(sorted(members, key=lambda member: (member.size_bytes, member.key)))
    return GenerationRecord(stage, generation, rule, ordered)


def _dropout(plan: Plan, progress: float, generator: torch.Generator, rows: Rows) -> PathDropout | None:
    if plan.dropout_mode == "none":
        return None
    return PathDropout(plan.dropout_mode, plan.dropout_maximum * progress, generator, rows)


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
        rule = evolve.rule_of(plan.selection, t, plan.generations)
        note = f"generation {t}/{plan.generations}"
        step = evolve.step(
            members,
            _scored(
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


def _second_look(scorer: Scorer, enough: int, advance: Advance, note: str) -> evolve.SecondLook:
    """One mini-batch more for each who is known on fewer than enough: a lucky one may fall behind before the next."""

    def look(survivors: Sequence[Genotype]) -> bool:
        unsure = [genotype for genotype in survivors if scorer.known(genotype) < enough]
        if unsure:
            scorer.extend(unsure, lambda images: advance(SCORING_WORK * images, f"{note}, scoring"))
        return bool(unsure)

    return look


def _screening(problem: Problem, scorer: Scorer, candidates: int) -> evolve.Screening | None:
    """Predictions from all scores at the time; all ranks use those of one, whatever their rounding."""
    if candidates == 1:
        return None
    surrogate = Surrogate(problem.space)

    def predict(genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
        errors = surrogate.errors(scorer.scored(), genotypes).tolist()
        return problem.objectives(genotypes, scorer.ranks.main_value(errors))

    return evolve.Screening(candidates, predict)


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
