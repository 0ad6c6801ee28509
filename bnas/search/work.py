"""How a stage tells how much of its work is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

SCORING_WORK = 0.05
"""Cost of scoring an image relative to training on it: a forward pass in binary arithmetic, shared with others."""


@dataclass(frozen=True)
class Work:
    """Tells `advance` of work, in images trained on, and shows a short note of what is going on beside it."""

    advance: Callable[[float, str], None] = lambda work, note: None
    note: str = ""

    def at(self, note: str) -> Work:
        """The same with another note."""
        return replace(self, note=note)

    def trained(self, images: int) -> None:
        """So many images were trained on."""
        self.advance(images, self.note)

    def scored(self, images: int) -> None:
        """So many images were scored."""
        self.advance(SCORING_WORK * images, self.note)


UNWATCHED = Work()
"""Work of which nobody is told."""
