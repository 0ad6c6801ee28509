"""The one training loop: supernet epochs and the retraining of a network are calls of `fit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bnas.binarize import BinaryConv2d
from bnas.data import MiniBatches, Normalise, Split, TrainingFeed
from bnas.results import EpochRecord


class TrainingError(ValueError):
    """Training that cannot go on: a loss that is not finite."""


@dataclass(frozen=True)
class CosineRate:
    """Learning rate over `steps` steps: from `first` at step 0 along a half cosine to `last`."""

    first: float
    last: float
    steps: int

    def at(self, step: int) -> float:
        """`last + (first − last) · (1 + cos(π · step / steps)) / 2`."""
        return self.last + (self.first - self.last) * (1 + math.cos(math.pi * step / self.steps)) / 2


def adam(model: nn.Module, weight_decay: float) -> torch.optim.Adam:
    """Adam over a model's parameters; the latent weights of binary convolutions are never decayed.

    Their magnitude carries no information but the inertia of a sign, so pulling them to zero only makes signs flip.
    The learning rate is set by `fit` at every step. Parameters without a gradient (off the sampled path) get no step.
    """
    latent = {id(layer.weight) for layer in model.modules() if isinstance(layer, BinaryConv2d)}
    groups: list[dict[str, object]] = [
        {"params": [p for p in model.parameters() if id(p) in latent], "weight_decay": 0.0},
        {"params": [p for p in model.parameters() if id(p) not in latent], "weight_decay": weight_decay},
    ]
    return torch.optim.Adam(groups, fused=True)


def fit(
    forward: Callable[[Tensor, int], Tensor],
    optimizer: torch.optim.Optimizer,
    feed: TrainingFeed,
    rate: CosineRate,
    epochs: Iterable[int],
    *,
    generator: torch.Generator,
    label_smoothing: float = 0.0,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> list[EpochRecord]:
    """Train for the given epochs (numbered from 0 over the whole schedule) and return a record of each.

    `forward(x, step)` maps inputs `[B, C, H, W]` to logits `[B, classes]`; the step counts from the schedule's start,
    so a caller picks the path of a supernet, or the strength of a dropout, by it. Loss is the cross-entropy. A record's
    loss and error are means over the epoch's mini-batches as they were trained on. Raises TrainingError, with step and
    learning rate, as soon as a loss is not finite.
    """
    records = []
    for epoch in epochs:
        total, wrong, seen = 0.0, 0, 0
        for i, (x, y) in enumerate(feed.epoch(generator)):
            step = epoch * feed.steps + i
            for group in optimizer.param_groups:
                group["lr"] = rate.at(step)
            logits = forward(x, step)
            loss = F.cross_entropy(logits, y, label_smoothing=label_smoothing)
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"training: loss is {loss.item()} at step {step} (learning rate {rate.at(step):.3g})"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(y)
            wrong += int((logits.argmax(1) != y).sum())
            seen += len(y)
        records.append(EpochRecord(epoch + 1, total / seen, wrong / seen, rate.at(epoch * feed.steps)))
        on_epoch(records[-1])
    return records


def calibrate(network: nn.Module, inputs: Tensor) -> None:
    """Set every BatchNorm's running statistics to those of one mini-batch `[N, C, H, W]`; leaves evaluation mode.

    One large mini-batch, not an average over several: where an image is mostly background, a whole region has one
    value, and a sign behind a BatchNorm may hold it near its threshold. Statistics averaged over mini-batches are not
    those of any signs that the layers before them produce, and flip such regions [ours, measured: the average left a
    network of 7 KiB at 31 % error on images it had been trained on, one batch of 500 to 4,000 images at 11 to 13 %].
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(inputs)
    network.eval()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def predict(model: nn.Module, split: Split, normalise: Normalise, batch_size: int) -> Tensor:
    """Predicted classes `[N]` (int64, on the CPU) of a stand-alone network, with running BatchNorm statistics."""
    model.eval()
    found = []
    with torch.no_grad():
        for start in range(0, len(split), batch_size):
            images = torch.from_numpy(split.images[start : start + batch_size].copy())
            found.append(model(normalise(images)).argmax(1).cpu())
    return torch.cat(found)


def count_wrong(model: Callable[[Tensor], Tensor], batches: MiniBatches, index: int) -> int:
    """Wrong answers of a model on mini-batch `index`."""
    x, y = batches[index]
    return int((model(x).argmax(1) != y).sum())
