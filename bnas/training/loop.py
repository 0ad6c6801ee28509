"""The one training loop: supernet epochs and the retraining of a network are calls of `fit`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
class Training:
    """What `fit` moves, and with it all that the rest of a training depends on between two epochs.

    `curve` holds the records of the epochs that are done.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    curve: list[EpochRecord] = field(default_factory=list)

    def state(self) -> State:
        """All of it, as `restore` takes it."""
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

    `group` images make a group, 0 means the whole mini-batch. It is part of what is computed; how many ranks compute
    it changes the order of sums at most. `where` names the parameter for messages.
    """

    ranks: Ranks = ALONE
    group: int = 0
    where: str = "batch_norm_group"

    def groups(self, batch_size: int) -> int:
        """Groups of a mini-batch. Raises ValueError where they have different sizes."""
        if batch_size % (self.group or batch_size):
            raise ValueError(f"{self.where}: expected a divisor of batch_size ({batch_size}), found {self.group}")
        return batch_size // (self.group or batch_size)

    def rows(self, batch_size: int) -> list[Rows]:
        """This rank's groups, which follow each other. Raises ValueError where a rank has none."""
        groups = self.groups(batch_size)
        if groups < self.ranks.size:
            found = self.group or "0 (the whole mini-batch)"
            raise ValueError(
                f"{self.where}: expected at most {batch_size // self.ranks.size}, so that each of "
                f"{self.ranks.size} processes has images of its own to normalise, found {found}"
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


Outputs = Tensor | tuple[Tensor, Tensor]
"""Logits `[B, classes]`; in a pair with those of an auxiliary head."""


@lost_readers()
def fit(
    forward: Callable[[Tensor, int, Rows], Outputs],
    optimizer: torch.optim.Optimizer,
    feed: TrainingFeed,
    rate: CosineRate,
    epochs: Iterable[int],
    *,
    generator: torch.Generator,
    label_smoothing: float = 0.0,
    auxiliary_weight: float = 0.0,
    mixed_precision: bool = False,
    sharing: Sharing = UNDIVIDED,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> list[EpochRecord]:
    """Train for the given epochs (numbered from 0 over the whole schedule) and return a record of each.

    `forward(x, step, rows)` maps inputs `[B, C, H, W]`, which are these rows of the step's mini-batch, to logits
    `[B, classes]`; the step counts from the schedule's start, so a caller picks the path of a supernet, or the
    strength of a dropout, by it. It is called for one group of images after the other, and `generator` begins each
    time where it stood for the first. Loss is the cross-entropy over the whole mini-batch, whichever rank computes its
    groups; where `forward` returns an auxiliary head's logits, too, `auxiliary_weight` times theirs is added.
    `mixed_precision` lets what is not binary compute in bfloat16 [ours: its range is float32's, so no gradient has to
    be scaled]. A record's loss and error are means over the epoch's mini-batches as they were trained on. Raises
    TrainingError, with step and learning rate, as soon as a loss is not finite or an epoch ends with a weight that is
    not: `on_epoch` never sees it; DataError if a process that reads images dies.
    """
    rows = sharing.rows(feed.batch_size)

    def objective(x: Tensor, y: Tensor, step: int, part: Rows) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed_precision):
            outputs = forward(x, step, part)
            logits, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, None)
            loss = F.cross_entropy(logits, y, label_smoothing=label_smoothing)
            if auxiliary is not None:
                loss = loss + auxiliary_weight * F.cross_entropy(auxiliary, y, label_smoothing=label_smoothing)
        return loss, (logits.argmax(1) != y).sum()

    records = []
    for epoch in epochs:
        total, wrong, seen = 0.0, 0, 0
        for i, (x, y) in enumerate(feed.epoch(generator, slice(rows[0].start, rows[-1].stop))):
            step = epoch * feed.steps + i
            for group in optimizer.param_groups:
                group["lr"] = rate.at(step)
            optimizer.zero_grad(set_to_none=True)
            loss, missed = _gradients(objective, x, y, step, rows, generator)
            sharing.ranks.sum([loss, missed, *_touched(optimizer)])
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"training: loss is {loss.item()} at step {step} (learning rate {rate.at(step):.3g})"
                )
            optimizer.step()
            total += loss.item() * feed.batch_size
            wrong += int(missed)
            seen += feed.batch_size
        _refuse_lost_weights(optimizer, step, rate)
        records.append(EpochRecord(epoch + 1, total / seen, wrong / seen, rate.at(epoch * feed.steps)))
        on_epoch(records[-1])
    return records


def _gradients(
    objective: Callable[[Tensor, Tensor, int, Rows], tuple[Tensor, Tensor]],
    x: Tensor,
    y: Tensor,
    step: int,
    rows: Sequence[Rows],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Add these rows' part of the gradient of the mini-batch's mean loss; returns their part of loss and wrong answers.

    x and y hold all of the rows, which follow each other. Both results are float32 scalars.
    """
    losses, wrong = [], []
    before = generator.get_state() if len(rows) > 1 else None
    for part in rows:
        if before is not None:
            generator.set_state(before)
        here = slice(part.start - rows[0].start, part.stop - rows[0].start)
        loss, missed = objective(x[here], y[here], step, part)
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
    found = []
    with torch.no_grad():
        for start in range(0, len(split), batch_size):
            images = torch.from_numpy(split.images[start : start + batch_size].copy())
            found.append(model(normalise(images)).argmax(1).cpu())
    return torch.cat(found)
