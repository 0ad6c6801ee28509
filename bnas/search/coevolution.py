"""Supernet epochs and generations in turn: stage 1 and stage 2 are two calls of `coevolve`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.data.batches import TrainingFeed
from bnas.data.split import Normalise, Split
from bnas.nn.network import PathDropout, Rows, Supernet
from bnas.records.search import GenerationRecord, StageName
from bnas.records.training import EpochRecord
from bnas.scoring.scorer import Scorer
from bnas.search import generation
from bnas.search.contest import Contest
from bnas.search.generation import Variation
from bnas.search.problem import Problem
from bnas.search.progress import Progress
from bnas.search.scoring_plan import SCORING_WORK, Advance, Scoring, record_generation
from bnas.space.genotype import Genotype
from bnas.storage.checkpoint import Save, State, forget
from bnas.training.loop import UNDIVIDED, CosineRate, Sharing, Training, TrainingError, adam, fit


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
        step = generation.step(
            progress.members,
            scored_members(problem, scorer, count, advance, note),
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


def scored_members(
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


def _dropout(plan: Plan, progress: float, generator: torch.Generator, rows: Rows) -> PathDropout | None:
    if plan.dropout_mode == "none":
        return None
    return PathDropout(plan.dropout_mode, plan.dropout_maximum * progress, generator, rows)
