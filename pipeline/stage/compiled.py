"""Compiled kernels for a queued experiment, which DVC runs in a copy of the project that holds none."""

from __future__ import annotations

from pathlib import Path

from bnas.storage.files import atomic_write

EXPERIMENTS = (".dvc", "tmp", "exps")
"""Where in a project DVC keeps the copies."""


def borrow(project: Path) -> None:
    """Copy numba's files from the project that a copy of it lies in; a project of its own is left as it is.

    Numba compares the source's digest with the one in its files (some older versions compare times, and compile anew).
    """
    parts = project.parts
    places = [i for i in range(len(parts)) if parts[i : i + len(EXPERIMENTS)] == EXPERIMENTS]
    if not places:
        return
    original = Path(*parts[: places[-1]])
    for file in original.glob("bnas/**/__pycache__/*.nb[ic]"):
        target = project / file.relative_to(original)
        if target.parent.parent.is_dir() and not target.exists():
            target.parent.mkdir(exist_ok=True)
            atomic_write(target, file.read_bytes())
