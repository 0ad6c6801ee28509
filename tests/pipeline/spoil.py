"""Ways to spoil a file: what disks, editors and attackers leave behind."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from bnas.data.npy import content_hash

Spoil = Callable[[Path], None]


class Hostile:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("unpickled").touch, ())


def content(change: Callable[[bytes], bytes]) -> Spoil:
    """A file whose bytes are changed."""

    def spoil(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return spoil


def replaced(new: bytes | str) -> Spoil:
    """A file that holds something else."""
    return content(lambda _: new if isinstance(new, bytes) else new.encode())


empty = replaced(b"")
truncated = content(lambda old: old[: len(old) // 2])
garbage = replaced(bytes(range(256)) * 4)
a_pickle = replaced(pickle.dumps(Hostile()))
deep = replaced("[" * 200_000)
huge_number = replaced("[" + "9" * 20_000 + "]")


def missing(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def flipped(share: float) -> Spoil:
    """One bit changed, at this share of the file."""

    def flip(old: bytes) -> bytes:
        at = int(share * (len(old) - 1))
        return old[:at] + bytes([old[at] ^ 0x40]) + old[at + 1 :]

    return content(flip)


def edited(change: Callable[[Any], Any]) -> Spoil:
    """JSON whose value is changed (in place, or to what is returned)."""

    def spoil(path: Path) -> None:
        value = json.loads(path.read_text())
        new = change(value)
        path.write_text(json.dumps(value if new is None else new))

    return spoil


def put(*keys: Any) -> Spoil:
    """JSON with another value, the last argument, at a place."""
    *place, last, new = keys

    def change(value: Any) -> None:
        for key in place:
            value = value[key]
        value[last] = new

    return edited(change)


def without(key: str) -> Spoil:
    return edited(lambda value: value.pop(key) and None)


def for_latency(way: Spoil) -> Spoil:
    """A table of latencies, of a run whose search is to minimise them."""

    def spoil(path: Path) -> None:
        params = Path("params.yaml")
        params.write_text(params.read_text().replace("resource: size", "resource: latency"))
        path.parent.mkdir(parents=True, exist_ok=True)
        edges = [{"stride": 1, "op": "skip_connect", "seconds": 0.0}]
        table = {"fixed_seconds": 1e-5, "cells": [{"reduction": False, "edges": edges}]}
        path.write_text(json.dumps({"table": table}))
        way(path)

    return spoil


# ---- Arrays ----


def header(shape: object, descr: str = "|u1", major: int = 1, claim: int | None = None) -> Spoil:
    """A `.npy` file that says more than it holds."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = (len(text) if claim is None else claim).to_bytes(2 if major == 1 else 4, "little")
    return replaced(b"\x93NUMPY" + bytes([major, 0]) + length + text + bytes(100))


def array(change: Callable[[np.ndarray], np.ndarray], *, hashed: bool = False) -> Spoil:
    """Another array in the same file; `hashed`: and its hash beside it, as if it had been written so."""

    def spoil(path: Path) -> None:
        np.save(path, change(np.load(path)), allow_pickle=True)
        if hashed:
            both = [np.load(path.with_name(name)) for name in ("images.npy", "labels.npy")]
            path.with_name("sha256").write_text(content_hash(both) + "\n")

    return spoil


def zipped(path: Path) -> None:
    """An archive of arrays, one of which unpacks to a gigabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("images.npy", "w") as member:
        for _ in range(16):
            member.write(bytes(2**20))


# ---- Weights ----


def tensors(change: Callable[[dict[str, torch.Tensor]], Any], *, hashed: bool = True) -> Spoil:
    """Other tensors in the same file, with the hash that belongs to them, or none."""

    def spoil(path: Path) -> None:
        from bnas.storage.weights import _content_hash

        state = load_file(path)
        change(state)
        save_file(state, path, {"sha256": _content_hash(state)} if hashed else None)

    return spoil


def torch_file(path: Path) -> None:
    torch.save({"weights": torch.zeros(3), "hostile": Hostile()}, path)


def claimed_header(length: int) -> Spoil:
    """A safetensors file whose header is said to be so long."""
    return content(lambda old: length.to_bytes(8, "little") + old[8:])


def claimed_tensor(path: Path) -> None:
    """A safetensors header with a tensor of a terabyte."""
    text = json.dumps({"x": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(64))


def outside(path: Path) -> None:
    """A link to a file that is none of ours."""
    path.unlink()
    path.symlink_to("/etc/hostname")


def copied(name: str) -> Spoil:
    """The content of another file of the same folder."""
    return lambda path: shutil.copyfile(path.with_name(name), path) and None


def object_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Hostile()], dtype=object), allow_pickle=True)
    return buffer.getvalue()
