"""What all networks of a family share: the recipe, the images, and the device that they are trained on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bnas.data.batches import Augmentation, TrainingFeed
from bnas.data.image_array import Selected
from bnas.data.split import Normalise, Split
from bnas.data.split_rows import stratified_split
from bnas.nn.network import Network
from bnas.records.networks import Rounded
from bnas.records.training import EpochRecord, Predictions
from bnas.training.loop import CosineRate, Forward, Sharing, TrainingLoss, TrainingState, fit, predict
from bnas.training.ranks import ALONE, Ranks

TEST_BATCH = 256
"""Images a forward pass when testing; running statistics make the answer independent of it."""


@dataclass(frozen=True)
class Recipe:
    """How a stand-alone network is trained; the same for all of a family.

    The learning rate falls along a cosine from `learning_rate` to `final_learning_rate` over `schedule_epochs`, of
    which the first `epochs` are trained (0: all of `epochs`). `drop_path` is the probability, at the schedule's end, of
    dropping an edge for a sample, rising linearly from 0 (DARTS). With an
    `auxiliary_weight` above 0 a head at two thirds of the depth is trained, too, and left behind. `seed` draws weights,
    order and augmentation, the same for every network. BatchNorm normalises `batch_norm_group` images together, 0 means
    the whole mini-batch.
    """

    seed: int
    epochs: int
    batch_size: int
    batch_norm_group: int
    learning_rate: float
    final_learning_rate: float
    weight_decay: float
    drop_path: float
    label_smoothing: float
    auxiliary_weight: float
    mixed_precision: bool
    schedule_epochs: int = 0

    def schedule_steps(self, feed: TrainingFeed) -> int:
        """The training steps of the whole schedule."""
        return (self.schedule_epochs or self.epochs) * feed.steps

    def sharing(self, ranks: Ranks = ALONE) -> Sharing:
        """How a training step is divided."""
        return Sharing(ranks, self.batch_norm_group)


@dataclass(frozen=True)
class FamilyData:
    """Where the prepared splits lie, and how their images are seen.

    `root` is the folder of the files that a split's index names, None for splits that are arrays; `threads` read them.
    """

    prepared: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    root: Path | None = None
    threads: int = 1

    def split(self, name: str) -> Split:
        """The split `train`, `validation` or `test`."""
        return Split.open(self.prepared / name, self.root, self.threads)


def as_trained(network: Network, images: Tensor) -> Network:
    """The network itself: what is judged where nothing ships."""
    return network


Ship = Callable[[Network, Tensor], Network]


@dataclass(frozen=True)
class Use:
    """Which splits a network learns, and which one judges it.

    With `folds` above 1 the learnt splits are cut into so many parts, stratified; part `fold` judges instead, and
    the others are learnt.
    """

    learnt: tuple[str, ...]
    judge: str
    folds: int = 1
    fold: int = 0

    def learns(self, data: FamilyData) -> Split:
        """The images that are learnt."""
        return self._whole(data) if self.folds == 1 else self._part(data, judging=False)

    def judges(self, data: FamilyData) -> Split:
        """The images that judge; the split `judge` is opened here and nowhere else."""
        return data.split(self.judge) if self.folds == 1 else self._part(data, judging=True)

    def _whole(self, data: FamilyData) -> Split:
        first, *others = (data.split(name) for name in self.learnt)
        return functools.reduce(Split.joined, others, first)

    def _part(self, data: FamilyData, *, judging: bool) -> Split:
        whole = self._whole(data)
        parts = stratified_split(whole.labels, {str(i): 1 / self.folds for i in range(1, self.folds)}, seed=0)
        rows = parts[str(self.fold) if self.fold else "train"]
        if not judging:
            rows = np.setdiff1d(np.arange(len(whole)), rows)
        return Split(Selected(whole.images, rows), whole.labels[rows])


FINISHED = Use(("train", "validation"), "test")
"""Finished networks learn train + validation; the test split judges them, once."""

TRIAL = Use(("train",), "validation")
"""Networks on trial learn train; validation judges them."""


@dataclass(frozen=True)
class Family:
    """A recipe, the data, a device, and what the data are used for.

    `ship` takes a trained network to the one that its file holds, which is what is judged. It is also given training
    images, normalised `[N, C, H, W]`, and may change the trained network for its file's sake.
    """

    recipe: Recipe
    data: FamilyData
    device: torch.device
    use: Use = FINISHED
    ship: Ship = as_trained

    @property
    def normalise(self) -> Normalise:
        """Normalisation by the data's statistics, on the device."""
        return Normalise(self.data.mean, self.data.std, self.device)

    def feed(self) -> TrainingFeed:
        """Mini-batches of what is learnt. Raises DataError if that holds fewer images than one mini-batch."""
        learnt = self.use.learns(self.data)
        return TrainingFeed(learnt, self.recipe.batch_size, self.normalise, self.data.augmentation)

    def fit(
        self,
        forward: Forward,
        training: TrainingState,
        feed: TrainingFeed,
        on_epoch: Callable[[EpochRecord], None],
        ranks: Ranks = ALONE,
    ) -> None:
        """`bnas.training.loop.fit` by the recipe, from where the training stands to the recipe's last epoch."""
        recipe = self.recipe
        fit(
            forward,
            training,
            feed,
            CosineRate(recipe.learning_rate, recipe.final_learning_rate, recipe.schedule_steps(feed)),
            recipe.epochs,
            loss=TrainingLoss(recipe.label_smoothing, recipe.auxiliary_weight, recipe.mixed_precision),
            sharing=recipe.sharing(ranks),
            on_epoch=on_epoch,
        )

    def rounded(self, trained: Network, shipped: Network) -> Rounded | None:
        """What rounding changed of the answers to validation images; None if both are one network."""
        if shipped is trained:
            return None
        split = self.data.split("validation")
        before, after = (predict(model, split, self.normalise, TEST_BATCH).numpy() for model in (trained, shipped))
        wrong = (int((answers != split.labels).sum()) for answers in (before, after))
        return Rounded(len(split), int((before != after).sum()), *wrong)

    def test(self, model: nn.Module) -> Predictions:
        """A trained model's answers on the images that judge."""
        judge = self.use.judges(self.data)
        return Predictions(judge.labels, predict(model, judge, self.normalise, TEST_BATCH).numpy())
