"""The content of a packed file, and the checks that files of all versions have to pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnas.packed.card import ModelCard
from bnas.packed.parameters import Bits, Floats
from bnas.packed.rounding import bytes_of

VERSION = 2
"""The version of the format that is written."""


@dataclass(frozen=True)
class PackedContent:
    """Everything that a file holds: `floats` as they are computed with and `numbers` as they are stored, and the
    format's `version`."""

    card: ModelCard
    bits: Bits
    floats: Floats
    numbers: bytes
    hash: str
    file_bytes: int
    version: int = VERSION

    @property
    def payload_bytes(self) -> int:
        """Bytes of all parameters."""
        return self.bits.nbytes + bytes_of(self.card.steps(), self.card.config.shipped)

    @property
    def header_bytes(self) -> int:
        """Bytes of all else: head and card."""
        return self.file_bytes - self.payload_bytes


def check_version(found: str, expected: int) -> None:
    """Raises ValueError for another version than the expected one."""
    if found != str(expected):
        newer = found.isdecimal() and found.isascii() and len(found) < 10 and int(found) > VERSION
        raise ValueError(
            f"expected version {expected} of the format, found {found:.20}"
            + ("; a newer bnas wrote it" if newer else "")
        )


def check_numbers(floats: Floats, expected: str, found: str) -> None:
    """Raises ValueError for numbers that are not finite, or for a hash of the content that is not the expected one."""
    if not np.isfinite(floats).all():
        raise ValueError("expected finite parameters, found nan or infinity")
    if found != expected:
        raise ValueError(f"expected the content hash {expected}, found {found:.64}")
