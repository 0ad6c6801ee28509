"""What `trial` records: every network that it trained for a while."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from bnas.records.base import (
    STRICT,
    AnyGenotype,
    Count,
    Natural,
    NonNegative,
    OfGenotype,
    Positive,
    Record,
    read_record,
)

Origin = Literal["search", "offspring", "random"]
"""Where a network on trial comes from: the search's best, offspring of those on trial, or chance."""


@dataclass(frozen=True, config=STRICT)
class TrialNetwork(OfGenotype):
    """A network trained from scratch for `epochs` epochs.

    `loss` is the mean training loss of the last of them, in nats; `wrong` of `images` validation images were named
    wrong after it; `supernet_error` is its validation error with the supernet's weights, None without a supernet;
    `estimate` lies between `loss` and what the regression makes of all trained for as long.
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("key",)

    genotype: AnyGenotype
    origin: Origin
    epochs: Natural
    loss: NonNegative
    wrong: Count
    images: Natural
    size_bytes: Positive
    supernet_error: NonNegative | None
    estimate: float


@dataclass(frozen=True, config=STRICT)
class TrialNetworks(Record):
    """`data/trial/networks.json`, written by `trial`: all trainings, in the order they were done; empty without any."""

    networks: tuple[TrialNetwork, ...]


def read_trial(path: Path) -> tuple[TrialNetwork, ...]:
    """`data/trial/networks.json`."""
    return read_record(path, TrialNetworks).networks
