"""How the individuals of a stage are scored, and how its progress is counted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bnas.data.batches import DataError, MiniBatches
from bnas.data.split import Normalise, Split
from bnas.nn.network import Supernet
from bnas.records.search import GenerationRecord, Member, StageName
from bnas.scoring.answers import difficulty
from bnas.scoring.scorer import Scorer
from bnas.search import generation
from bnas.search.problem import Problem
from bnas.space.genotype import Genotype
from bnas.space.search_space import sample_uniform
from bnas.training.ranks import ALONE, Ranks

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

        def cut(split: Split, difficulty: NDArray[np.float64] | None = None) -> MiniBatches:
            try:
                return MiniBatches(split, self.batch_size, normalise, seed, difficulty)
            except DataError as error:
                raise DataError(f"{self.where}.{error}") from None

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


def record_generation(
    stage: StageName, generation: int, rule: str, step: generation.Generation, problem: Problem
) -> GenerationRecord:
    """The survivors of a step as a record, in order of size."""
    members = [
        Member(genotype, float(error), None, problem.costs.size(genotype))
        for genotype, (error, _) in zip(step.population, step.survivor_objectives, strict=True)
    ]
    ordered = tuple(sorted(members, key=lambda member: (member.size_bytes, member.key)))
    return GenerationRecord(stage, generation, rule, ordered)
