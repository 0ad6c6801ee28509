"""The base of all records: strict types, their plain form, and the reading of their files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError, WithJsonSchema

from bnas.space.genotype import Genotype
from bnas.storage.complaints import Complaint, Loc, complaints, first_of
from bnas.storage.files import read_json

T = TypeVar("T")

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
"""No silent conversion (text to number, true to 1), no nan."""

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Natural = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


def _as_genotype(value: object) -> Genotype:
    return value if isinstance(value, Genotype) else Genotype.from_dict(value)


AnyGenotype = Annotated[Genotype, PlainValidator(_as_genotype), WithJsonSchema({"type": "object"})]


class Record:
    """A frozen dataclass that is written as JSON; `DERIVED` names the properties written beside the fields."""

    DERIVED: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """The plain value in the JSON file: fields first, then what is derived from them."""
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]  # records are dataclasses
        return {name: _plain(getattr(self, name)) for name in (*names, *self.DERIVED)}


class OfGenotype(Record):
    """A record with a field `genotype`."""

    if TYPE_CHECKING:
        genotype: Genotype

    @property
    def key(self) -> str:
        """The genotype's short name."""
        return self.genotype.key


class Tested(Record):
    """A record with the fields `wrong` and `test_images`, the mistakes on the test split and its images."""

    if TYPE_CHECKING:
        wrong: int
        test_images: int

    def __post_init__(self) -> None:
        if self.wrong > self.test_images:
            raise ValueError(f"wrong: expected at most {self.test_images}, found {self.wrong}")

    @property
    def test_error(self) -> float:
        """`wrong / test_images`, in [0, 1]."""
        return self.wrong / self.test_images


def _plain(value: object) -> Any:
    if isinstance(value, Record | Genotype):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def read_stage_times(path: Path) -> dict[str, float]:
    """`reports/times/<stage>.json`, written by every stage: name → seconds."""
    return read_record(path, dict[str, NonNegative])


def read_record(path: Path, kind: type[T]) -> T:
    """The file's content as a `kind`.

    This and all other readers of records raise ValueError, one line, for a malformed file.
    """
    return parse(path, read_json(path), kind)


def parse(path: Path | str, value: Any, kind: type[T]) -> T:
    """A plain value as a `kind`. Raises ValueError, one line that starts with the path, for anything else."""
    try:
        # As JSON, where arrays become tuples although the records are strict.
        record = TypeAdapter(kind).validate_json(json.dumps(value))
    except ValidationError as error:
        raise ValueError(f"{path}: {first_of(complaints(error, kind))}") from None
    _refuse_difference(path, (), value, _plain(record))
    return record


def _refuse_difference(path: Path | str, loc: Loc, found: Any, expected: Any) -> None:
    """Raises ValueError at the first place where a file says something else than the record read from it."""
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        if found.keys() == expected.keys():
            for name in expected:
                _refuse_difference(path, (*loc, name), found[name], expected[name])
        missing = [name for name in expected if name not in found]
        unknown = [name for name in found if name not in expected]
        found, expected = ", ".join(unknown) or "none", ", ".join(missing) or "no key more"
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            _refuse_difference(path, (*loc, index), one, other)
    difference = f"expected {expected!s:.150}, found {found!s:.150}"
    raise ValueError(f"{path}: {Complaint(loc, ' '.join(difference.split()))}")
