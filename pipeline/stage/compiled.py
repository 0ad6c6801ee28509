"""Compiled kernels for a queued experiment, which DVC runs in a copy of the project without them."""

from __future__ import annotations

from pathlib import Path

from bnas.storage.files import atomic_write

EXPERIMENTS = (".dvc", "tmp", "exps")
"""The folder of a project in which DVC keeps the copies."""


def borrow(project: Path) -> None:
    """Copy numba's compiled kernels into a queued experiment's copy, from the project it is a copy of.

    Any other project is left as it is. Numba uses the files whose digest of the source fits (some older versions
    compare times, and compile anew).
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
