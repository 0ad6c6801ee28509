"""What `latency_table` records: measured times of the operations of a search space, and sums of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from bnas.records.base import STRICT, NonNegative, Record, read_record
from bnas.space.edge_sums import EdgeTable, everywhere, used
from bnas.space.search_space import SearchSpace


@dataclass(frozen=True, config=STRICT)
class EdgeLatency(Record):
    """The seconds that an operation of a stride takes on one edge of a cell."""

    stride: Annotated[int, Field(ge=1, le=2)]
    op: str
    seconds: NonNegative


@dataclass(frozen=True, config=STRICT)
class CellLatencies(Record):
    """One cell of a network: whether it is a reduction cell, and the seconds of its possible edges."""

    reduction: bool
    edges: tuple[EdgeLatency, ...]


@dataclass(frozen=True, config=STRICT)
class LatencyTable(Record):
    """The seconds of all edges, from the first cell to the last, and of what all networks have in common."""

    fixed_seconds: NonNegative
    cells: tuple[CellLatencies, ...]


@dataclass(frozen=True, config=STRICT)
class MeasuredLatencies(Record):
    """`data/latency_table/table.json`, written by `latency_table`; None where the search does not minimise time."""

    table: LatencyTable | None


def read_measured_latencies(path: Path) -> MeasuredLatencies:
    """`data/latency_table/table.json`."""
    return read_record(path, MeasuredLatencies)


def read_latency_correlation(path: Path) -> float | None:
    """`reports/metrics/latency_table.json`: None where nothing was measured."""
    return read_record(path, dict[str, Annotated[float, Field(ge=-1, le=1)] | None]).get("latency_correlation")


def latency_table(latencies: LatencyTable, space: SearchSpace) -> EdgeTable:
    """The table that sums a genotype's measured edges to its network's seconds.

    Raises ValueError if an edge that the space can have was not measured.
    """
    cells = [(cell.reduction, {(e.stride, e.op): e.seconds for e in cell.edges}) for cell in latencies.cells]
    for reduction, edges in cells:
        for op in space.ops:
            for at in used(everywhere(op, space), reduction):
                if at not in edges:
                    raise ValueError(f"latency table: expected an edge of stride {at[0]} with {at[1]}, found none")
    return EdgeTable(space, latencies.fixed_seconds, cells)
