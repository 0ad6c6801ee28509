"""Training a family of networks from scratch, several side by side, each in a process with one thread.

Small networks do not feed many threads; a process each does, and its result does not depend on how many there are.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from torch import Tensor

from bnas.auxiliary import WithAuxiliary
from bnas.checkpoint import Checkpoints, Save, State, forget
from bnas.data import Augmentation, Normalise, Split, TrainingFeed
from bnas.files import atomic_write, read_json
from bnas.lock import lock
from bnas.network import Network, NetworkConfig, PathDropout
from bnas.results import EpochRecord, Predictions, parse, read_epochs, read_predictions
from bnas.space import Genotype
from bnas.train import CosineRate, Outputs, Training, TrainingError, adam, calibrate, fit, predict
from bnas.weights import read_weights, save_weights

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
    augmentation, the same for every network.
    """

    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    final_learning_rate: float
    weight_decay: float
    drop_path: float
    label_smoothing: float
    auxiliary_weight: float
    mixed_precision: bool


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


@dataclass(frozen=True)
class Job:
    """One network to train, the folder that is to hold its result, and the one that holds checkpoints until then.

    The folders' names stand for everything that determines the result: who finds them there may use what is in them.
    """

    name: str
    config: NetworkConfig
    genotype: Genotype
    folder: Path
    checkpoints: Path

    def unfinished(self) -> Checkpoints:
        """Its states so far."""
        return Checkpoints(self.checkpoints, self.folder.name)

    def is_finished(self, epochs: int) -> bool:
        """Whether the folder holds a whole result of so many epochs; a broken one is named in a warning and removed."""
        if not self.folder.exists():
            return False
        try:
            read_weights(self.folder / "weights.safetensors")
            read_predictions(self.folder / "predictions.csv")
            found = len(read_epochs(self.folder / "curve.json"))
            read_seconds(self.folder)
            if found != epochs:
                raise ValueError(f"{self.folder}: expected the curve of {epochs} epochs, found {found}")
        except (ValueError, OSError) as error:
            warnings.warn(f"{self.name}: {error}; trained again", stacklevel=2)
            shutil.rmtree(self.folder)
            return False
        return True


def read_seconds(folder: Path) -> float:
    """The time that the training of a finished network took."""
    path = folder / "seconds.json"
    return parse(path, read_json(path), float)


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
) -> tuple[Network, list[EpochRecord], Predictions]:
    """Train from scratch on train + validation; then, once, the network's answers on the test split.

    `save` gets the training's state after every epoch; from such a `state` it goes on as if it had never stopped.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = Network(config, genotype)
        model = WithAuxiliary(network) if recipe.auxiliary_weight else network
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normalise(data.mean, data.std, device)
    learnt = data.split("train").joined(data.split("validation"))
    feed = TrainingFeed(learnt, recipe.batch_size, normalise, data.augmentation, "retrain.batch_size")
    generator = torch.Generator().manual_seed(recipe.seed)
    training = Training(model, adam(model, recipe.weight_decay), generator)
    if state is not None:
        training.restore(state)
    rate = CosineRate(recipe.learning_rate, recipe.final_learning_rate, recipe.epochs * feed.steps)

    def forward(x: Tensor, step: int) -> Outputs:
        dropout = None
        if recipe.drop_path:
            dropout = PathDropout("sample", recipe.drop_path * step / rate.steps, generator)
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
            on_epoch=finish,
        )
    except TrainingError as error:
        raise TrainingError(f"{error}, genotype {genotype.key}") from None
    rows = torch.randperm(len(learnt), generator=generator)[: calibration_images(learnt)].numpy()
    calibrate(network, normalise(torch.from_numpy(learnt.images[rows])))
    test = data.split("test")
    answers = predict(network, test, normalise, TEST_BATCH)
    return network, training.curve, Predictions(test.labels, answers.numpy())


def train_family(
    jobs: Sequence[Job],
    recipe: Recipe,
    data: FamilyData,
    *,
    device: torch.device,
    workers: int,
    on_epoch: Callable[[str, EpochRecord], None] = lambda name, record: None,
) -> None:
    """Train every job that is not finished yet, `workers` processes at a time, each from its newest checkpoint.

    A finished network's folder appears whole: `weights.safetensors`, `curve.json`, `predictions.csv` and
    `seconds.json`; its checkpoints go. A job that another process is at work on is waited for. The first failure is
    raised here; networks finished by then stay.
    """
    waiting = [job for job in jobs if not job.is_finished(recipe.epochs)]
    context = multiprocessing.get_context("spawn")
    ticks = context.Queue()
    with ProcessPoolExecutor(
        max(1, min(workers, len(waiting))), context, initializer=_start_worker, initargs=(ticks,)
    ) as pool:
        pending: set[Future[None]] = {pool.submit(_work, job, recipe, data, device) for job in waiting}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                _report(ticks, on_epoch)
                for future in done:
                    future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        _report(ticks, on_epoch)


def _report(ticks: Any, on_epoch: Callable[[str, EpochRecord], None]) -> None:
    while True:
        try:
            name, record = ticks.get_nowait()
        except Empty:
            return
        on_epoch(name, record)


_ticks: Any = None


def _start_worker(ticks: Any) -> None:
    global _ticks  # how a pool's initializer hands a queue to its tasks
    _ticks = ticks
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends its workers
    warnings.formatwarning = lambda message, *where, **line: f"warning: {message}\n"
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when its parent does: one that was killed cannot end its workers."""
    connection.wait([sentinel])
    os._exit(1)


def _work(job: Job, recipe: Recipe, data: FamilyData, device: torch.device) -> None:
    with lock(job.checkpoints.with_suffix(".lock"), f"{job.name}: its training", wait=True):
        if job.folder.exists():
            return  # another experiment finished the same network while this one waited
        unfinished = job.unfinished()
        network, curve, predictions = train_network(
            job.config,
            job.genotype,
            recipe,
            data,
            device,
            lambda record: _ticks.put((job.name, record)),
            unfinished.newest(),
            unfinished.save,
        )
        partial = job.folder.with_name(f".{job.folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_weights(network, partial / "weights.safetensors")
        atomic_write(partial / "curve.json", json.dumps([record.to_dict() for record in curve], indent=1) + "\n")
        atomic_write(partial / "predictions.csv", predictions.to_csv())
        atomic_write(partial / "seconds.json", json.dumps(round(unfinished.seconds, 1)))
        partial.rename(job.folder)
        unfinished.remove()
