"""Files written whole or not at all, and text read only where it can be what it is taken for."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

TEXT_LIMIT = 2**28
"""Bytes of the largest text that is read: far more than any of ours, far less than memory."""


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: to a temporary name beside it, flushed to disk, then renamed.

    A pipe or a device is written into.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
        partial.unlink(missing_ok=True)


def write_folder(path: Path, files: Mapping[str, str], earlier: Collection[str] = ()) -> None:
    """Make a folder of these files, whole or not at all; one that holds no others, but `earlier` ones, is replaced.

    Raises ValueError for a folder that holds other files, for something else at its place, and without a folder to
    make it in.
    """
    path = path.absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: expected a folder, or nothing, found a file")
    others = sorted({entry.name for entry in path.iterdir()} - {*files, *earlier}) if path.exists() else []
    if others:
        raise ValueError(f"{path}: expected an empty folder or an earlier export, found {others[0]}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: expected a place in a folder, found no such folder")
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
        made, before = Path(name) / "made", Path(name) / "before"
        made.mkdir()
        for file, text in files.items():
            (made / file).write_text(text, encoding="utf-8")
        if path.exists():
            path.rename(before)
        made.rename(path)


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
