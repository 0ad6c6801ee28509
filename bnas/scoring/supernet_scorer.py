"""From a plan to a scorer of the paths of a supernet."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bnas.data.batches import MiniBatches
from bnas.data.split import Normalise, Split
from bnas.nn.network import Supernet
from bnas.scoring.answers import difficulty
from bnas.scoring.composite_error import composite_errors
from bnas.scoring.scorer import Estimator, Scorer, counted_errors
from bnas.scoring.ways import way_of
from bnas.space.genotype import Genotype
from bnas.space.search_space import sample_uniform
from bnas.training.ranks import ALONE, Ranks

ESTIMATORS: Mapping[str, Callable[[float, Ranks], Estimator]] = {
    "error": lambda images, ranks: counted_errors,
    "composite": composite_errors,
}
"""What may stand for the error on the split: that of the part seen, or the composite estimate [ours]."""


@dataclass(frozen=True)
class ScoringPlan:
    """How individuals are scored on mini-batches of `batch_size` images.

    `batch_norm` `batch`: the mini-batch's own statistics; `recalibrated`: statistics of each path on
    `calibration_batches` mini-batches of training images. `workers` are scored side by side, which changes no score.
    `references` members of a population say how hard each image is, so that all mini-batches are alike; 0: they are cut
    by chance. That is for weights that stand still, and of no use where everyone is scored on all images [ours].
    `score` names what stands for the error on the split, one of `ESTIMATORS`. `balanced`: the error is the mean of the
    errors within each class; 1 / (classes · images of its class) is what each validation image weighs then [ours].
    """

    batch_size: int
    batch_norm: str
    calibration_batches: int
    workers: int
    references: int = 0
    score: str = "error"
    balanced: bool = False

    def __post_init__(self) -> None:
        if self.score not in ESTIMATORS:
            raise ValueError(f"ScoringPlan.score: expected {' or '.join(ESTIMATORS)}, found {self.score!r}")


@dataclass(frozen=True)
class ScoringData:
    """What scoring sees: the split that is scored on, the one that statistics come from, and how they are seen."""

    train: Split
    validation: Split
    normalise: Normalise


def supernet_scorer(
    supernet: Supernet,
    plan: ScoringPlan,
    data: ScoringData,
    seed: int,
    *,
    ranks: Ranks = ALONE,
    population: Sequence[Genotype] = (),
) -> Scorer:
    """A scorer on a sequence of mini-batches of the validation split, drawn by the seed.

    The references are spread evenly over the population, with random ones for those that a small one lacks; the
    images that they saw count among the scorer's image evaluations. Raises DataError if a split holds fewer images than
    one mini-batch.
    """
    calibration = []
    if plan.batch_norm == "recalibrated":
        inputs = MiniBatches(data.train, plan.batch_size, data.normalise, seed)
        calibration = [inputs[i][0] for i in range(min(plan.calibration_batches, len(inputs)))]
    cut = partial(MiniBatches, data.validation, plan.batch_size, data.normalise, seed, balanced=plan.balanced)
    batches = cut()
    if plan.references:
        references = [*population[:: max(1, len(population) // plan.references)][: plan.references]]
        references += sample_uniform(supernet.space, random.Random(seed), plan.references - len(references))
        # All ranks have to cut alike, whatever their rounding.
        hard = np.array(ranks.main_value(difficulty(supernet, batches, references).tolist()))
        batches = cut(difficulty=hard)
    return Scorer(
        batches,
        way_of(supernet, batches, calibration, plan.workers, ranks),
        estimator=ESTIMATORS[plan.score](batches.weight(len(batches)), ranks),
        images_spent=plan.references * len(data.validation),
    )
