"""What `export` records of each packed network."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from bnas.records.base import STRICT, Count, Natural, Positive, Record, read_record


@dataclass(frozen=True, config=STRICT)
class ExportedNetwork(Record):
    """One packed file: its bytes in all, those of the numbers, those of the header, and the hash of its content.

    `deviating` counts the test images whose logits differ from PyTorch's by more than rounding, because a value before
    a sign lies within rounding of its threshold.
    """

    network: str
    file_bytes: Natural
    payload_bytes: Natural
    header_bytes: Natural
    hash: str
    deviating: Count


@dataclass(frozen=True, config=STRICT)
class ExportedNetworks(Record):
    """`data/export/files.json`, written by `export`: all packed files."""

    files: tuple[ExportedNetwork, ...]


@dataclass(frozen=True, config=STRICT)
class NetworkLatency(Record):
    """A row of `reports/times/latency.json`, written by `export`: median seconds to predict 1 image, and 64 images."""

    network: str
    packed_1: Positive
    torch_1: Positive
    packed_64: Positive
    torch_64: Positive

    @property
    def speedup(self) -> float:
        """How many times faster than PyTorch one image is."""
        return self.torch_1 / self.packed_1


def read_exported(path: Path) -> tuple[ExportedNetwork, ...]:
    """`data/export/files.json`."""
    return read_record(path, ExportedNetworks).files


def read_latencies(path: Path) -> tuple[NetworkLatency, ...]:
    """`reports/times/latency.json`."""
    return read_record(path, tuple[NetworkLatency, ...])
