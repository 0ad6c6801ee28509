"""The file of a packed network: a head of 42 bytes, the card, all bits, and all other numbers.

The head is `bnas`, the format's version (2), the length of the card, and the SHA-256 of the card's text and all that
stands behind it. The card (JSON of `bnas.packed.card`) is deflated, as `bnas.packed.card_text` says; it determines how
many bytes follow: the sign bits of every binary convolution, then the rest as `bnas.packed.rounding` stores it, both in
the order of `bnas.space.layout`. Files of format 1 (`bnas.packed.file1`) are read, too. Reading runs no code from the
file.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bnas.packed.card import ModelCard
from bnas.packed.card_text import deflated, inflated
from bnas.packed.content import VERSION, PackedContent, check_numbers, check_version
from bnas.packed.file1 import read as read_first
from bnas.packed.parameters import Bits, Floats
from bnas.packed.rounding import bytes_of, restored, stored
from bnas.space.layout import payload

MAGIC = b"bnas"

HEAD = struct.Struct("<4sHI32s")


class PackedError(ValueError):
    """A file that is no packed network of a known version, or not whole; the message says which and what is wrong."""


def to_bytes(card: ModelCard, bits: Bits, floats: Floats) -> bytes:
    """The content of the file; the same for the same network. Numbers are rounded as the card's configuration says."""
    text = card.to_json()
    numbers = bits.tobytes() + stored(floats, card.steps(), card.config.shipped)
    digest, short = hashlib.sha256(text.encode() + numbers).digest(), deflated(text)
    return HEAD.pack(MAGIC, VERSION, len(short), digest) + short + numbers


def read(path: str | os.PathLike[str]) -> PackedContent:
    """The file's content, checked. Raises PackedError for anything but a whole packed network of a known version."""
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # to open a pipe could take for ever
            raise PackedError(f"{path}: expected a packed network, found no regular file")
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                file.seek(0)
                return _read(file, status.st_size)
        return read_first(path, status.st_size)
    except OSError as error:
        raise PackedError(f"{path}: expected a readable file, found {error.strerror or error}") from None
    except PackedError:
        raise
    except ValueError as error:
        raise PackedError(f"{path}: {error}") from None


def _read(file: BinaryIO, size: int) -> PackedContent:
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        raise ValueError("expected a packed network, found a broken file (it ends in its head)")
    _, version, length, digest = HEAD.unpack(head)
    check_version(str(version), VERSION)
    if length > size - HEAD.size:
        raise ValueError("expected a packed network, found a broken file (it ends in its card)")
    try:
        text = inflated(file.read(length))
        card = ModelCard.from_json(text, version)
    except ValueError as error:
        raise ValueError(f"card: {error}") from None
    steps, shipped = card.steps(), card.config.shipped
    bits, numbers = -(-payload(steps)[0] // 8), bytes_of(steps, shipped)
    if size != HEAD.size + length + bits + numbers:
        behind = size - HEAD.size - length
        raise ValueError(f"expected {bits:,} bytes of bits and {numbers:,} of other numbers, found {behind:,} in all")
    content = file.read(bits + numbers)
    floats = restored(content[bits:], steps, shipped)
    check_numbers(floats, hashlib.sha256(text.encode() + content).hexdigest(), digest.hex())
    packed = np.frombuffer(content[:bits], np.uint8)
    return PackedContent(card, packed, floats, content[bits:], digest.hex(), size, version)
