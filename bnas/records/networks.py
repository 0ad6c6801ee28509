"""What `retrain` records of the networks trained from scratch: the front and its baselines."""

from __future__ import annotations

import operator
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
    OfGenotype,
    Positive,
    Record,
    Share,
    Tested,
    read_record,
)

Role = Literal["front", "random", "hand", "published"]

ROLES: tuple[Role, ...] = get_args(Role)
"""All roles, in the order in which networks are listed."""

Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
"""A network's name; it names a folder, too, and must not lead to another."""


@dataclass(frozen=True, config=STRICT)
class Rounded(Record):
    """What rounding a trained network to its file changed of its answers to the validation images.

    It was trained on these `images`, so they say nothing of its error. `changed` answers are others, `wrong_before` and
    `wrong` count mistakes before and after.
    """

    images: Natural
    changed: Count
    wrong_before: Count
    wrong: Count

    def __post_init__(self) -> None:
        if abs(self.wrong - self.wrong_before) > self.changed:
            raise ValueError(
                f"changed: expected at least the difference of {self.wrong_before} and {self.wrong} mistakes, "
                f"found {self.changed}"
            )
        for name in ("changed", "wrong_before", "wrong"):
            if getattr(self, name) > self.images:
                raise ValueError(f"{name}: expected at most {self.images} images, found {getattr(self, name)}")

    def __add__(self, other: Rounded) -> Rounded:
        """Both together."""
        return Rounded(*map(operator.add, vars(self).values(), vars(other).values()))

    @property
    def sentence(self) -> str:
        """The record in words."""
        return (
            f"{self.changed:,} of {self.images:,} answers to validation images, which the training saw, changed: "
            f"{self.wrong_before:,} were wrong before, {self.wrong:,} are wrong after"
        )


@dataclass(frozen=True, config=STRICT)
class RetrainedNetwork(Tested, OfGenotype):
    """A network trained from scratch and tested once.

    `channels` and `cells` are its width and depth, `ops` is counted per image, `supernet_error` is its validation error
    with the supernet's weights (None where it was not scored), `matched` names the front network whose size a random
    baseline has, `rounded` is what rounding changed (None for float32, which rounds nothing), `trial_estimate` is what
    short trainings let expect of it, in nats of training loss (None without a trial), `ram_bytes` the memory that the
    packed network computes an image in (None in records of earlier versions).
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
    rounded: Rounded | None = None
    trial_estimate: NonNegative | None = None
    ram_bytes: Natural | None = None


@dataclass(frozen=True, config=STRICT)
class RetrainedNetworks(Record):
    """`data/retrain/networks.json`, written by `retrain`: all networks trained from scratch."""

    networks: Annotated[tuple[RetrainedNetwork, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class LinearBaseline(Tested):
    """`data/retrain/linear.json`, written by `retrain`: a linear classifier on pixels, trained by the same recipe."""

    DERIVED: ClassVar[tuple[str, ...]] = ("test_error",)

    wrong: Count
    test_images: Natural
    epochs: Natural


@dataclass(frozen=True, config=STRICT)
class NetworkTime(Record):
    """A row of `reports/times/networks.json`, written by `retrain`: the seconds that training one network took."""

    network: str
    seconds: NonNegative


def read_networks(path: Path) -> tuple[RetrainedNetwork, ...]:
    """`data/retrain/networks.json`."""
    return read_record(path, RetrainedNetworks).networks


def read_rounded(path: Path) -> Rounded | None:
    """`rounded.json` of a finished network, written while it is trained."""
    return read_record(path, Rounded | None)  # type: ignore[arg-type]  # a union is no type


def read_linear(path: Path) -> LinearBaseline:
    """`data/retrain/linear.json`."""
    return read_record(path, LinearBaseline)


def read_network_times(path: Path) -> tuple[NetworkTime, ...]:
    """`reports/times/networks.json`."""
    return read_record(path, tuple[NetworkTime, ...])
