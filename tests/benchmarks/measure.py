"""Timing of rivals within one run: alternating rounds, medians, quartiles, ratios."""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

ROUNDS, CALLS, LEAST_CALLS, WARM_UP, LEAST_WARM_UP, AT_MOST = 3, 8, 2, 0.02, 8, 0.03


def compared(calls: Mapping[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """Milliseconds of each call: median and quartiles over up to `ROUNDS · CALLS` calls, in rounds that alternate.

    A pause before each round lets the threads of another library stop spinning; `WARM_UP` seconds of calls wake ours.
    After `AT_MOST` seconds a round ends with `LEAST_CALLS` calls.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            time.sleep(0.02)
            end = time.perf_counter() + WARM_UP
            while time.perf_counter() < end:
                call()
            end = time.perf_counter() + AT_MOST
            for number in range(CALLS):
                start = time.perf_counter()
                if number >= LEAST_CALLS and start > end:
                    break
                call()
                found[name].append(1000 * (time.perf_counter() - start))
    return {name: spread(values) for name, values in found.items()}


def paired(
    first: Callable[[], object], second: Callable[[], object], seconds: float = 0.3, least: int = 15, most: int = 1000
) -> dict[str, Any]:
    """Milliseconds of two calls that take turns, and second / first of every turn: median, quartiles, number of turns.

    Who begins a turn changes, so that neither finds what the other left in the caches more often.
    """
    found: dict[str, list[float]] = {"first": [], "second": [], "ratio": []}
    turns = [("first", first), ("second", second)]
    warm = time.perf_counter() + WARM_UP
    for number in itertools.count():
        if number >= LEAST_WARM_UP and time.perf_counter() > warm:
            break
        first(), second()
    end = time.perf_counter() + seconds
    while len(found["ratio"]) < least or (len(found["ratio"]) < most and time.perf_counter() < end):
        for name, call in turns:
            start = time.perf_counter()
            call()
            found[name].append(1000 * (time.perf_counter() - start))
        found["ratio"].append(found["second"][-1] / found["first"][-1])
        turns.reverse()
    return {**{name: spread(values) for name, values in found.items()}, "turns": len(found["ratio"])}


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4)}


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    flags = fields.get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_bitalg", "avx512_vpopcntdq")
    return {
        "processor": fields.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "vector instructions": ", ".join(flag for flag in wanted if flag in flags) or "not known",
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "numpy": numpy.__version__,
    }
