"""What the stages hand each other as JSON and CSV: frozen records, their readers and their plain form.

A record is built from values (`FrontMember(genotype, error, …)`), written through `to_dict` and read back
by the `read_*` functions. What can be computed from a record (a genotype's key, a test error) is written
beside it, and checked on reading: a file whose derived values disagree is refused.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bnas.files import read_json, read_text
from bnas.space import Genotype

T = TypeVar("T")

_CSV_HEADER = "index,label,prediction"
_CSV_ROW = re.compile(r"([0-9]{1,18}),([0-9]{1,18}),([0-9]{1,18})")

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
"""No silent conversion (text to number, true to 1), no nan."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Natural = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
StageName = Literal["stage1", "stage2", "search"]
Role = Literal["front", "random", "hand", "published"]
ROLES: tuple[Role, ...] = get_args(Role)
"""In the order in which networks are listed."""
Resource = Literal["size", "ops", "latency"]
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
"""A network's name is a folder's, too: it must not lead anywhere else."""


def _as_genotype(value: object) -> Genotype:
    return value if isinstance(value, Genotype) else Genotype.from_dict(value)


AnyGenotype = Annotated[Genotype, PlainValidator(_as_genotype)]


class Record:
    """A frozen value with a plain form; `DERIVED` names the properties written beside the fields."""

    DERIVED: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """The plain value behind the JSON file: fields first, then what is derived from them."""
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]  # records are dataclasses
        return {name: _plain(getattr(self, name)) for name in (*names, *self.DERIVED)}


def _at_most(field: str, found: int, most: int) -> None:
    if found > most:
        raise ValueError(f"{field}: expected at most {most}, found {found}")


def _plain(value: object) -> Any:
    if isinstance(value, Record | Genotype):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, config=STRICT)
class ImageShape(Record):
    """Height and width in pixels, and channels.

    A picture of another size is scaled and centre-cropped to it, from a shorter side of `resize` pixels if that is not
    None (`bnas.images.read_image`).
    """

    height: Natural
    width: Natural
    channels: Natural
    resize: Natural | None = None


@dataclass(frozen=True, config=STRICT)
class SplitCounts(Record):
    """Images in each split."""

    train: Natural
    validation: Natural
    test: Natural


@dataclass(frozen=True, config=STRICT)
class DatasetDescription(Record):
    """`data/prepared/dataset.json`: the images; mean and deviation per channel of the train split."""

    name: str
    title: str
    classes: tuple[str, ...]
    image: ImageShape
    counts: SplitCounts
    mean: tuple[float, ...]
    std: tuple[Positive, ...]
    hash: str


@dataclass(frozen=True, config=STRICT)
class EpochRecord(Record):
    """One epoch of training: mean loss, training error in [0, 1] and the learning rate it ended with."""

    epoch: Natural
    loss: float
    error: Share
    learning_rate: float


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
        _at_most("FrontMember.wrong", self.wrong, self.images)

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
        _at_most("RetrainedNetwork.wrong", self.wrong, self.test_images)

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
        _at_most("LinearBaseline.wrong", self.wrong, self.test_images)

    @property
    def test_error(self) -> float:
        """`wrong / test_images`, in [0, 1]."""
        return self.wrong / self.test_images


@dataclass(frozen=True, config=STRICT)
class NetworkTime(Record):
    """Seconds that training one network took; a row of `reports/times/networks.json`."""

    network: str
    seconds: Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class ExportedNetwork(Record):
    """A packed file: its bytes, those that hold numbers, those of the header, and its content hash.

    `deviating` counts test images whose logits are not PyTorch's within rounding, since a value before a sign lies
    within rounding of its threshold.
    """

    network: str
    file_bytes: Natural
    payload_bytes: Natural
    header_bytes: Natural
    hash: str
    deviating: Count


@dataclass(frozen=True, config=STRICT)
class ExportedNetworks(Record):
    """`data/export/files.json`."""

    files: tuple[ExportedNetwork, ...]


@dataclass(frozen=True, config=STRICT)
class NetworkLatency(Record):
    """Median seconds of a prediction for 1 image and for 64; a row of `reports/times/latency.json`."""

    network: str
    packed_1: Positive
    torch_1: Positive
    packed_64: Positive
    torch_64: Positive

    @property
    def speedup(self) -> float:
        """How many times faster than PyTorch one image is."""
        return self.torch_1 / self.packed_1


@dataclass(frozen=True, config=STRICT)
class EdgeLatency(Record):
    """Seconds that an operation of that stride takes in a cell."""

    stride: Annotated[int, Field(ge=1, le=2)]
    op: str
    seconds: Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class CellLatencies(Record):
    """One cell of a network: whether it reduces, and its possible edges."""

    reduction: bool
    edges: tuple[EdgeLatency, ...]


@dataclass(frozen=True, config=STRICT)
class LatencyTable(Record):
    """Seconds of all edges, from the first cell to the last, and of what all networks have in common."""

    fixed_seconds: Annotated[float, Field(ge=0)]
    cells: tuple[CellLatencies, ...]


@dataclass(frozen=True, config=STRICT)
class MeasuredLatencies(Record):
    """`data/latency_table/table.json`; None where the search does not minimise time."""

    table: LatencyTable | None


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Per-image answers of one network on the test split, integer arrays `[N]`, in the split's order."""

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.labels.shape != self.predictions.shape:
            raise ValueError(
                "Predictions: expected two equally long vectors, "
                f"found shapes {self.labels.shape} and {self.predictions.shape}"
            )

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which images were named right, `[N]`."""
        return np.equal(self.labels, self.predictions)

    def to_csv(self) -> str:
        """Text of `predictions.csv`: index, label, prediction."""
        rows = zip(self.labels.tolist(), self.predictions.tolist(), strict=True)
        lines = (f"{index},{label},{prediction}\n" for index, (label, prediction) in enumerate(rows))
        return _CSV_HEADER + "\n" + "".join(lines)


def read_dataset(path: Path) -> DatasetDescription:
    """`dataset.json`. This and the other readers raise ValueError, one line, for a malformed file."""
    return _read(path, DatasetDescription)


def read_epochs(path: Path) -> tuple[EpochRecord, ...]:
    """A training curve: `training.json` of a supernet stage, `curve.json` of a retrained network."""
    return _read(path, tuple[EpochRecord, ...])


def read_generations(path: Path) -> tuple[GenerationRecord, ...]:
    """`generations.json`."""
    return _read(path, Generations).generations


def read_front(path: Path) -> Front:
    """`front.json`."""
    return _read(path, Front)


def read_summary(path: Path) -> SearchSummary:
    """`summary.json`; entries that no report reads are passed over."""
    names = {field.name for field in dataclasses.fields(SearchSummary)}
    return _read(path, SearchSummary, only=names)


def read_networks(path: Path) -> tuple[RetrainedNetwork, ...]:
    """`networks.json`."""
    return _read(path, RetrainedNetworks).networks


def read_space(path: Path) -> SpaceRange:
    """`space.json` of a transfer."""
    return _read(path, SpaceRange)


def read_linear(path: Path) -> LinearBaseline:
    """`linear.json`."""
    return _read(path, LinearBaseline)


def read_network_times(path: Path) -> tuple[NetworkTime, ...]:
    """`reports/times/networks.json`."""
    return _read(path, tuple[NetworkTime, ...])


def read_exported(path: Path) -> tuple[ExportedNetwork, ...]:
    """`data/export/files.json`."""
    return _read(path, ExportedNetworks).files


def read_latencies(path: Path) -> tuple[NetworkLatency, ...]:
    """`reports/times/latency.json`."""
    return _read(path, tuple[NetworkLatency, ...])


def read_measured_latencies(path: Path) -> MeasuredLatencies:
    """`data/latency_table/table.json`."""
    return _read(path, MeasuredLatencies)


def read_stage_times(path: Path) -> dict[str, float]:
    """One stage's times file: name → seconds."""
    return _read(path, dict[str, Annotated[float, Field(ge=0)]])


def read_latency_correlation(path: Path) -> float | None:
    """`reports/metrics/latency_table.json`: None where nothing was measured."""
    return _read(path, dict[str, Annotated[float, Field(ge=-1, le=1)] | None]).get("latency_correlation")


def read_predictions(path: Path) -> Predictions:
    """`predictions.csv`: index, label, prediction; the index counts up from 0."""
    lines = read_text(path).splitlines()
    if not lines or lines[0] != _CSV_HEADER:
        raise ValueError(f"{path}: expected the header {_CSV_HEADER}, found {(lines or [''])[0][:60]!r}")
    rows = [_CSV_ROW.fullmatch(line) for line in lines[1:]]
    if not all(rows):
        found = lines[1 + rows.index(None)]
        raise ValueError(f"{path}: expected three whole numbers in every row, found {found[:40]!r}")
    cells = [[int(cell) for cell in row.groups()] for row in rows if row]
    index, labels, predictions = np.array(cells, dtype=np.int64).reshape(len(rows), 3).T
    if not np.array_equal(index, np.arange(len(index))):
        raise ValueError(f"{path}: expected indices counting up from 0, found others")
    return Predictions(labels, predictions)


def _read(path: Path, kind: type[T], only: set[str] | None = None) -> T:
    """The file's content as a `kind`; `only` keeps these entries of a top-level object."""
    value = read_json(path)
    if only is not None and isinstance(value, dict):
        value = {name: entry for name, entry in value.items() if name in only}
    return parse(path, value, kind)


def parse(path: Path | str, value: Any, kind: type[T]) -> T:
    """A plain value as a `kind`; raises ValueError, one line that starts with the path, for anything else."""
    try:
        # As JSON, where arrays become tuples although the records are strict.
        record = TypeAdapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None
    _refuse_difference(path, "", value, _plain(record))
    return record


def one_line(error: ValidationError) -> str:
    """The first of pydantic's complaints: where, what was expected, what was found."""
    first, *others = error.errors(include_url=False)
    where = ".".join(map(str, first["loc"])) or "the whole file"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "missing":
        return f"{where}: expected a value, found none{more}"
    found = "" if first["type"] == "value_error" else f", found {first['input']!r:.60}"
    return " ".join(f"{where}: {message}{found}{more}".split())


def _refuse_difference(path: Path | str, where: str, found: Any, expected: Any) -> None:
    """Raises ValueError at the first place where a file says something else than the record read from it."""
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        if found.keys() == expected.keys():
            for name in expected:
                _refuse_difference(path, f"{where}.{name}".lstrip("."), found[name], expected[name])
        found, expected = ", ".join(found), ", ".join(expected)
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            _refuse_difference(path, f"{where}.{index}".lstrip("."), one, other)
    difference = f"{where or 'the whole file'}: expected {expected!s:.150}, found {found!s:.150}"
    raise ValueError(f"{path}: {' '.join(difference.split())}")
