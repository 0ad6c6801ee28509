"""Which files of the project a module imports, from the source text alone."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bnas", "pipeline")


def file_of(module: str) -> Path | None:
    """The file of a dotted module name of this project, else None."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def imported(path: Path) -> set[Path]:
    """Project files that a file imports directly."""
    found: set[Path] = set()

    def add(module: str) -> None:
        file = file_of(module)
        if file is not None:
            found.add(file)

    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            add(node.module or "")
            for alias in node.names:
                add(f"{node.module}.{alias.name}")
    return found - {path}


def closure(path: Path) -> set[Path]:
    """The file itself and every project file that it imports, directly or not, packages' `__init__.py` included."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += imported(current)
            todo += [p for folder in current.relative_to(ROOT).parents if (p := ROOT / folder / "__init__.py").exists()]
    return seen


def relative(paths: set[Path]) -> list[str]:
    """Sorted paths from the project's root, as dvc.yaml writes them."""
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)
