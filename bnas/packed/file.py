"""The file of a packed network: safetensors with two tensors, all bits in one and all other numbers in the other.

`bits` (uint8) holds the sign bits of every binary convolution, `floats` (float32) everything else, in the order of
`bnas.packed.layout`. The metadata are `format`, `version`, `card` (JSON of `bnas.packed.card`) and `hash`, the SHA-256
of the card and both tensors. Reading runs no code from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bnas.packed.card import ModelCard
from bnas.packed.layout import payload
from bnas.packed.parameters import Bits, Floats

FORMAT, VERSION = "bnas", "1"
TENSORS = {"bits": "U8", "floats": "F32"}


class PackedError(ValueError):
    """A file that is no packed network of this version, or not whole; the message says which file and what is wrong."""


@dataclass(frozen=True)
class PackedContent:
    """Everything that a file holds, and how many bytes of it are numbers and how many are header."""

    card: ModelCard
    bits: Bits
    floats: Floats
    hash: str
    file_bytes: int

    @property
    def payload_bytes(self) -> int:
        """Bytes of both tensors."""
        return self.bits.nbytes + self.floats.nbytes

    @property
    def header_bytes(self) -> int:
        """Bytes of names, shapes and metadata."""
        return self.file_bytes - self.payload_bytes


def content_hash(card: str, bits: Bits, floats: Floats) -> str:
    """SHA-256, hexadecimal, over the card's text and the bytes of both tensors."""
    digest = hashlib.sha256(card.encode())
    for tensor in (bits, floats):
        digest.update(tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def to_bytes(card: ModelCard, bits: Bits, floats: Floats) -> bytes:
    """The content of the file; the same for the same network."""
    text = card.to_json()
    metadata = {"format": FORMAT, "version": VERSION, "card": text, "hash": content_hash(text, bits, floats)}
    return sorted_header(save({"bits": bits, "floats": floats}, metadata))


def sorted_header(content: bytes) -> bytes:
    """The same file with its header's keys in order: safetensors writes metadata in an order of the day."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def read(path: str | os.PathLike[str]) -> PackedContent:
    """The file's content, checked. Raises PackedError for anything but a whole packed network of this version."""
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe could take for ever
            raise PackedError(f"{path}: expected a packed network, found no regular file")
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            card = _card(path, metadata)
            found = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
            _check(path, card, found)
            bits, floats = opened.get_tensor("bits"), opened.get_tensor("floats")
    except SafetensorError as error:
        raise PackedError(f"{path}: expected a packed network, found a broken file ({error})") from None
    except OSError as error:
        raise PackedError(f"{path}: expected a readable file, found {error.strerror or error}") from None
    if not np.isfinite(floats).all():
        raise PackedError(f"{path}: expected finite parameters, found nan or infinity")
    expected = content_hash(metadata["card"], bits, floats)
    if metadata.get("hash") != expected:
        raise PackedError(f"{path}: expected the content hash {expected}, found {metadata.get('hash', 'none')!s:.64}")
    return PackedContent(card, bits, floats, expected, status.st_size)


def _card(path: Path, metadata: dict[str, str]) -> ModelCard:
    if metadata.get("format") != FORMAT:
        raise PackedError(f"{path}: expected a packed network (format {FORMAT!r}), found another safetensors file")
    found = metadata.get("version", "none")
    if found != VERSION:
        newer = found.isdecimal() and found.isascii() and len(found) < 10 and int(found) > int(VERSION)
        raise PackedError(
            f"{path}: expected version {VERSION} of the format, found {found!s:.20}"
            + ("; a newer bnas wrote it" if newer else "")
        )
    try:
        return ModelCard.from_json(metadata.get("card", ""))
    except ValueError as error:
        raise PackedError(f"{path}: card: {error}") from None


def _check(path: Path, card: ModelCard, found: dict[str, Any]) -> None:
    bits, floats = payload(card.steps())
    shapes = {"bits": [-(-bits // 8)], "floats": [floats]}
    expected = {name: (kind, shapes[name]) for name, kind in TENSORS.items()}
    present = {name: (part.get_dtype(), list(part.get_shape())) for name, part in found.items()}
    if present != expected:
        raise PackedError(f"{path}: expected the tensors {_listed(expected)}, found {_listed(present)}")


def _listed(tensors: dict[str, tuple[str, list[int]]]) -> str:
    return ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in sorted(tensors.items()))[:200] or "none"
