"""Where maps lie in memory: the one planner of places for pieces that are in use at different times."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

SHUFFLED = 12
"""Random orders that are tried before a packing above the lower bound is kept."""

MANY = 1000
"""Units from which on the first packing has to do, since each takes as long as its number squared."""


class Span(NamedTuple):
    """`size` elements from `offset` of their unit on, in use while the operations `first` to `last` run."""

    offset: int
    size: int
    first: int
    last: int

    def moved(self, by: int) -> Span:
        """The same further on."""
        return self._replace(offset=self.offset + by)

    def meets(self, other: Span) -> bool:
        """Whether both are in use at one time."""
        return self.first <= other.last and other.first <= self.last

    def overlaps(self, other: Span) -> bool:
        """Whether they would share an element."""
        return self.offset < other.offset + other.size and other.offset < self.offset + self.size


Unit = Sequence[Span]
"""Spans that keep their distances from each other; the first of them need not lie at offset 0."""


class Packing(NamedTuple):
    """Where each unit begins, and the number of elements that hold all of them."""

    starts: tuple[int, ...]
    total: int


def arranged(units: Sequence[Unit]) -> Packing:
    """The smallest of a few packings; two spans of different units that meet in time share no element.

    First fit in order of time; unless there are more than `MANY`, of size, and of both, and then in `SHUFFLED` orders,
    drawn alike for the same number of units, until as little is needed as the spans of one moment take.
    """
    numbers = range(len(units))
    sizes = [max(span.offset + span.size for span in unit) for unit in units]
    times = [max(span.last for span in unit) - min(span.first for span in unit) + 1 for unit in units]
    order = sorted(numbers, key=lambda u: min(span.first for span in units[u]))
    orders = [sorted(numbers, key=lambda u: -sizes[u]), sorted(numbers, key=lambda u: -sizes[u] * times[u])]
    best = _first_fit(units, order)
    if len(units) > MANY:
        return best
    least, rng = _lower_bound(units), random.Random(0)
    for attempt in range(len(orders) + SHUFFLED):
        if best.total <= least:
            break
        order = orders[attempt] if attempt < len(orders) else rng.sample(numbers, len(numbers))
        best = min(best, _first_fit(units, order), key=lambda packing: packing.total)
    return best


def _first_fit(units: Sequence[Unit], order: Sequence[int]) -> Packing:
    starts, placed = [0] * len(units), list[Span]()
    for number in order:
        unit = units[number]
        # Starts at which a span of this unit would lie on one that is placed: everything between two numbers.
        taken = sorted(
            (other.offset - span.offset - span.size, other.offset + other.size - span.offset)
            for span in unit
            for other in placed
            if span.first <= other.last and other.first <= span.last  # `meets`, called a million times
        )
        start = max(-span.offset for span in unit)
        for low, high in taken:
            if low < start < high:
                start = high
        starts[number] = start
        placed += [span.moved(start) for span in unit]
    return Packing(tuple(starts), max(span.offset + span.size for span in placed))


def _lower_bound(units: Sequence[Unit]) -> int:
    """What is in use at the fullest moment."""
    spans = [span for unit in units for span in unit]
    return max(sum(span.size for span in spans if span.first <= now.first <= span.last) for now in spans)
