"""What stage1, stage2 and search record: members, generations, the front, a summary."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from bnas.records.base import STRICT, AnyGenotype, Count, Natural, Positive, Record, Share, read_record, require_at_most

StageName = Literal["stage1", "stage2", "search"]

Resource = Literal["size", "ops", "latency"]


@dataclass(frozen=True, config=STRICT)
class Member(Record):
    """One survivor of a generation.

    `error` is the validation error as it was scored then, `rescored_error` with the final supernet weights
    on one common set of mini-batches (None until that has been done).
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("key", "parameter_free_share", "operations")

    genotype: AnyGenotype
    error: Share
    rescored_error: Share | None
    size_bytes: Positive

    @property
    def key(self) -> str:
        """The genotype's short name."""
        return self.genotype.key

    @property
    def parameter_free_share(self) -> float:
        """Share of the genotype's genes without weights."""
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
    members: tuple[Member, ...]


@dataclass(frozen=True, config=STRICT)
class Generations(Record):
    """`data/search/generations.json`: every generation of the run, in order."""

    generations: tuple[GenerationRecord, ...]


@dataclass(frozen=True, config=STRICT)
class SpaceRange(Record):
    """Sizes of the smallest and the largest network of the space, in bytes, and the error of guessing."""

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
class FrontMember(Record):
    """A member of the front handed over by the search, scored on the whole validation split."""

    DERIVED: ClassVar[tuple[str, ...]] = ("key",)

    genotype: AnyGenotype
    error: Share
    wrong: Count
    images: Natural
    size_bytes: Positive
    params: Natural
    ops: Positive

    def __post_init__(self) -> None:
        require_at_most("FrontMember.wrong", self.wrong, self.images)

    @property
    def key(self) -> str:
        """The genotype's short name."""
        return self.genotype.key


@dataclass(frozen=True, config=STRICT)
class Front(Record):
    """`data/search/front.json`."""

    space: SpaceRange
    members: Annotated[tuple[FrontMember, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class SearchSummary(Record):
    """What the report reads of `data/search/summary.json` (which may hold more).

    `evaluations` counts distinct architectures; `image_evaluations` the images they were scored on and
    `image_evaluations_full` what scoring each on the whole validation split would have cost; `schedule_tau`
    is Kendall's τ-b between the two scores, None where it is undefined; `f2_low` and `f2_high` are the
    realised range.
    """

    evaluations: Count
    image_evaluations: Count
    image_evaluations_full: Count
    schedule_tau: Annotated[float, Field(ge=-1, le=1)] | None
    f2_low: float
    f2_high: float


def read_generations(path: Path) -> tuple[GenerationRecord, ...]:
    """`generations.json`."""
    return read_record(path, Generations).generations


def read_front(path: Path) -> Front:
    """`front.json`."""
    return read_record(path, Front)


def read_summary(path: Path) -> SearchSummary:
    """`summary.json`; entries that no report reads are passed over."""
    names = {field.name for field in dataclasses.fields(SearchSummary)}
    return read_record(path, SearchSummary, only=names)


def read_space(path: Path) -> SpaceRange:
    """`space.json` of a transfer."""
    return read_record(path, SpaceRange)
