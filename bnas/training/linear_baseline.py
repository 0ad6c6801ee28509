"""A linear classifier on pixels under a family's recipe: what a network has to beat to be worth its bits [ours]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from bnas.nn.network import Rows
from bnas.records.networks import LinearBaseline
from bnas.records.training import EpochRecord
from bnas.training.family import Family
from bnas.training.loop import TrainingError, new_training


def train_linear(family: Family, classes: int, on_epoch: Callable[[EpochRecord], None]) -> LinearBaseline:
    """Multinomial logistic regression on normalised pixels, trained on train + validation, tested once.

    Images, augmentation, epochs, mini-batches and learning rates are those of the networks. Weights start at zero.
    """
    recipe = replace(family.recipe, batch_norm_group=0, mixed_precision=False)  # there is nothing to normalise
    family = replace(family, recipe=recipe)
    feed = family.feed()
    classifier = nn.Linear(feed.split.images[0].size, classes)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    model = nn.Sequential(nn.Flatten(), classifier).to(family.device)

    def forward(x: Tensor, step: int, rows: Rows) -> Tensor:
        logits: Tensor = model(x)
        return logits

    try:
        family.fit(forward, new_training(model, recipe.weight_decay, recipe.seed), feed, on_epoch)
    except TrainingError as error:
        raise TrainingError(f"{error}, linear baseline") from None
    answers = family.test(model)
    return LinearBaseline(int((~answers.correct).sum()), len(answers.labels), recipe.epochs)
