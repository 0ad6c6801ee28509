"""The bytes of each part of a trained network, from the header of its weights; needs no torch, and loads no weight."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bnas.space.shipped import SHIPPED


@dataclass(frozen=True)
class Part:
    """A part of a network and its bytes as shipped: 1 bit a binary weight, and all other numbers."""

    name: str
    binary_bytes: float
    float_bytes: float

    @property
    def size_bytes(self) -> float:
        """Both together."""
        return self.binary_bytes + self.float_bytes


def weight_parts(path: Path, shipped: str) -> tuple[Part, ...]:
    """Stem, cells and classifier of `weights.safetensors`, in this order; they add up to the network's `size_bytes`.

    `shipped` names the format of the files. Raises ValueError for a file that is no safetensors file.
    """
    binary, other = Counter[str](), Counter[str]()
    linear = (0, 0)  # weights and classes
    try:
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118  # the file is no dictionary
                shape = weights.get_slice(name).get_shape()
                count = math.prod(shape)
                match name.split("."):
                    case ["norm", *_] | [*_, "running_mean" | "running_var" | "num_batches_tracked"]:
                        pass  # folded into scale and shift, or into the classifier: no bytes of their own
                    case ["cells", index, *_, "conv", "weight"]:
                        binary[f"cell {int(index) + 1}"] += count
                    case ["cells", index, *_]:
                        other[f"cell {int(index) + 1}"] += count
                    case ["classifier", "weight"]:
                        linear = (count, shape[0])
                    case ["stem" | "classifier" as part, *_]:
                        other[part] += count
                    case _:
                        raise ValueError(f"the weight {name}")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: expected the weights of a network, found {error}") from None
    cells = sorted(other.keys() - {"stem", "classifier"}, key=lambda name: int(name.split()[1]))
    size = SHIPPED[shipped].size
    return (
        *(Part(name, size(binary[name], 0), size(0, other[name])) for name in ("stem", *cells)),
        Part("classifier", 0.0, size(0, other["classifier"], *linear)),
    )
