"""Where the bytes of a trained network are, read from the header of its weights: no torch, no weight is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Folded into scale and shift, or into the classifier, when the network is shipped: no bytes of their own."""


@dataclass(frozen=True)
class Part:
    """A part of a network and its bytes as shipped: 1 bit a binary weight, 4 bytes any other value."""

    name: str
    binary_bytes: float
    float_bytes: float

    @property
    def size_bytes(self) -> float:
        """Both together."""
        return self.binary_bytes + self.float_bytes


def weight_parts(path: Path) -> tuple[Part, ...]:
    """Stem, cells and classifier of `weights.safetensors`, in this order; they add up to the network's `size_bytes`.

    Raises ValueError for a file that is no safetensors file.
    """
    binary: dict[str, float] = {}
    other: dict[str, float] = {}
    try:
        with safe_open(path, framework="numpy") as weights:
            for name in sorted(weights.keys()):
                first, *rest = name.split(".")
                if first == "norm" or rest[-1] in _STATISTICS:
                    continue
                part = f"cell {int(rest[0]) + 1}" if first == "cells" else first
                count = math.prod(weights.get_slice(name).get_shape())
                is_binary = first == "cells" and rest[-2:] == ["conv", "weight"]
                binary[part] = binary.get(part, 0.0) + (count / 8 if is_binary else 0)
                other[part] = other.get(part, 0.0) + (0 if is_binary else 4 * count)
    except (SafetensorError, OSError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected the weights of a network, found {error}") from None
    cells = sorted((name for name in binary if name.startswith("cell ")), key=lambda name: int(name.split()[1]))
    return tuple(Part(name, binary[name], other[name]) for name in ("stem", *cells, "classifier") if name in binary)
