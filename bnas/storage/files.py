"""Files written whole or not at all, and text read only where it can be what it is taken for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

TEXT_LIMIT = 2**28
"""Bytes of the largest text that is read: far more than any of ours, far less than memory."""

SUMS = ".bnas-export"
"""The file of a folder that names what was written there and its SHA-256, as `sha256sum --check` reads it."""


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: to a temporary name beside it, flushed to disk, then renamed.

    A pipe or a device is written into.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}.partial")  # a name may have 255 bytes
    data = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
            return
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_folder(path: Path, files: Mapping[str, str], earlier: Collection[str] = ()) -> None:
    """Write files into a folder, which is made if it is not there; all are staged in it before the first is in place.

    Files of these names or `earlier` ones that were written here before are replaced or removed. Raises ValueError,
    before anything is written, for a folder that holds any others or one that was changed since, for something else at
    its place, and without a folder to make it in.
    """
    path = Path(os.path.realpath(path))
    new = not path.exists()
    if not new and not path.is_dir():
        raise ValueError(f"{path}: expected a folder, or nothing, found a file")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: expected a place in a folder, found no such folder")
    sums = [_sum(name, text.encode()) for name, text in files.items()]
    known = {*sums, *(read_text(path / SUMS).splitlines() if (path / SUMS).is_file() else ())}
    before = [] if new else [entry for entry in sorted(path.iterdir()) if entry.name != SUMS]
    for entry in before:
        ours = entry.name in {*files, *earlier} and entry.is_file()
        if not ours or _sum(entry.name, entry.read_bytes()) not in known:
            raise ValueError(f"{path}: expected an empty folder or an unchanged earlier export, found {entry.name}")
    made = {**files, SUMS: "\n".join(sums) + "\n"}
    try:
        path.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=path) as staged:
            for name, text in made.items():
                Path(staged, name).write_text(text, encoding="utf-8")
            for entry in before:
                if entry.name not in files:
                    entry.unlink()
            for name in made:
                Path(staged, name).replace(path / name)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if new:
            with contextlib.suppress(OSError):  # it holds the files
                path.rmdir()


def _sum(name: str, content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()}  {name}"


def placed(output: Path, name: str) -> Path:
    """Where to write what is asked for at `output`: in it under `name` if that is a folder."""
    return output / name if output.is_dir() else output


def read_text(path: Path) -> str:
    """A file's text; raises ValueError, naming it, for what is not UTF-8 or longer than `TEXT_LIMIT`."""
    size = path.stat().st_size
    if size > TEXT_LIMIT:
        raise ValueError(f"{path}: expected at most {TEXT_LIMIT} bytes of text, found {size}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, found byte 0x{error.object[error.start]:02x}") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises ValueError, naming it, for anything else or too many levels."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{path}: expected JSON, found too many levels") from None
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        raise ValueError(f"{path}: expected JSON, found {text[:40]!r} ({error})") from None
