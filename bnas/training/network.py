"""One network trained from scratch under a recipe, and tested once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bnas.data.batches import Augmentation, TrainingFeed
from bnas.data.split import Normalise, Split
from bnas.nn.auxiliary_head import WithAuxiliary
from bnas.nn.network import Network, NetworkConfig, PathDropout, Rows
from bnas.records.training import EpochRecord, Predictions
from bnas.space.genotype import Genotype
from bnas.storage.checkpoint import Save, State, forget
from bnas.training.loop import CosineRate, Outputs, Sharing, Training, TrainingError, adam, calibrate, fit, predict
from bnas.training.ranks import ALONE, Ranks

TEST_BATCH = 256
"""Images a forward pass when testing; running statistics make the answer independent of it."""

CALIBRATION_IMAGES = 1000
"""Training images, unchanged and without drop-path, that a finished network's BatchNorm statistics come from."""

CALIBRATION_PIXELS = 2**23
"""In those of one channel at most: one batch of them is in memory."""


@dataclass(frozen=True)
class Recipe:
    """How a stand-alone network is trained; the same for all of a family.

    Cosine schedule from `learning_rate` to `final_learning_rate` over `epochs`; `drop_path` is the probability, at
    the end, of dropping an edge for a sample, rising linearly from 0 (DARTS). With an `auxiliary_weight` above 0 a head
    at two thirds of the depth is trained, too, and left behind. `seed` draws weights, order and
    augmentation, the same for every network. BatchNorm normalises `batch_norm_group` images together, 0 for all.
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

    def sharing(self, ranks: Ranks = ALONE) -> Sharing:
        """How a training step is divided."""
        return Sharing(ranks, self.batch_norm_group, "retrain.batch_norm_group")


@dataclass(frozen=True)
class FamilyData:
    """Where the prepared splits lie, and how their images are seen. Train and validation are trained on."""

    prepared: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    root: Path | None = None
    """Where the files lie that an index names; None for arrays."""
    threads: int = 1
    """That read them."""

    def split(self, name: str) -> Split:
        """One of them."""
        return Split.open(self.prepared / name, self.root, self.threads)


def calibration_images(split: Split) -> int:
    """Images that a network's statistics come from: `CALIBRATION_IMAGES`, fewer if they are large, but not under 64."""
    _, height, width, _ = split.images.shape
    return min(CALIBRATION_IMAGES, max(64, CALIBRATION_PIXELS // (height * width)))


def train_network(
    config: NetworkConfig,
    genotype: Genotype,
    recipe: Recipe,
    data: FamilyData,
    device: torch.device,
    on_epoch: Callable[[EpochRecord], None],
    state: State | None = None,
    save: Save = forget,
    ranks: Ranks = ALONE,
) -> tuple[Network, list[EpochRecord], Predictions]:
    """Train from scratch on train + validation; then, once, the network's answers on the test split.

    `save` gets the training's state after every epoch; from such a `state` it goes on as if it had never stopped.
    Several `ranks` divide the images of each step and come to the same network.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = Network(config, genotype)
        model = WithAuxiliary(network) if recipe.auxiliary_weight else network
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normalise(data.mean, data.std, device)
    learnt = data.split("train").joined(data.split("validation"))
    feed = TrainingFeed(learnt, recipe.batch_size, normalise, data.augmentation)
    generator = torch.Generator().manual_seed(recipe.seed)
    training = Training(model, adam(model, recipe.weight_decay), generator)
    if state is not None:
        training.restore(state)
    rate = CosineRate(recipe.learning_rate, recipe.final_learning_rate, recipe.epochs * feed.steps)

    def forward(x: Tensor, step: int, rows: Rows) -> Outputs:
        dropout = None
        if recipe.drop_path:
            dropout = PathDropout("sample", recipe.drop_path * step / rate.steps, generator, rows)
        outputs: Outputs = model(x, dropout)
        return outputs

    def finish(record: EpochRecord) -> None:
        training.curve.append(record)
        save(training.state())
        on_epoch(record)

    model.train()
    try:
        fit(
            forward,
            training.optimizer,
            feed,
            rate,
            range(len(training.curve), recipe.epochs),
            generator=generator,
            label_smoothing=recipe.label_smoothing,
            auxiliary_weight=recipe.auxiliary_weight,
            mixed_precision=recipe.mixed_precision,
            sharing=recipe.sharing(ranks),
            on_epoch=finish,
        )
    except TrainingError as error:
        raise TrainingError(f"{error}, genotype {genotype.key}") from None
    rows = torch.randperm(len(learnt), generator=generator)[: calibration_images(learnt)].numpy()
    calibrate(network, normalise(torch.from_numpy(learnt.images[rows])))
    test = data.split("test")
    answers = predict(network, test, normalise, TEST_BATCH)
    return network, training.curve, Predictions(test.labels, answers.numpy())
