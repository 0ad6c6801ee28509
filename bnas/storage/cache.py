"""What lies in `.cache/`: finished networks, and checkpoints of what is not finished. Listing and removing it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bnas.storage.files import atomic_write
from bnas.storage.lock import LockedError, lock
from bnas.storage.terminal import one_line

NETWORKS, CHECKPOINTS = "networks", "checkpoints"

MARK = ".bnas-cache"
"""The file by which a folder of a cache is known to have been written here."""

Kind = Literal["finished network", "checkpoint", "leftover", "foreign"]


@dataclass(frozen=True)
class Entry:
    """One thing in the cache: what it is, where it lies, its size in bytes, and when it was last written.

    What was not written here is foreign, whatever its name.
    """

    kind: Kind
    path: Path
    size: int
    modified: float


def entries(root: Path) -> list[Entry]:
    """Everything in a cache, checkpoints first, newest last; locks of running processes are not listed.

    Raises OSError for a cache that is not there, is no folder or may not be read.
    """
    kinds: dict[str, Kind] = {CHECKPOINTS: "checkpoint", NETWORKS: "finished network"}
    listed = [
        _entry(_kind(kinds[folder.name], path), path)
        for folder in root.iterdir()
        if folder.name in kinds
        for path in folder.iterdir()
        if path.suffix != ".lock"
    ]
    return sorted(listed, key=lambda entry: (entry.kind, entry.modified, entry.path))


def mark(folder: Path) -> None:
    """Make a folder of a cache, if it is not there, and note in it that it was written here."""
    if not (folder / MARK).exists():
        atomic_write(folder / MARK, "Written by bnas. `bnas clean` may remove this folder.\n")


def remove(chosen: Sequence[Entry]) -> Mapping[Path, str]:
    """Remove entries that were written here; returns those that stay, and why."""
    kept = {}
    for entry in chosen:
        try:
            if os.path.lexists(entry.path) and _kind(entry.kind, entry.path) == "foreign":
                raise ValueError("not written by bnas")
            with lock(lock_of(entry.path), str(entry.path)):
                _remove(entry.path)
        except LockedError:
            kept[entry.path] = "a running process is at work on it"
        except FileNotFoundError:
            pass  # another process was faster
        except (ValueError, OSError) as error:
            kept[entry.path] = one_line(error)
    return kept


def _remove(folder: Path) -> None:
    """Remove a folder, its mark last, so that what cannot be removed is not taken for foreign."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARK:
            path.unlink()
    (folder / MARK).unlink()
    folder.rmdir()


def _kind(kind: Kind, path: Path) -> Kind:
    if path.is_symlink() or not (path / MARK).is_file():
        return "foreign"
    return "leftover" if path.name.startswith(".") else kind


def lock_of(folder: Path) -> Path:
    """The lock of an entry: of a checkpoint beside it, of a network beside its checkpoints."""
    name = folder.name.strip(".").removesuffix(".partial")
    if folder.parent.name == NETWORKS:
        return folder.parent.parent / CHECKPOINTS / f"network-{name}.lock"
    return folder.with_name(f"{name}.lock")


def _entry(kind: Kind, path: Path) -> Entry:
    status = {}
    for file in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # a process at work has removed it meanwhile
            status[file] = file.lstat()
    size = sum(each.st_size for each in status.values() if stat.S_ISREG(each.st_mode))
    return Entry(kind, path, size, status[path].st_mtime if path in status else 0.0)
