"""The one training loop: supernet epochs and the retraining of a network are calls of `fit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bnas.data.batches import TrainingFeed
from bnas.data.reader_processes import lost_readers
from bnas.data.split import Normalise, Split
from bnas.nn.binarize import BinaryConv2d
from bnas.nn.network import Rows
from bnas.records.base import parse
from bnas.records.training import EpochRecord
from bnas.storage.checkpoint import State
from bnas.training.ranks import ALONE, Ranks


class TrainingError(ValueError):
    """Training that cannot go on: a loss or a weight that is not finite."""


@dataclass
class TrainingState:
    """What `fit` moves: all that the rest of a training depends on between two epochs.

    `generator` draws the order of the images and their augmentation; `curve` holds the records of the epochs done.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    curve: list[EpochRecord] = field(default_factory=list)

    def state(self) -> State:
        """The whole state, as `restore` takes it."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, parameter in enumerate(self._parameters()):
            tensors |= {f"optimizer.{i}.{key}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
        tensors["generator"] = self.generator.get_state()
        return State(tensors, {"curve": [record.to_dict() for record in self.curve]})

    def restore(self, state: State) -> None:
        """Go on as the training whose `state` it is; raises ValueError for the state of another."""
        rest = dict(state.tensors)
        try:
            self.model.load_state_dict({name: rest.pop(f"model.{name}") for name in self.model.state_dict()})
            self.generator.set_state(rest.pop("generator"))
            for i, parameter in enumerate(self._parameters()):
                keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer.{i}.{key}" in rest]
                moments = {key: _placed(rest.pop(f"optimizer.{i}.{key}"), parameter) for key in keys}
                if moments:
                    self.optimizer.state[parameter] = moments
            self.curve = list(parse("checkpoint", state.plain["curve"], tuple[EpochRecord, ...]))
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"checkpoint: expected the state of this training, found {error}") from None
        if rest:
            raise ValueError(f"checkpoint: expected the state of this training, found {', '.join(rest)[:80]} too")

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment laid out in memory as its parameter is: the fused step takes both as they lie there."""
    if value.dim() == 0:
        return value.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


@dataclass(frozen=True)
class CosineRate:
    """Learning rate over `steps` steps: from `first` at step 0 along a half cosine to `last`."""

    first: float
    last: float
    steps: int

    def at(self, step: int) -> float:
        """`last + (first − last) · (1 + cos(π · step / steps)) / 2`."""
        return self.last + (self.first - self.last) * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class Sharing:
    """How a mini-batch is divided: into groups that BatchNorm normalises together, and these among ranks.

    `batch_norm_group` images make a group, 0 means the whole mini-batch. It is part of what is computed; how many ranks
    compute it changes the order of sums at most.
    """

    ranks: Ranks = ALONE
    batch_norm_group: int = 0

    def groups(self, batch_size: int) -> int:
        """Groups of a mini-batch. Raises ValueError where they have different sizes."""
        size = self.batch_norm_group or batch_size
        if batch_size % size:
            raise ValueError(f"batch_norm_group: expected a divisor of batch_size ({batch_size}), found {size}")
        return batch_size // size

    def rows(self, batch_size: int) -> list[Rows]:
        """This rank's groups, which follow each other. Raises ValueError where a rank has none."""
        groups = self.groups(batch_size)
        if groups < self.ranks.size:
            raise ValueError(
                f"batch_norm_group: expected at most {batch_size // self.ranks.size}, so that each of "
                f"{self.ranks.size} processes has images of its own to normalise, "
                f"found {self.batch_norm_group or '0 (the whole mini-batch)'}"
            )
        size, mine = batch_size // groups, self.ranks.share(groups)
        return [Rows(i * size, (i + 1) * size, batch_size) for i in range(mine.start, mine.stop)]


UNDIVIDED = Sharing()
"""A mini-batch as a whole, in one process."""


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


def new_training(model: nn.Module, weight_decay: float, seed: int) -> TrainingState:
    """A training of the model by `adam` that has not begun; the seed is that of its generator."""
    return TrainingState(model, adam(model, weight_decay), torch.Generator().manual_seed(seed))


Outputs = Tensor | tuple[Tensor, Tensor]
"""Logits `[B, classes]`; in a pair with those of an auxiliary head."""


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of a training step, and the precision in which it is computed.

    Cross-entropy with smoothed labels; where a model returns an auxiliary head's logits, too, `auxiliary_weight` times
    theirs is added. `mixed_precision` lets what is not binary compute in bfloat16 [ours: its range is float32's, so no
    gradient has to be scaled].
    """

    label_smoothing: float = 0.0
    auxiliary_weight: float = 0.0
    mixed_precision: bool = False

    def __call__(self, outputs: Outputs, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss over images with labels y `[B]`, and how many answers are wrong: two scalars."""
        logits, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, None)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * F.cross_entropy(auxiliary, y, label_smoothing=self.label_smoothing)
        return loss, (logits.argmax(1) != y).sum()


PLAIN_LOSS = TrainingLoss()
"""Cross-entropy in float32."""

Forward = Callable[[Tensor, int, Rows], Outputs]
"""Inputs `[B, C, H, W]`, the step of the schedule, and which rows of the step's mini-batch they are → outputs."""


@lost_readers()
def fit(
    forward: Forward,
    training: TrainingState,
    feed: TrainingFeed,
    rate: CosineRate,
    epochs: int,
    *,
    loss: TrainingLoss = PLAIN_LOSS,
    sharing: Sharing = UNDIVIDED,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> None:
    """Train until `epochs` epochs of the schedule are done, each of which adds its record to the training's curve.

    `forward` is given the step, counted from the schedule's start, so that it picks the path of a supernet, or the
    strength of a dropout, by it. It is called for one group of images after the other, and the training's generator
    begins each time where it stood for the first. The loss is the mean over the whole mini-batch, whichever rank
    computes its groups. A record's loss and error are means over the epoch's mini-batches as they were trained on;
    `on_epoch` is called with it when it is in the curve. Raises TrainingError, with step and learning rate, as soon as
    a loss is not finite or an epoch ends with a weight that is not: `on_epoch` never sees it; DataError if a process
    that reads images dies.
    """
    rows, optimizer = sharing.rows(feed.batch_size), training.optimizer
    for epoch in range(len(training.curve), epochs):
        total, wrong, seen = 0.0, 0, 0
        for i, (x, y) in enumerate(feed.epoch(training.generator, slice(rows[0].start, rows[-1].stop))):
            step = epoch * feed.steps + i
            for group in optimizer.param_groups:
                group["lr"] = rate.at(step)
            optimizer.zero_grad(set_to_none=True)
            mean, missed = _gradients(forward, loss, x, y, step, rows, training.generator)
            sharing.ranks.sum([mean, missed, *_touched(optimizer)])
            if not math.isfinite(mean.item()):
                raise TrainingError(
                    f"training: loss is {mean.item()} at step {step} (learning rate {rate.at(step):.3g})"
                )
            optimizer.step()
            total += mean.item() * feed.batch_size
            wrong += int(missed)
            seen += feed.batch_size
        _refuse_lost_weights(optimizer, step, rate)
        training.curve.append(EpochRecord(epoch + 1, total / seen, wrong / seen, rate.at(epoch * feed.steps)))
        on_epoch(training.curve[-1])


def _gradients(
    forward: Forward,
    criterion: TrainingLoss,
    x: Tensor,
    y: Tensor,
    step: int,
    rows: Sequence[Rows],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Add these rows' part of the gradient of the mini-batch's mean loss; returns their part of loss and wrong answers.

    x and y hold the images of all these rows, in order. Both results are float32 scalars.
    """
    losses, wrong = [], []
    before = generator.get_state() if len(rows) > 1 else None
    for part in rows:
        if before is not None:
            generator.set_state(before)
        here = slice(part.start - rows[0].start, part.stop - rows[0].start)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=criterion.mixed_precision):
            loss, missed = criterion(forward(x[here], step, part), y[here])
        if len(part) < part.total:
            loss = loss * (len(part) / part.total)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        wrong.append(missed)
    return torch.stack(losses).sum(), torch.stack(wrong).sum().float()


def _touched(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients that there are: those of parameters on the step's path."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _refuse_lost_weights(optimizer: torch.optim.Optimizer, step: int, rate: CosineRate) -> None:
    if not all(bool(torch.isfinite(p).all()) for group in optimizer.param_groups for p in group["params"]):
        raise TrainingError(f"training: a weight is not finite after step {step} (learning rate {rate.at(step):.3g})")


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
    answers = []
    with torch.no_grad():
        for start in range(0, len(split), batch_size):
            images = torch.from_numpy(split.images[start : start + batch_size].copy())
            answers.append(model(normalise(images)).argmax(1).cpu())
    return torch.cat(answers)
