"""The packed runtime on one thread and on two: how images are shared out, at any width and batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from bnas.packed.machine import WORTH, Machine
from bnas.packed.parameters import Floats, split
from bnas.space.layout import layout, payload
from bnas.space.network_config import NetworkConfig
from bnas.space.search_space import SearchSpace
from tests.benchmarks.measure import paired
from tests.benchmarks.text import table

SIDES = {4: 28, 8: 28, 16: 32, 32: 32, 64: 32}
"""Channels → side of the images; the stem halves them."""

BATCHES = (1, 2, 3, 4, 8, 16, 64)

MOST = 1.05
"""Times as long that two threads may take: what the measurement itself varies by."""


def threads() -> list[dict[str, Any]]:
    """A network of each width on batches of each size, on up to one thread and up to two."""
    rows = []
    for channels, side in SIDES.items():
        steps = layout(
            NetworkConfig(1, 10, channels, 3, 2), SearchSpace(nodes=3).sample_mixed(random.Random(3)), side, side
        )
        (bits, floats), rng = payload(steps), np.random.default_rng(0)
        numbers = rng.integers(0, 256, -(-bits // 8), np.uint8), rng.normal(size=floats).astype(np.float32)
        machine = Machine(steps, split(steps, *numbers), 2)
        for batch in BATCHES:
            x = rng.normal(size=(batch, 1, side, side)).astype(np.float32)
            assert np.array_equal(call(machine, 1, x), call(machine, 2, x))
            found = paired(partial(call, machine, 1, x), partial(call, machine, 2, x))
            machine.threads = 2
            taken = machine.threads_for(batch)
            rows.append(
                {
                    "channels": channels,
                    "batch": batch,
                    "up to 1 thread, ms": found["first"],
                    "up to 2 threads, ms": found["second"],
                    "second / first": found["ratio"],
                    "threads taken": taken,
                    "pairs": found["turns"],
                }
            )
    return rows


def call(machine: Machine, most: int, x: Floats) -> Floats:
    """A call on up to so many threads; one machine for both, since the places of two's arrays differ in speed."""
    machine.threads = most
    return machine(x)


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as paragraphs of Markdown."""
    slower = [row for row in found["threads"] if least(row) > MOST]
    return [
        "## Threads",
        "A whole network of random weights, called in turn with up to one thread and with up to two; ratios are of "
        f"pairs of calls. The runtime takes as many threads as have {1e3 * WORTH:.2g} ms of work each, and fewer for a "
        "while where that was slower, as on a machine that is busy with other things. Rows in which two are slower, by "
        f"a median above {MOST} beyond its own uncertainty: {len(slower)} of {len(found['threads'])} (demanded: none).",
        table(found["threads"]),
    ]


def least(row: Mapping[str, Any]) -> float:
    """The lower end of the 95 % interval of a row's median ratio (McGill, Tukey and Larsen, 1978)."""
    ratio = row["second / first"]
    return float(ratio["median"] - 1.57 * (ratio["high"] - ratio["low"]) / row["pairs"] ** 0.5)


MEASURES: Mapping[str, Callable[[], Any]] = {"threads": threads}
