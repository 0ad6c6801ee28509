"""How a file to ship stores what is not binary: the one place that says how many bytes a number takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shipped:
    """Bytes of a number, of a weight of the classifier, and of the scale that each class's weights share (0: none).

    A binary weight is a bit in all of them.
    """

    number: int
    weight: int
    scale: int

    def size(self, binary: int, numbers: int, weights: int = 0, classes: int = 0) -> float:
        """Bytes of so many binary weights, other numbers, and weights of a classifier of so many classes."""
        return binary / 8 + self.number * numbers + self.weight * weights + self.scale * classes


SHIPPED: Mapping[str, Shipped] = {
    "float32": Shipped(number=4, weight=4, scale=0),
    "float16": Shipped(number=2, weight=2, scale=0),
    "int8": Shipped(number=2, weight=1, scale=2),
}
"""Name in params.yaml (`network.shipped`) → bytes: `int8` is the classifier's weights as int8, the rest as float16."""
