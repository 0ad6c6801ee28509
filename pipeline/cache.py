"""A stage's checkpoints, and their key: the hash of everything that its result depends on."""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from bnas.storage.cache import CHECKPOINTS, lock_of
from bnas.storage.checkpoint import Checkpoints, Resumption, forget
from bnas.storage.lock import LockedError, lock
from bnas.training.ranks import Ranks
from pipeline.params import declared
from pipeline.stage import Stage, cache_root

LIBRARIES = ("torch", "numpy", "deap", "scipy")
"""Libraries whose other versions may round differently or draw other numbers."""


def no_resume() -> bool:
    """Whether the user wants to start over: the environment variable BNAS_NO_RESUME is set."""
    return bool(os.environ.get("BNAS_NO_RESUME"))


def checkpoints(stage: Stage, device: torch.device, processes: int = 1) -> Checkpoints:
    """The stage's checkpoints, which are removed when it succeeds.

    Two runs of a stage with the same key, in queued experiments, have a folder each. The first that is free is taken:
    all of them lead to the same result.
    """
    key = stage_key(stage, device, processes)
    for number in itertools.count(1):
        folder = cache_root() / CHECKPOINTS / f"{stage.name}-{key[:32]}-{number}"
        try:
            stage.held.enter_context(lock(lock_of(folder), f"{stage.name}: checkpoint {number}"))
            break
        except LockedError:
            continue
    kept = Checkpoints(folder, key)
    if no_resume():
        kept.remove()
    stage.when_done.append(kept.remove)
    stage.earlier_seconds = lambda: kept.earlier_seconds
    return kept


def resumable(stage: Stage, device: torch.device, ranks: Ranks) -> Resumption:
    """The newest state of the stage, the same on all ranks, and what keeps the next ones: the main rank does."""
    if not ranks.is_main:
        return Resumption(ranks.main_state(None), forget)
    kept = checkpoints(stage, device, ranks.size)
    return Resumption(ranks.main_state(kept.newest()), kept.save)


def stage_key(stage: Stage, device: torch.device, processes: int = 1) -> str:
    """SHA-256 of what determines a stage's outputs to the bit.

    These are what dvc.yaml declares (sections of the parameters, code and data by content), and what the rounding
    depends on: libraries, processor, device, and the numbers of threads and processes.
    """
    digest = hashlib.sha256()
    sections, dependencies = declared(Path("params.yaml"), stage.name)
    digest.update(stage.params.canonical(*sections).encode())
    for path in dependencies:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                with file.open("rb") as opened:
                    digest.update(f"\n{file.as_posix()} {hashlib.file_digest(opened, 'sha256').hexdigest()}".encode())
    digest.update(f"\n{machine(device)} threads {stage.params.runtime.threads} processes {processes}".encode())
    return digest.hexdigest()


def machine(device: torch.device) -> str:
    """Versions, processor and device, on which rounding depends; one line."""
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return ", ".join([f"python {platform.python_version()}", *versions, processor, device.type])
