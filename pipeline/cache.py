"""Where a stage keeps what an interruption must not lose, and the key that names everything its result depends on."""

from __future__ import annotations

import hashlib
import itertools
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from bnas.storage.cache import CHECKPOINTS, lock_of
from bnas.storage.checkpoint import Checkpoints, Save, State, forget
from bnas.storage.lock import LockedError, lock
from bnas.training.ranks import Ranks
from pipeline.params import declared
from pipeline.stage import Stage, cache_root

LIBRARIES = ("torch", "numpy", "deap", "scipy")
"""What computes: another version may round differently or draw other numbers."""


def no_resume() -> bool:
    """Whether the user wants nothing of an earlier run to be used."""
    return bool(os.environ.get("BNAS_NO_RESUME"))


def checkpoints(stage: Stage, device: torch.device, processes: int = 1) -> Checkpoints:
    """The stage's checkpoints; they go when it succeeds.

    Another run of the same stage with the same key, in a queued experiment, has a folder of its own beside this one:
    whichever is free is taken, for what is in them leads to the same end.
    """
    key = stage_key(stage, device, processes)
    for number in itertools.count(1):
        folder = cache_root() / CHECKPOINTS / f"{stage.name}-{key[:32]}-{number}"
        try:
            stage.held.enter_context(lock(lock_of(folder), f"{stage.name}: checkpoint {number}"))
            break
        except LockedError:
            continue
    found = Checkpoints(folder, key)
    if no_resume():
        found.remove()
    stage.when_done.append(found.remove)
    stage.earlier_seconds = lambda: found.earlier_seconds
    return found


def resumable(stage: Stage, device: torch.device, ranks: Ranks) -> tuple[State | None, Save]:
    """The newest state of the stage, the same on all ranks, and what keeps the next ones: the main rank does."""
    if not ranks.is_main:
        return ranks.main_state(None), forget
    found = checkpoints(stage, device, ranks.size)
    return ranks.main_state(found.newest()), found.save


def stage_key(stage: Stage, device: torch.device, processes: int = 1) -> str:
    """SHA-256 of what determines a stage's outputs to the bit.

    That is what dvc.yaml declares - sections of the parameters, code and data by content -, and the libraries,
    the processor, the device and the numbers of threads and processes, on which the rounding depends.
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
    """What rounds: versions, processor and device."""
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return ", ".join([f"python {platform.python_version()}", *versions, processor, device.type])
