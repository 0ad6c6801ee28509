"""Training a family of networks from scratch: several side by side, each in a process with one thread.

Small networks do not feed many threads; a process each does, and its result does not depend on how many there are,
nor on the rank that trains it. Where there are fewer networks than ranks, all ranks can train each of them together.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import connection
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from torch import Tensor

from bnas.auxiliary import WithAuxiliary
from bnas.checkpoint import Checkpoints, Save, State, forget
from bnas.data import Augmentation, Normalise, Split, TrainingFeed
from bnas.distributed import ALONE, Letters, Ranks
from bnas.files import atomic_write, read_json
from bnas.lock import lock
from bnas.network import Network, NetworkConfig, PathDropout, Rows
from bnas.results import EpochRecord, Predictions, parse, read_epochs, read_predictions
from bnas.space import Genotype
from bnas.train import CosineRate, Outputs, Sharing, Training, TrainingError, adam, calibrate, fit, predict
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
    feed = TrainingFeed(learnt, recipe.batch_size, normalise, data.augmentation, "retrain.batch_size")
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


def train_family(
    jobs: Sequence[Job],
    recipe: Recipe,
    data: FamilyData,
    *,
    device: torch.device,
    workers: int,
    on_epoch: Callable[[str, EpochRecord], None] = lambda name, record: None,
    ranks: Ranks = ALONE,
) -> None:
    """Train every job that is not finished yet, `workers` processes at a time, each from its newest checkpoint.

    A finished network's folder appears whole: `weights.safetensors`, `curve.json`, `predictions.csv` and
    `seconds.json`; its checkpoints go. A job that another process is at work on is waited for. The first failure is
    raised here; networks finished by then stay. Ranks, each with so many processes, take the next job whenever they
    can, and the main one returns when all folders are on its disk; `on_epoch` is called on the main one only.
    """
    waiting = [job for job in jobs if not job.is_finished(recipe.epochs)] if ranks.is_main else []
    names = ranks.main_value([job.name for job in waiting])
    waiting = [job for job in jobs if job.name in names]
    todo = (waiting[i] for i in ranks.next_of("network", len(waiting)))
    post = Post(ranks, {job.name: job for job in waiting}, on_epoch) if ranks.size > 1 else None
    context = multiprocessing.get_context("spawn")
    ticks = context.Queue()
    places = max(1, min(workers, len(waiting)))
    with ProcessPoolExecutor(places, context, initializer=_start_worker, initargs=(ticks,)) as pool:
        pending: dict[Future[None], Job] = {}

        def fill() -> None:
            for job in islice(todo, places - len(pending)):
                pending[pool.submit(_work, job, recipe, data, device)] = job

        try:
            fill()
            while pending:
                done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                _report(ticks, on_epoch if post is None else post.epoch)
                for future in done:
                    job = pending.pop(future)
                    future.result()
                    if post is not None:
                        post.finished(job)
                fill()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        _report(ticks, on_epoch if post is None else post.epoch)
    if post is not None:
        post.close()


class Post:
    """What ranks tell the main one of the networks they train: epochs as they pass, and in the end all files.

    The main rank's disk may be another one than theirs. Where it is the same, the files are there already.
    """

    def __init__(self, ranks: Ranks, jobs: Mapping[str, Job], on_epoch: Callable[[str, EpochRecord], None]) -> None:
        self.ranks, self.jobs, self.on_epoch = ranks, jobs, on_epoch
        self.letters = Letters(ranks, "networks")
        self.open = set(jobs)

    def epoch(self, name: str, record: EpochRecord) -> None:
        """A network has been trained for another epoch here."""
        if self.ranks.is_main:
            self.on_epoch(name, record)
            self.receive()
        else:
            self.letters.send([name, record.to_dict(), None])

    def finished(self, job: Job) -> None:
        """A network is finished here."""
        if self.ranks.is_main:
            self.open.remove(job.name)
            self.receive()
        else:
            files = {path.name: base64.b64encode(path.read_bytes()).decode() for path in sorted(job.folder.iterdir())}
            self.letters.send([job.name, None, files])

    def receive(self) -> None:
        """Pass on what other ranks have told."""
        for name, record, files in self.letters.received():
            if record is not None:
                self.on_epoch(name, parse("a rank", record, EpochRecord))
                continue
            if not self.jobs[name].folder.exists():
                with _whole(self.jobs[name].folder) as folder:
                    for file, content in files.items():
                        atomic_write(folder / file, base64.b64decode(content))
            self.open.remove(name)

    def close(self) -> None:
        """On the main rank, wait until everything is here."""
        while self.ranks.is_main and self.open:
            time.sleep(0.1)
            self.receive()


def train_together(
    jobs: Sequence[Job],
    recipe: Recipe,
    data: FamilyData,
    *,
    device: torch.device,
    ranks: Ranks,
    on_epoch: Callable[[str, EpochRecord], None] = lambda name, record: None,
) -> None:
    """`train_family` one network after the other, each by all ranks; only the main one writes."""
    for job in jobs:
        if ranks.main_value(ranks.is_main and job.is_finished(recipe.epochs)):
            continue
        unfinished = job.unfinished()
        with ExitStack() as held:
            if ranks.is_main:
                held.enter_context(lock(job.checkpoints.with_suffix(".lock"), f"{job.name}: its training", wait=True))
            network, curve, predictions = train_network(
                job.config,
                job.genotype,
                recipe,
                data,
                device,
                partial(on_epoch, job.name) if ranks.is_main else lambda record: None,
                ranks.main_state(unfinished.newest() if ranks.is_main else None),
                unfinished.save if ranks.is_main else forget,
                ranks,
            )
            if ranks.is_main:
                _keep(job, unfinished, network, curve, predictions)
    ranks.wait()


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
        _keep(job, unfinished, network, curve, predictions)


def _keep(
    job: Job, unfinished: Checkpoints, network: Network, curve: Sequence[EpochRecord], predictions: Predictions
) -> None:
    """Write a finished network's folder and remove its checkpoints."""
    with _whole(job.folder) as folder:
        save_weights(network, folder / "weights.safetensors")
        atomic_write(folder / "curve.json", json.dumps([record.to_dict() for record in curve], indent=1) + "\n")
        atomic_write(folder / "predictions.csv", predictions.to_csv())
        atomic_write(folder / "seconds.json", json.dumps(round(unfinished.seconds, 1)))
    unfinished.remove()


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes this name when everything is in it."""
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(folder)
