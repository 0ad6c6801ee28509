"""Supernet epochs and generations in turn: stage 1 and stage 2 are two calls of `coevolve`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from bnas.data.batches import TrainingFeed
from bnas.nn.network import PathDropout, Rows, Supernet
from bnas.records.search import GenerationRecord, StageName
from bnas.records.training import EpochRecord
from bnas.scoring.scorer import Scorer
from bnas.search import generation
from bnas.search.coevolution_state import CoevolutionState
from bnas.search.generation import VariationRates
from bnas.search.problem import SearchProblem
from bnas.search.selection import Selection
from bnas.search.work import SCORING_WORK, UNWATCHED, Work
from bnas.space.genotype import Genotype
from bnas.storage.checkpoint import FROM_THE_START, Resumption, Save, State
from bnas.training.loop import (
    UNDIVIDED,
    CosineRate,
    Sharing,
    TrainingError,
    TrainingLoss,
    fit,
    new_training,
)


@dataclass(frozen=True)
class SupernetPlan:
    """One supernet stage: `epochs` on uniformly sampled paths, then `generations` of co-evolution.

    With no generations the stage is plain supernet training. The learning rate falls from the first to the last over
    the whole stage. Individuals are scored on `batches` mini-batches, on all where there are fewer. `dropout_mode` is
    `none`, `sample` or `batch`; its probability rises linearly from 0 to `dropout_maximum`. Generations are numbered
    from `first_generation`; all draws follow from `seed`.
    """

    stage: StageName
    seed: int
    population: int
    epochs: int
    generations: int
    epochs_per_generation: int
    learning_rate: float
    final_learning_rate: float
    weight_decay: float
    selection: str
    variation: VariationRates
    batches: int
    dropout_mode: str = "none"
    dropout_maximum: float = 0.0
    mixed_precision: bool = False
    first_generation: int = 1

    @property
    def all_epochs(self) -> int:
        """Training epochs of the stage."""
        return self.epochs + self.generations * self.epochs_per_generation

    def work(self, feed: TrainingFeed, scored: int) -> float:
        """The stage's work in images trained on, for the time left; each individual is scored on `scored` images."""
        return self._work(feed, scored, self.all_epochs, self.generations)

    def done(self, feed: TrainingFeed, scored: int, state: State | None) -> float:
        """The part of `work` that lies behind a checkpoint."""
        if state is None:
            return 0.0
        return self._work(feed, scored, len(state.plain["curve"]), len(state.plain["generations"]))

    def _work(self, feed: TrainingFeed, scored: int, epochs: int, generations: int) -> float:
        trained = epochs * feed.steps * feed.batch_size
        return trained + SCORING_WORK * 2 * self.population * scored * generations


@dataclass(frozen=True)
class SupernetData:
    """What a supernet stage sees: mini-batches to train on, and mini-batches that the supernet's paths are scored on.

    `scorer` makes a scorer for the supernet's weights as they are, on mini-batches that a seed draws.
    """

    feed: TrainingFeed
    scorer: Callable[[Supernet, int], Scorer]


@dataclass(frozen=True)
class Coevolved:
    """What a stage hands on: its last population, each generation, the loss curve, everything it evaluated."""

    population: tuple[Genotype, ...]
    generations: tuple[GenerationRecord, ...]
    curve: tuple[EpochRecord, ...]
    evaluated: frozenset[Genotype]


def coevolve(
    supernet: Supernet,
    problem: SearchProblem,
    plan: SupernetPlan,
    data: SupernetData,
    population: Sequence[Genotype],
    *,
    resumption: Resumption = FROM_THE_START,
    sharing: Sharing = UNDIVIDED,
    work: Work = UNWATCHED,
) -> Coevolved:
    """Train the supernet in place and evolve the population on it (Tan et al. 2026; the schedule is ours).

    Warm-up epochs on uniformly sampled paths come first. Each generation then trains the supernet on its population
    (each mini-batch updates one member, in shuffled round-robin, so that steps per member differ by one at the most),
    draws fresh validation mini-batches shared by all, scores parents and offspring on them and selects by
    `plan.selection`. A population smaller than `plan.population` is filled up with drawn members. The stage's state is
    saved after every epoch and generation; from such a state the stage goes on, and ends as if it had never stopped.
    Ranks take all the same way: each draws and selects by the same seed, and they divide only the images of a training
    step and the genotypes to score.
    """
    rng = random.Random(plan.seed)
    state = CoevolutionState(new_training(supernet, plan.weight_decay, plan.seed), rng, tuple(population))
    if resumption.state is not None:
        state.restore(resumption.state)
    run = _Stage(supernet, problem, plan, data, state, resumption.save, sharing, work)
    run.train(lambda: problem.space.sample(rng), plan.epochs, "uniform paths")
    if plan.generations and len(state.training.curve) == plan.epochs and not state.generations:
        state.members = tuple(problem.topped_up(population, plan.population, rng))
    for t in range(len(state.generations) + 1, plan.generations + 1):
        note = f"generation {t}/{plan.generations}"
        run.train(state.next_member, plan.epochs + t * plan.epochs_per_generation, note)
        state.waiting.clear()
        run.evolve(t, note)
    curve, records = tuple(state.training.curve), tuple(state.generations)
    return Coevolved(state.members, records, curve, frozenset(state.evaluated))


@dataclass(frozen=True)
class _Stage:
    """A running stage: moves its `state`, and saves it after each step."""

    supernet: Supernet
    problem: SearchProblem
    plan: SupernetPlan
    data: SupernetData
    state: CoevolutionState
    save: Save
    sharing: Sharing
    work: Work

    def train(self, path: Callable[[], Genotype], epochs: int, note: str) -> None:
        """Train on paths that `path` returns, one for each mini-batch, until so many epochs of the stage are done."""
        plan, feed, training = self.plan, self.data.feed, self.state.training
        rate = CosineRate(plan.learning_rate, plan.final_learning_rate, max(1, plan.all_epochs * feed.steps))
        last: Genotype | None = None
        at = -1

        def forward(x: Tensor, step: int, rows: Rows) -> Tensor:
            nonlocal last, at
            if step != at:
                last, at = path(), step
            dropout = None
            if plan.dropout_mode != "none":
                probability = plan.dropout_maximum * (step / rate.steps)
                dropout = PathDropout(plan.dropout_mode, probability, training.generator, rows)
            logits: Tensor = self.supernet(x, last, dropout)
            return logits

        def finish(record: EpochRecord) -> None:
            self.save(self.state.state())
            epoch = f"epoch {record.epoch}/{plan.all_epochs}"
            self.work.at(f"{note}, {epoch}: loss {record.loss:.3f}").trained(feed.steps * feed.batch_size)

        loss = TrainingLoss(mixed_precision=plan.mixed_precision)
        try:
            fit(forward, training, feed, rate, epochs, loss=loss, sharing=self.sharing, on_epoch=finish)
        except TrainingError as error:
            raise TrainingError(f"{error}, genotype {last.key if last else 'none'}") from None

    def evolve(self, t: int, note: str) -> None:
        """Generation t of the stage, by scores on fresh mini-batches."""
        plan, state = self.plan, self.state
        scorer = self.data.scorer(self.supernet, state.rng.randrange(2**32))
        told = self.work.at(f"{note}, scoring").scored

        def errors(genotypes: Sequence[Genotype]) -> list[float]:
            return scorer.errors(genotypes, plan.batches, told)

        step = generation.step(
            state.members,
            self.problem.evaluation(errors),
            selection=Selection(plan.selection, t, plan.population),
            breeder=self.problem.breeder(plan.variation),
            rng=state.rng,
        )
        state.members = step.population
        state.evaluated.update(step.genotypes)
        number = plan.first_generation + t - 1
        state.generations.append(self.problem.record(plan.stage, number, plan.selection, step))
        self.save(state.state())
