"""Which rooms of the project a module imports: packages of `bnas/` and `pipeline/`, or single modules."""

from __future__ import annotations

from pathlib import Path

from bnas.storage import source_code

ROOT = Path(__file__).resolve().parent.parent
OWNED = ("records", "tabular", "transfer")
"""Packages whose modules each have one owner among the stages: stages depend on those modules, not on the package."""


def module_file(module: str) -> Path:
    """The file of a dotted module name of this project."""
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


def closure(module: str) -> set[Path]:
    """The module's file and all files of the project that it imports, directly or not."""
    return source_code.closure(module_file(module), ROOT)


def room(file: Path) -> str:
    """What a stage depends on for a file: its package's folder, or the file itself, as dvc.yaml writes it."""
    parts = file.relative_to(ROOT).parts
    return "/".join(parts[:2] if len(parts) > 2 and parts[1] not in OWNED else parts)


def rooms(files: set[Path]) -> list[str]:
    """Sorted rooms of files."""
    return sorted({room(file) for file in files})
