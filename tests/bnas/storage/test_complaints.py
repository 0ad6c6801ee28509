"""Complaints name the full key, the whole of what was expected, and what was found."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bnas.storage.complaints import Complaint, complaints, first_of, key_path, mismatch, properties, value_text

Bounded = Annotated[int, Field(ge=2, lt=9, multiple_of=2)]


class Pair(NamedTuple):
    name: str
    weight: float


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    count: Bounded
    rule: Literal["a", "b"]
    limit: Annotated[float, Field(gt=0)] | None = None


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    inner: tuple[Inner, ...]
    shares: dict[str, float] = {}
    pairs: list[Pair] = []
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "x"


def said(kind: Any, value: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    return [str(complaint) for complaint in complaints(caught.value, kind)]


GOOD = {"count": 2, "rule": "a"}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (
            {"inner": (GOOD, GOOD | {"count": 10})},
            "inner[1].count: expected an integer of at least 2 and below 9 and a multiple of 2, found 10",
        ),
        ({"inner": (GOOD | {"rule": "c"},)}, "inner[0].rule: expected one of a, b, found the text 'c'"),
        ({"inner": (GOOD | {"limit": 0.0},)}, "inner[0].limit: expected a number above 0, found 0.0"),
        ({"inner": ({"rule": "a"},)}, "inner[0].count: expected an integer of at least 2 and below 9 and a multiple"),
        ({"inner": 3}, "inner: expected a list of values, found 3"),
        ({"inner": (), "shares": {"a b": "x"}}, "shares.'a b': expected a number, found the text 'x'"),
        ({"inner": (), "pairs": [("a", None)]}, "pairs[0][1]: expected a number, found nothing (null)"),
        ({"inner": (), "name": "A"}, "name: expected a text like ^[a-z]+$, found the text 'A'"),
        ({"inner": (), "nmae": "a"}, "nmae: expected a known key (did you mean name?), found an unknown one"),
        ([], "expected the keys inner, shares, pairs, name, found a list"),
    ],
)
def test_a_complaint_tells_the_key_the_whole_range_and_the_value(value: Any, line: str) -> None:
    (complaint,) = said(Outer, value)
    assert complaint.startswith(line)


def test_a_misspelt_key_comes_first_and_explains_the_missing_one() -> None:
    lines = said(Outer, {"iner": (), "shares": 1})
    assert [line.partition(":")[0] for line in lines] == ["iner", "shares"]


def test_the_words_of_a_rule_of_ours_stay() -> None:
    class Ruled(Inner):
        def model_post_init(self, context: Any, /) -> None:
            raise ValueError("count: expected\nanother")

    assert said(Ruled, GOOD) == ["count: expected another"]


def test_the_first_complaint_is_told_and_the_others_are_counted() -> None:
    one = mismatch(("a", 1), "a text", 2)
    assert first_of([one]) == "a[1]: expected a text, found 2"
    assert first_of([one, one, one]) == "a[1]: expected a text, found 2 (and 2 more)"
    assert first_of([Complaint((), "expected a file")]) == "expected a file"


def test_properties_are_the_keys_at_a_place() -> None:
    assert list(properties(Outer, ("inner", 0))) == ["count", "rule", "limit"]
    with pytest.raises(KeyError):
        properties(Outer, ("outer",))


def test_keys_and_values_are_cut_to_a_readable_length() -> None:
    assert len(key_path(("x" * 10_000,))) < 210
    assert all(len(value_text(value)) < 90 for value in ("x" * 10_000, 10**1000, b"x" * 1000))
