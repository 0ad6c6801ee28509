"""Training a family of networks from scratch, several side by side, each in a process with one thread.

Small networks do not feed many threads; a process each does, and its result does not depend on how many there are.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bnas.data import Augmentation, Normalise, Split, TrainingFeed
from bnas.network import Network, NetworkConfig, PathDropout
from bnas.results import EpochRecord, Predictions
from bnas.space import Genotype
from bnas.train import CosineRate, adam, calibrate, fit, predict

TEST_BATCH = 256
"""Images a forward pass when testing; running statistics make the answer independent of it."""


CALIBRATION_IMAGES = 1000
"""Training images, unchanged and without drop-path, that a finished network's BatchNorm statistics come from."""


@dataclass(frozen=True)
class Recipe:
    """How a stand-alone network is trained; the same for all of a family.

    Cosine schedule from `learning_rate` to `final_learning_rate` over `epochs`; `drop_path` is the probability, at
    the end, of dropping an edge for a sample, rising linearly from 0 (DARTS). `seed` draws weights, order and
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


@dataclass(frozen=True)
class FamilyData:
    """Where the prepared splits lie, and how their images are seen. Train and validation are trained on."""

    prepared: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation


@dataclass(frozen=True)
class Job:
    """One network to train, and the folder that is to hold its result."""

    name: str
    config: NetworkConfig
    genotype: Genotype
    folder: Path


def train_network(
    config: NetworkConfig,
    genotype: Genotype,
    recipe: Recipe,
    data: FamilyData,
    device: torch.device,
    on_epoch: Callable[[EpochRecord], None],
) -> tuple[Network, list[EpochRecord], Predictions]:
    """Train from scratch on train + validation; then, once, the network's answers on the test split."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = Network(config, genotype)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalise = Normalise(data.mean, data.std, device)
    learnt = Split.open(data.prepared / "train").joined(Split.open(data.prepared / "validation"))
    feed = TrainingFeed(learnt, recipe.batch_size, normalise, data.augmentation, "retrain.batch_size")
    generator = torch.Generator().manual_seed(recipe.seed)
    rate = CosineRate(recipe.learning_rate, recipe.final_learning_rate, recipe.epochs * feed.steps)

    def forward(x: Tensor, step: int) -> Tensor:
        dropout = None
        if recipe.drop_path:
            dropout = PathDropout("sample", recipe.drop_path * step / rate.steps, generator)
        logits: Tensor = network(x, dropout)
        return logits

    network.train()
    curve = fit(
        forward,
        adam(network, recipe.weight_decay),
        feed,
        rate,
        range(recipe.epochs),
        generator=generator,
        label_smoothing=recipe.label_smoothing,
        on_epoch=on_epoch,
    )
    rows = torch.randperm(len(learnt), generator=generator)[:CALIBRATION_IMAGES].numpy()
    calibrate(network, normalise(torch.from_numpy(learnt.images[rows])))
    test = Split.open(data.prepared / "test")
    answers = predict(network, test, normalise, TEST_BATCH)
    return network, curve, Predictions(test.labels, answers.numpy())


def train_family(
    jobs: Sequence[Job],
    recipe: Recipe,
    data: FamilyData,
    *,
    device: torch.device,
    workers: int,
    on_epoch: Callable[[str, EpochRecord], None] = lambda name, record: None,
) -> None:
    """Train every job whose folder does not exist yet, `workers` processes at a time.

    A finished network's folder appears whole: `weights.safetensors`, `curve.json`, `predictions.csv` and
    `seconds.json`. The first failure is raised here; networks finished by then stay.
    """
    waiting = [job for job in jobs if not job.folder.exists()]
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


def _work(job: Job, recipe: Recipe, data: FamilyData, device: torch.device) -> None:
    start = time.monotonic()
    network, curve, predictions = train_network(
        job.config,
        job.genotype,
        recipe,
        data,
        device,
        lambda record: _ticks.put((job.name, record)),
    )
    partial = job.folder.with_name(f".{job.folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(state, partial / "weights.safetensors")
    (partial / "curve.json").write_text(json.dumps([record.to_dict() for record in curve], indent=1) + "\n")
    (partial / "predictions.csv").write_text(predictions.to_csv())
    (partial / "seconds.json").write_text(json.dumps(round(time.monotonic() - start, 1)))
    try:
        partial.rename(job.folder)
    except OSError:  # another experiment finished the same network first: equal content
        if not job.folder.exists():
            raise
        shutil.rmtree(partial)
