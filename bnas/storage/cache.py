"""What lies in `.cache/`: finished networks, and checkpoints of what is not finished. Listing and removing it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bnas.storage.lock import LockedError, lock

NETWORKS, CHECKPOINTS = "networks", "checkpoints"

Kind = Literal["finished network", "checkpoint", "leftover"]


@dataclass(frozen=True)
class Entry:
    """One thing in the cache: what it is, where it lies, its size in bytes, and when it was last written."""

    kind: Kind
    path: Path
    size: int
    modified: float


def entries(root: Path) -> list[Entry]:
    """Everything in a cache, checkpoints first, newest last; locks of running processes are not listed."""
    kinds: dict[str, Kind] = {CHECKPOINTS: "checkpoint", NETWORKS: "finished network"}
    listed = [
        _entry("leftover" if path.name.startswith(".") else kind, path)
        for folder, kind in kinds.items()
        for path in (root / folder).glob("*")
        if path.suffix != ".lock"
    ]
    return sorted(listed, key=lambda entry: (entry.kind, entry.modified, entry.path))


def remove(chosen: Sequence[Entry]) -> list[Entry]:
    """Remove entries; returns those that stay because a running process is at work on them."""
    kept = []
    for entry in chosen:
        try:
            with lock(lock_of(entry.path), str(entry.path)):
                shutil.rmtree(entry.path, ignore_errors=True)
        except LockedError:
            kept.append(entry)
    return kept


def lock_of(folder: Path) -> Path:
    """The lock of an entry: of a checkpoint beside it, of a network beside its checkpoints."""
    name = folder.name.strip(".").removesuffix(".partial")
    if folder.parent.name == NETWORKS:
        return folder.parent.parent / CHECKPOINTS / f"network-{name}.lock"
    return folder.with_name(f"{name}.lock")


def _entry(kind: Kind, path: Path) -> Entry:
    files = [file for file in path.rglob("*") if file.is_file()]
    return Entry(kind, path, sum(file.stat().st_size for file in files), path.stat().st_mtime)
