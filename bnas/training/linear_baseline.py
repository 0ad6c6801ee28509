"""A linear classifier on pixels under a family's recipe: what a network has to beat to be worth its bits [ours]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bnas.data.batches import TrainingFeed
from bnas.data.split import Normalise
from bnas.nn.network import Rows
from bnas.records.networks import LinearBaseline
from bnas.records.training import EpochRecord
from bnas.training.loop import CosineRate, TrainingError, adam, fit, predict
from bnas.training.network import TEST_BATCH, FamilyData, Recipe


def train_linear(
    recipe: Recipe, data: FamilyData, classes: int, device: torch.device, on_epoch: Callable[[EpochRecord], None]
) -> LinearBaseline:
    """Multinomial logistic regression on normalised pixels, trained on train + validation, tested once.

    Images, augmentation, epochs, mini-batches and learning rates are those of the networks. Weights start at zero.
    """
    normalise = Normalise(data.mean, data.std, device)
    learnt = data.split("train").joined(data.split("validation"))
    test = data.split("test")
    feed = TrainingFeed(learnt, recipe.batch_size, normalise, data.augmentation)
    classifier = nn.Linear(learnt.images[0].size, classes)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    model = nn.Sequential(nn.Flatten(), classifier).to(device)
    rate = CosineRate(recipe.learning_rate, recipe.final_learning_rate, recipe.epochs * feed.steps)

    def forward(x: Tensor, step: int, rows: Rows) -> Tensor:
        logits: Tensor = model(x)
        return logits

    try:
        fit(
            forward,
            adam(model, recipe.weight_decay),
            feed,
            rate,
            range(recipe.epochs),
            generator=torch.Generator().manual_seed(recipe.seed),
            label_smoothing=recipe.label_smoothing,
            on_epoch=on_epoch,
        )
    except TrainingError as error:
        raise TrainingError(f"{error}, linear baseline") from None
    answers = predict(model, test, normalise, TEST_BATCH).numpy()
    return LinearBaseline(int((answers != test.labels).sum()), len(test), recipe.epochs)
