"""Networks trained from scratch: the front and its baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from bnas.records.base import (
    STRICT,
    AnyGenotype,
    Count,
    Natural,
    NonNegative,
    Positive,
    Record,
    Share,
    read_record,
    require_at_most,
)

Role = Literal["front", "random", "hand", "published"]

ROLES: tuple[Role, ...] = get_args(Role)
"""In the order in which networks are listed."""

Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
"""A network's name is a folder's, too: it must not lead anywhere else."""


@dataclass(frozen=True, config=STRICT)
class RetrainedNetwork(Record):
    """A network trained from scratch and tested once.

    `supernet_error` is its validation error with the supernet's weights (None where it was not scored),
    `matched` the name of the front network that a random baseline was matched to in size.
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("key", "test_error")

    name: Name
    role: Role
    genotype: AnyGenotype
    channels: Natural
    cells: Natural
    size_bytes: Positive
    params: Natural
    ops: Positive
    supernet_error: Share | None
    wrong: Count
    test_images: Natural
    epochs: Natural
    matched: Name | None

    def __post_init__(self) -> None:
        require_at_most("RetrainedNetwork.wrong", self.wrong, self.test_images)

    @property
    def key(self) -> str:
        """The genotype's short name."""
        return self.genotype.key

    @property
    def test_error(self) -> float:
        """`wrong / test_images`, in [0, 1]."""
        return self.wrong / self.test_images


@dataclass(frozen=True, config=STRICT)
class RetrainedNetworks(Record):
    """`data/retrain/networks.json`."""

    networks: Annotated[tuple[RetrainedNetwork, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class LinearBaseline(Record):
    """`data/retrain/linear.json`: a linear classifier on pixels, trained as the networks were and tested once."""

    DERIVED: ClassVar[tuple[str, ...]] = ("test_error",)

    wrong: Count
    test_images: Natural
    epochs: Natural

    def __post_init__(self) -> None:
        require_at_most("LinearBaseline.wrong", self.wrong, self.test_images)

    @property
    def test_error(self) -> float:
        """`wrong / test_images`, in [0, 1]."""
        return self.wrong / self.test_images


@dataclass(frozen=True, config=STRICT)
class NetworkTime(Record):
    """Seconds that training one network took; a row of `reports/times/networks.json`."""

    network: str
    seconds: NonNegative


def read_networks(path: Path) -> tuple[RetrainedNetwork, ...]:
    """`networks.json`."""
    return read_record(path, RetrainedNetworks).networks


def read_linear(path: Path) -> LinearBaseline:
    """`linear.json`."""
    return read_record(path, LinearBaseline)


def read_network_times(path: Path) -> tuple[NetworkTime, ...]:
    """`reports/times/networks.json`."""
    return read_record(path, tuple[NetworkTime, ...])
