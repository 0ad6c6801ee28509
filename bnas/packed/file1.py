"""Files of format 1, as they were written before numbers were rounded: safetensors with two tensors.

`bits` (uint8) holds the sign bits of every binary convolution, `floats` (float32) everything else. The metadata are
`format`, `version`, `card` (JSON) and `hash`, the SHA-256 of the card and both tensors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bnas.packed.card import ModelCard
from bnas.packed.content import PackedContent, check_numbers, check_version
from bnas.packed.parameters import Bits, Floats
from bnas.space.layout import payload

FORMAT, VERSION = "bnas", 1
TENSORS = {"bits": "U8", "floats": "F32"}


def read(path: Path, size: int) -> PackedContent:
    """The content of a file of so many bytes, checked. Raises ValueError for anything but a whole file of format 1."""
    try:
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            card = _card(metadata)
            tensors = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
            _check(card, tensors)
            bits, floats = opened.get_tensor("bits"), opened.get_tensor("floats")
    except SafetensorError as error:
        raise ValueError(f"expected a packed network, found a broken file ({error})") from None
    expected = _hash(metadata["card"], bits, floats)
    check_numbers(floats, expected, str(metadata.get("hash", "none")))
    return PackedContent(card, bits, floats, floats.astype("<f4").tobytes(), expected, size, VERSION)


def _hash(card: str, bits: Bits, floats: Floats) -> str:
    digest = hashlib.sha256(card.encode())
    for tensor in (bits, floats):
        digest.update(tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _card(metadata: dict[str, str]) -> ModelCard:
    if metadata.get("format") != FORMAT:
        raise ValueError(f"expected a packed network (format {FORMAT!r}), found another safetensors file")
    check_version(metadata.get("version", "none"), VERSION)
    try:
        return ModelCard.from_json(metadata.get("card", ""), VERSION)
    except ValueError as error:
        raise ValueError(f"card: {error}") from None


def _check(card: ModelCard, tensors: dict[str, Any]) -> None:
    bits, floats = payload(card.steps())
    shapes = {"bits": [-(-bits // 8)], "floats": [floats]}
    expected = {name: (kind, shapes[name]) for name, kind in TENSORS.items()}
    present = {name: (part.get_dtype(), list(part.get_shape())) for name, part in tensors.items()}
    if present != expected:
        raise ValueError(f"expected the tensors {_listed(expected)}, found {_listed(present)}")


def _listed(tensors: dict[str, tuple[str, list[int]]]) -> str:
    return ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in sorted(tensors.items()))[:200] or "none"
