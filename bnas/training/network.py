"""One network trained from scratch under a family's recipe, and judged once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bnas.data.split import Split
from bnas.nn.auxiliary_head import WithAuxiliary
from bnas.nn.network import Network, PathDropout, Rows
from bnas.records.networks import Rounded
from bnas.records.training import EpochRecord, Predictions
from bnas.space.network_config import Architecture
from bnas.storage.checkpoint import FROM_THE_START, Resumption
from bnas.training.family import Family
from bnas.training.loop import Outputs, TrainingError, calibrate, new_training
from bnas.training.ranks import ALONE, Ranks

CALIBRATION_IMAGES = 1000
"""Training images, unchanged and without drop-path, that a finished network's BatchNorm statistics come from."""

CALIBRATION_PIXELS = 2**23
"""The most pixels that those images may hold together: one mini-batch of them is in memory."""


def calibration_images(split: Split) -> int:
    """Images that a network's statistics come from: `CALIBRATION_IMAGES`, fewer if they are large, but not under 64."""
    _, height, width, _ = split.images.shape
    return min(CALIBRATION_IMAGES, max(64, CALIBRATION_PIXELS // (height * width)))


class Trained(NamedTuple):
    """A trained network, its curve, the answers of what ships of it to the test split, and what rounding changed."""

    network: Network
    curve: list[EpochRecord]
    predictions: Predictions
    rounded: Rounded | None


def train_network(
    architecture: Architecture,
    family: Family,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    resumption: Resumption = FROM_THE_START,
    ranks: Ranks = ALONE,
) -> Trained:
    """Train from scratch on what the family learns, round as the file will; then, once, the answers to what judges.

    The training's state is saved after every epoch; from such a state it goes on as if it had never stopped. Several
    `ranks` divide the images of each step and come to the same network. Raises TrainingError, with the genotype's key.
    """
    recipe = family.recipe
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = Network(*architecture)
        model = WithAuxiliary(network) if recipe.auxiliary_weight else network
    model.to(family.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    feed = family.feed()
    training = new_training(model, recipe.weight_decay, recipe.seed)
    if resumption.state is not None:
        training.restore(resumption.state)

    def forward(x: Tensor, step: int, rows: Rows) -> Outputs:
        dropout = None
        if recipe.drop_path:
            probability = recipe.drop_path * step / recipe.schedule_steps(feed)
            dropout = PathDropout("sample", probability, training.generator, rows)
        outputs: Outputs = model(x, dropout)
        return outputs

    def finish(record: EpochRecord) -> None:
        resumption.save(training.state())
        on_epoch(record)

    model.train()
    try:
        family.fit(forward, training, feed, finish, ranks)
    except TrainingError as error:
        raise TrainingError(f"{error}, genotype {architecture.genotype.key}") from None
    learnt = feed.split
    rows = torch.randperm(len(learnt), generator=training.generator)[: calibration_images(learnt)].numpy()
    images = family.normalise(torch.from_numpy(learnt.images[rows]))
    calibrate(network, images)
    try:
        shipped = family.ship(network, images)
    except ValueError as error:
        raise TrainingError(f"{error}, genotype {architecture.genotype.key}") from None
    rounded = family.rounded(network, shipped)
    return Trained(network, training.curve, family.test(shipped), rounded)
