"""Measures how long a call takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

LEAST, MOST = 5, 2000
"""Calls that are timed, whatever they take."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median of `repeats` calls, and their quartiles `low` and `high`."""

    median: float
    low: float
    high: float
    repeats: int


def timed(call: Callable[[], object], *, seconds: float) -> Timing:
    """Time a call after three warm-up calls, for so many seconds, but from `LEAST` to `MOST` calls."""
    for _ in range(3):
        call()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < LEAST or (len(took) < MOST and time.perf_counter() < end):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(took, n=4)
    return Timing(median, low, high, len(took))
