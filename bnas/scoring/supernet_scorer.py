"""From a plan to a scorer of the paths of a supernet."""

from __future__ import annotations

from dataclasses import dataclass

from bnas.data.batches import MiniBatches
from bnas.data.split import Normalise, Split
from bnas.nn.network import Supernet
from bnas.scoring.scorer import Scorer
from bnas.scoring.ways import way_of
from bnas.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class ScoringPlan:
    """How individuals are scored on mini-batches of `batch_size` images.

    `batch_norm` `batch`: the mini-batch's own statistics; `recalibrated`: statistics of each path on
    `calibration_batches` mini-batches of training images. `workers` are scored side by side, which changes no score.
    `balanced`: the error is the mean of the errors within each class; 1 / (classes · images of its class) is what each
    validation image weighs then [ours].
    """

    batch_size: int
    batch_norm: str
    calibration_batches: int
    workers: int
    balanced: bool = False


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
    ranks: Ranks = ALONE,
) -> Scorer:
    """A scorer on a sequence of mini-batches of the validation split, drawn by the seed.

    Raises DataError if a split holds fewer images than one mini-batch.
    """
    calibration = []
    if plan.batch_norm == "recalibrated":
        inputs = MiniBatches(data.train, plan.batch_size, data.normalise, seed)
        calibration = [inputs[i][0] for i in range(min(plan.calibration_batches, len(inputs)))]
    batches = MiniBatches(data.validation, plan.batch_size, data.normalise, seed, balanced=plan.balanced)
    return Scorer(batches, way_of(supernet, batches, calibration, plan.workers, ranks))
