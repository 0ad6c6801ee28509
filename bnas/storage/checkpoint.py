"""Checkpoints: states of a long computation on disk, the two newest of them, each with a hash of its bytes."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bnas.storage.cache import mark
from bnas.storage.files import atomic_write

_MAGIC = b"bnas checkpoint 1 "
_HEADER = len(_MAGIC) + 65
_KEPT = 2
_PLAIN = "plain"


@dataclass(frozen=True)
class State:
    """What a computation needs to go on: tensors by name, and a plain value that JSON can hold.

    The tensors are the computation's own, not copies: whoever is handed a state writes it before returning.
    """

    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Any]


Save = Callable[[State], None]
"""Writes a state; the state before it stays until this one is whole."""


def forget(state: State) -> None:
    """The `Save` of a computation that cannot be resumed."""


class Resumption(NamedTuple):
    """Where a computation goes on, None for its start, and what keeps the states that it comes to from there."""

    state: State | None
    save: Save


FROM_THE_START = Resumption(None, forget)
"""A computation that is not resumed and cannot be."""


class Checkpoints:
    """The two newest states of one computation, in a folder of their own.

    `key` names everything that determines the computation's result: a state of another key is never used. A file is a
    line with the SHA-256 of the rest, which is safetensors: reading one runs no code, and whatever is cut off or
    changed is noticed. Seconds spent are counted over all runs that the states come from.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.earlier_seconds = 0.0
        self._start = time.monotonic()

    @property
    def count(self) -> int:
        """States saved so far, over all runs."""
        return max(self._numbered(), default=0)

    @property
    def seconds(self) -> float:
        """Seconds spent so far, those of interrupted runs up to their last state included."""
        return self.earlier_seconds + time.monotonic() - self._start

    def newest(self) -> State | None:
        """The newest whole state; one that is not is named in a warning, removed and passed over."""
        for _, path in sorted(self._numbered().items(), reverse=True):
            try:
                state, self.earlier_seconds = self._read(path)
            except ValueError as error:
                warnings.warn(f"{path}: {error}; passed over", stacklevel=2)
                path.unlink()
            else:
                self._start = time.monotonic()
                return state
        return None

    def save(self, state: State) -> None:
        """Write a state, then remove all but it and the one before it."""
        plain = json.dumps({"key": self.key, "seconds": self.seconds, "state": state.plain}, allow_nan=False).encode()
        tensors = {f"state.{name}": value.detach().cpu().contiguous() for name, value in state.tensors.items()}
        content = save(tensors | {_PLAIN: torch.frombuffer(bytearray(plain), dtype=torch.uint8)})
        header = _MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n"
        numbered = self._numbered()
        mark(self.folder)
        atomic_write(self.folder / f"checkpoint-{max(numbered, default=0) + 1}", header + content)
        for number in sorted(numbered)[: -(_KEPT - 1)]:
            numbered[number].unlink()

    def remove(self) -> None:
        """Remove all states."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _numbered(self) -> dict[int, Path]:
        """Number of each state → its file."""
        names = ((re.fullmatch(r"checkpoint-([0-9]{1,9})", path.name), path) for path in self.folder.glob("*"))
        return {int(match[1]): path for match, path in names if match}

    def _read(self, path: Path) -> tuple[State, float]:
        content = path.read_bytes()
        header, body = content[:_HEADER], content[_HEADER:]
        if not header.startswith(_MAGIC):
            raise ValueError(f"expected a checkpoint, found {header[:24]!r}")
        if header[len(_MAGIC) :] != hashlib.sha256(body).hexdigest().encode() + b"\n":
            raise ValueError(f"expected a whole checkpoint, found {len(body)} bytes that are not what was written")
        try:
            tensors = load(body)
            plain = json.loads(tensors.pop(_PLAIN).numpy().tobytes())
            key, seconds, state = plain["key"], float(plain["seconds"]), dict(plain["state"])
        except (SafetensorError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise ValueError(f"expected a checkpoint, found {type(error).__name__}: {error}") from None
        if key != self.key:
            raise ValueError("expected a checkpoint of this computation, found one of another")
        return State({name.removeprefix("state."): value for name, value in tensors.items()}, state), seconds


def random_state(rng: random.Random) -> list[Any]:
    """A generator's state as a plain value."""
    version, words, gauss = rng.getstate()
    return [version, list(words), gauss]


def set_random_state(rng: random.Random, value: list[Any]) -> None:
    """Put a generator into a state that `random_state` returned."""
    version, words, gauss = value
    rng.setstate((version, tuple(words), gauss))
