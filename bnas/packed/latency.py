"""Measures the time of every edge of a space's networks, in the packed runtime on this machine."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from bnas.packed.machine import Machine
from bnas.packed.parameters import split
from bnas.packed.timing import timed
from bnas.records.latencies import CellLatencies, EdgeLatency, LatencyTable, latency_table
from bnas.space.edge_sums import everywhere
from bnas.space.genotype import Genotype
from bnas.space.layout import EdgeStep, Pool, Step, layout, part_step, payload
from bnas.space.network_config import NetworkConfig
from bnas.space.operations import OPERATION
from bnas.space.search_space import SearchSpace, distinct
from bnas.space.topology import CellTopology, Shape, topology

REPEATS = 16
"""Equal steps in one program, so that a step's time stands out from the call's."""

PASSES = 10
"""Passes over all measurements. The least time of an edge counts, since other work of the machine only adds to it."""

CHECKED = 24
"""The number of whole networks that a table's sums are compared with."""

LEAST_CORRELATION = 0.9
"""The least correlation of a table's sums with whole networks; below it the machine was busy with other work."""


def measure(config: NetworkConfig, space: SearchSpace, height: int, width: int, seconds: float = 0.015) -> LatencyTable:
    """Seconds that each operation takes at each place of a network, for one image on one thread, and all the rest.

    A program of `REPEATS` equal steps is timed for `seconds` in each of `PASSES`. `fixed_seconds` are those of a whole
    network minus those of its edges.
    """
    cells = topology(config, space).cells
    edges = {
        (cell.index, stride, op): _edge_steps(op, stride, cell.source_shape(stride, height, width))
        for op in space.ops
        for cell in cells
        for stride in cell.strides
    }
    distinct_steps = dict.fromkeys(step for steps in edges.values() for step in steps if _takes_time(step))
    known = _least({step: [step] * REPEATS for step in distinct_steps}, seconds)

    def edge(cell: CellTopology, stride: int, op: str) -> EdgeLatency:
        steps = edges[cell.index, stride, op]
        return EdgeLatency(stride, op, sum(known[step] / REPEATS if _takes_time(step) else 0.0 for step in steps))

    measured = tuple(
        CellLatencies(cell.reduction, tuple(edge(cell, stride, op) for op in space.ops for stride in cell.strides))
        for cell in cells
    )
    probe = everywhere(space.ops[-1], space)
    whole = min(network_seconds(config, probe, height, width, 4 * seconds) for _ in range(PASSES))
    table = latency_table(LatencyTable(0.0, measured), space)
    return LatencyTable(max(whole - table(probe), 0.0), measured)


def check(
    table: LatencyTable, config: NetworkConfig, space: SearchSpace, height: int, width: int, count: int = CHECKED
) -> float | None:
    """Pearson correlation of the table's sums with measured whole networks, as many random ones.

    None where the space has fewer than three, or all of them have the same sum.
    """
    sums, rng = latency_table(table, space), random.Random(0)
    genotypes = distinct(lambda: space.sample_mixed(rng), count)
    passes = [[network_seconds(config, genotype, height, width) for genotype in genotypes] for _ in range(PASSES)]
    whole = [min(times) for times in zip(*passes, strict=True)]
    summed = [sums(genotype) for genotype in genotypes]
    if len(genotypes) < 3 or len(set(summed)) == 1 or len(set(whole)) == 1:
        return None
    return float(np.corrcoef(summed, whole)[0, 1])


def network_seconds(config: NetworkConfig, genotype: Genotype, height: int, width: int, seconds: float = 0.03) -> float:
    """Median seconds of a whole network of random weights for one image on one thread."""
    return timed_steps(layout(config, genotype, height, width), seconds)


def _takes_time(step: EdgeStep) -> bool:
    """False for an identity, which copies nothing."""
    return not (isinstance(step, Pool) and step.kind == "skip" and step.stride == 1)


def _edge_steps(op: str, stride: int, shape: Shape) -> list[EdgeStep]:
    """The steps of an edge that reads a map of this shape."""
    steps: list[EdgeStep] = []
    for part in OPERATION[op].parts(shape.channels, stride):
        steps.append(part_step(part, "", 0, steps[-1].out if steps else shape))
    return steps


def _least(programs: Mapping[EdgeStep, Sequence[Step]], seconds: float) -> dict[EdgeStep, float]:
    passes = [{name: timed_steps(steps, seconds) for name, steps in programs.items()} for _ in range(PASSES)]
    return {name: min(times[name] for times in passes) for name in programs}


def timed_steps(steps: Sequence[Step], seconds: float) -> float:
    """Median seconds of a program of these steps with random parameters, for one image on one thread."""
    rng = np.random.default_rng(0)
    bits, floats = payload(steps)
    random_bits = rng.integers(0, 256, -(-bits // 8), np.uint8)
    machine = Machine(steps, split(steps, random_bits, rng.normal(size=floats).astype(np.float32)), threads=1)
    first = steps[0]
    assert not hasattr(first, "sources")
    image = rng.normal(size=(1, *first.shape)).astype(np.float32)
    return timed(lambda: machine(image), seconds=seconds).median
