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
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import connection
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from bnas.records.base import parse
from bnas.records.networks import read_rounded
from bnas.records.training import EpochRecord, read_epochs, read_predictions
from bnas.space.network_config import Architecture
from bnas.storage.cache import mark
from bnas.storage.checkpoint import Checkpoints, Resumption, forget
from bnas.storage.files import atomic_write, read_json
from bnas.storage.lock import lock
from bnas.storage.terminal import one_line_warning
from bnas.storage.weights import read_weights, save_weights
from bnas.training.family import Family
from bnas.training.network import Trained, train_network
from bnas.training.ranks import ALONE, Letters, Ranks


@dataclass(frozen=True)
class Job:
    """One network to train, the folder that is to hold its result, and the one that holds checkpoints until then.

    The folders' names stand for everything that determines the result: who finds them there may use what is in them.
    """

    name: str
    architecture: Architecture
    folder: Path
    checkpoints: Path

    def unfinished(self) -> Checkpoints:
        """The states that its training has come to so far."""
        return Checkpoints(self.checkpoints, self.folder.name)

    def is_finished(self, epochs: int) -> bool:
        """Whether the folder holds a whole result of so many epochs; a broken one is named in a warning and removed."""
        if not self.folder.exists():
            return False
        try:
            read_weights(self.folder / "weights.safetensors")
            read_predictions(self.folder / "predictions.csv")
            trained = len(read_epochs(self.folder / "curve.json"))
            read_seconds(self.folder)
            read_rounded(self.folder / "rounded.json")
            if trained != epochs:
                raise ValueError(f"{self.folder}: expected the curve of {epochs} epochs, found {trained}")
        except (ValueError, OSError) as error:
            warnings.warn(f"{self.name}: {error}; trained again", stacklevel=2)
            shutil.rmtree(self.folder)
            return False
        return True


def read_seconds(folder: Path) -> float:
    """The time that the training of a finished network took."""
    path = folder / "seconds.json"
    return parse(path, read_json(path), float)


OnEpoch = Callable[[str, EpochRecord], None]
"""Told a network's name, and the record of an epoch that it was trained for."""


def ignore_epoch(name: str, record: EpochRecord) -> None:
    """The `OnEpoch` of who need not be told."""


@dataclass(frozen=True)
class Workers:
    """So many processes that train networks, and the queue through which they tell of epochs; one needs no process."""

    count: int
    pool: ProcessPoolExecutor | None = None
    ticks: Any = None


@contextmanager
def started(count: int) -> Iterator[Workers]:
    """Processes with one thread each, which start with the first job and end with the context."""
    if count == 1:
        yield Workers(1)
        return
    context = multiprocessing.get_context("spawn")
    ticks = context.Queue()
    with ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(ticks,)) as pool:
        try:
            yield Workers(count, pool, ticks)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def train_family(
    jobs: Sequence[Job],
    family: Family,
    *,
    workers: int | Workers,
    on_epoch: OnEpoch = ignore_epoch,
    ranks: Ranks = ALONE,
) -> None:
    """Train every job that is not finished yet, `workers` processes at a time, each from its newest checkpoint.

    A finished network's folder appears whole: `weights.safetensors`, `curve.json`, `predictions.csv`, `rounded.json`
    and `seconds.json`; its checkpoints go. A job that another process is at work on is waited for. The first failure is
    raised here; networks finished by then stay. Ranks, each with so many processes, take the next job whenever they
    can, and the main one returns when all folders are on its disk; `on_epoch` is called on the main one only.
    """
    waiting = [job for job in jobs if not job.is_finished(family.recipe.epochs)] if ranks.is_main else []
    # A name of its own for every call, so that ranks do not count on from an earlier one.
    call: str = ranks.main_value(os.urandom(8).hex())
    names = ranks.main_value([job.name for job in waiting])
    waiting = [job for job in jobs if job.name in names]
    todo = (waiting[i] for i in ranks.next_of(call, len(waiting)))
    post = Post(ranks, call, {job.name: job for job in waiting}, on_epoch) if ranks.size > 1 else None
    told = on_epoch if post is None else post.epoch
    with started(max(1, min(workers, len(waiting)))) if isinstance(workers, int) else nullcontext(workers) as at_work:
        for job in _trained(todo, family, at_work, told):
            if post is not None:
                post.finished(job)
    if post is not None:
        post.close()


def _trained(todo: Iterator[Job], family: Family, workers: Workers, told: OnEpoch) -> Iterator[Job]:
    """Train all jobs; each when it is finished."""
    pool = workers.pool
    if pool is None:
        for job in todo:
            with one_thread():
                _train(job, family, told)
            yield job
        return
    pending: dict[Future[None], Job] = {}
    while True:
        for job in islice(todo, workers.count - len(pending)):
            pending[pool.submit(_work, job, family)] = job
        if not pending:
            break
        done, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
        _report(workers.ticks, told)
        for future in done:
            job = pending.pop(future)
            future.result()
            yield job
    _report(workers.ticks, told)


@contextmanager
def one_thread() -> Iterator[None]:
    """A time in which torch uses a single thread, as the processes of several workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Post:
    """What ranks tell the main one of the networks they train: epochs as they pass, and in the end all files.

    The main rank's disk may be another one than theirs; where it is the same, the files are there already.
    """

    def __init__(self, ranks: Ranks, name: str, jobs: Mapping[str, Job], on_epoch: OnEpoch) -> None:
        self.ranks, self.jobs, self.on_epoch = ranks, jobs, on_epoch
        self.letters = Letters(ranks, name)
        self.open = set(jobs)

    def epoch(self, name: str, record: EpochRecord) -> None:
        """Tell that a network has been trained for another epoch on this rank."""
        if self.ranks.is_main:
            self.on_epoch(name, record)
            self.receive()
        else:
            self.letters.send([name, record.to_dict(), None])

    def finished(self, job: Job) -> None:
        """Tell that a network is finished on this rank."""
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


def train_together(jobs: Sequence[Job], family: Family, *, ranks: Ranks, on_epoch: OnEpoch = ignore_epoch) -> None:
    """`train_family` one network after the other, each by all ranks; only the main one writes."""
    for job in jobs:
        if not ranks.main_value(ranks.is_main and job.is_finished(family.recipe.epochs)):
            _train(job, family, on_epoch, ranks)
    ranks.wait()


def _train(job: Job, family: Family, on_epoch: OnEpoch, ranks: Ranks = ALONE) -> None:
    """Train a network from its newest state, unless someone else has finished it while this process waited for it."""
    with ExitStack() as held:
        if ranks.is_main:
            held.enter_context(lock(job.checkpoints.with_suffix(".lock"), f"{job.name}: its training", wait=True))
        if ranks.main_value(ranks.is_main and job.folder.exists()):
            return
        unfinished = job.unfinished()
        trained = train_network(
            job.architecture,
            family,
            partial(on_epoch, job.name) if ranks.is_main else lambda record: None,
            Resumption(
                ranks.main_state(unfinished.newest() if ranks.is_main else None),
                unfinished.save if ranks.is_main else forget,
            ),
            ranks,
        )
        if ranks.is_main:
            _keep(job, unfinished, trained)


def _report(ticks: Any, on_epoch: OnEpoch) -> None:
    """Pass on what the workers have told by now."""
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
    warnings.formatwarning = one_line_warning
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when its parent does: one that was killed cannot end its workers."""
    connection.wait([sentinel])
    os._exit(1)


def _work(job: Job, family: Family) -> None:
    _train(job, family, lambda name, record: _ticks.put((name, record)))


def _keep(job: Job, unfinished: Checkpoints, trained: Trained) -> None:
    """Write a finished network's folder and remove its checkpoints."""
    with _whole(job.folder) as folder:
        save_weights(trained.network, folder / "weights.safetensors")
        atomic_write(folder / "curve.json", json.dumps([record.to_dict() for record in trained.curve], indent=1) + "\n")
        atomic_write(folder / "predictions.csv", trained.predictions.to_csv())
        atomic_write(folder / "rounded.json", json.dumps(trained.rounded and trained.rounded.to_dict()))
        atomic_write(folder / "seconds.json", json.dumps(round(unfinished.seconds, 1)))
    unfinished.remove()


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the name of `folder` when everything is in it."""
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    mark(unfinished)
    yield unfinished
    unfinished.rename(folder)
