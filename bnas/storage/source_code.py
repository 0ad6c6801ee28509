"""Which source files a module consists of, with all that it imports from its own package, and their hash."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


@functools.cache
def imported(file: Path, root: Path) -> frozenset[Path]:
    """Files below `root` that a file imports directly, anywhere in its text; `root` holds the top-level packages.

    Raises ValueError for a relative import.
    """
    files = {path for name in _names(file) if (path := _file_of(name, root)) is not None}
    return frozenset(files - {file})


def closure(file: Path, root: Path) -> set[Path]:
    """The file itself and every file below `root` that it imports, directly or not, `__init__.py` included."""
    seen: set[Path] = set()
    todo = {file}
    while todo:
        current = todo.pop()
        seen.add(current)
        packages = current.relative_to(root).parents
        todo |= imported(current, root) | {p for folder in packages if (p := root / folder / "__init__.py").exists()}
        todo -= seen
    return seen


@functools.cache
def source_hash(module: str) -> str:
    """SHA-256 of a module's source and of all that it imports from its top-level package, directly or not.

    The same for the same text wherever the package is installed. Raises ValueError if the module has no source file.
    """
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"module: expected one with a source file, found {module!r}")
    file = Path(spec.origin)
    name = Path(*module.split("."))
    root = file.parents[len(name.parts) if file.name == "__init__.py" else len(name.parts) - 1]
    digest = hashlib.sha256()
    for path in sorted(closure(file, root)):
        digest.update(f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{file}: expected absolute imports, found a relative one in line {node.lineno}")
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _file_of(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
