"""What `stage1`, `stage2` and `search` record: generations, the front, a summary."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bnas.records.base import STRICT, AnyGenotype, Count, Natural, OfGenotype, Positive, Record, Share, read_record

StageName = Literal["stage1", "stage2", "search"]

Resource = Literal["size", "ops", "ram", "latency"]

ErrorKind = Literal["plain", "balanced"]
"""The share of wrong answers, or the mean over classes of the share within each."""


@dataclass(frozen=True, config=STRICT)
class Member(OfGenotype):
    """One survivor of a generation.

    `error` is the validation error as scored in its generation, `rescored_error` that in the final supernet on the
    mini-batches common to all generations (None before `search` has scored it).
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("key", "parameter_free_share", "operations")

    genotype: AnyGenotype
    error: Share
    rescored_error: Share | None
    size_bytes: Positive

    @property
    def parameter_free_share(self) -> float:
        """The share of the genotype's genes whose operation has no weights."""
        return self.genotype.parameter_free_share

    @property
    def operations(self) -> dict[str, int]:
        """Operation → how many genes of both cells use it; sorted by name."""
        return dict(sorted(Counter(gene.op for gene in self.genotype.genes).items()))


@dataclass(frozen=True, config=STRICT)
class GenerationRecord(Record):
    """The population that survived a generation, and the selection rule that chose it."""

    stage: StageName
    generation: Count
    rule: str
    members: Annotated[tuple[Member, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class Generations(Record):
    """`generations.json` of `stage1`, `stage2` and `search`: their generations in order; the last has all three."""

    generations: tuple[GenerationRecord, ...]


@dataclass(frozen=True, config=STRICT)
class SpaceRange(Record):
    """The frame of the indicators: bytes of the smallest and the largest network of the space, error of guessing."""

    smallest_bytes: Positive
    largest_bytes: Positive
    chance_error: Annotated[float, Field(gt=0, le=1)]

    def __post_init__(self) -> None:
        if self.smallest_bytes >= self.largest_bytes:
            raise ValueError(
                f"SpaceRange.largest_bytes: expected more than smallest_bytes = {self.smallest_bytes}, "
                f"found {self.largest_bytes}"
            )


@dataclass(frozen=True, config=STRICT)
class FrontMember(OfGenotype):
    """A network that `search` or `trial` hands over: wrong answers to all `images` images of the validation split.

    After `search` they are those of the supernet, after `trial` those of the network's longest training there.
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("key",)

    genotype: AnyGenotype
    error: Share
    wrong: Count
    images: Natural
    size_bytes: Positive
    params: Natural
    ops: Positive

    def __post_init__(self) -> None:
        if self.wrong > self.images:
            raise ValueError(f"wrong: expected at most {self.images}, found {self.wrong}")


@dataclass(frozen=True, config=STRICT)
class Front(Record):
    """`data/search/front.json`, `data/trial/front.json`: what a stage hands over, and the frame of the indicators."""

    space: SpaceRange
    members: Annotated[tuple[FrontMember, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class SearchSummary(Record):
    """`data/search/summary.json`, written by `search`: what its mini-batches saved, and how far they can be trusted.

    `evaluations` counts distinct architectures, `image_evaluations` the images they were scored on, and
    `image_evaluations_full` the images of scoring each on the whole validation split; `schedule_tau` is Kendall's τ-b
    between the scores on mini-batches and on the whole split, None where it is undefined; `f2_low` and `f2_high` are
    the least and the greatest second objective among all architectures.
    """

    evaluations: Count
    image_evaluations: Count
    image_evaluations_full: Count
    schedule_tau: Annotated[float, Field(ge=-1, le=1)] | None
    f2_low: float
    f2_high: float


def read_generations(path: Path) -> tuple[GenerationRecord, ...]:
    """`generations.json` of a stage."""
    return read_record(path, Generations).generations


def read_front(path: Path) -> Front:
    """`data/search/front.json` or `data/trial/front.json`."""
    return read_record(path, Front)


def read_summary(path: Path) -> SearchSummary:
    """`data/search/summary.json`."""
    return read_record(path, SearchSummary)


def read_space(path: Path) -> SpaceRange:
    """`data/retrain/space.json` of a transfer."""
    return read_record(path, SpaceRange)
