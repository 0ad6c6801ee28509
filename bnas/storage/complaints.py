"""What is wrong with a value from a file, in words: its full key, what was expected there and what was found.

Pydantic finds what is wrong; the words come from the JSON schema of the expected type, so that a number out of range is
told its whole range.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

Loc = tuple[int | str, ...]
"""Where in a file: keys and list indices, outermost first."""

BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "of at most",
    "exclusiveMaximum": "below",
    "multipleOf": "a multiple of",
}
"""Keyword of JSON schema → the words before its value."""


class Complaint(NamedTuple):
    """A value that cannot be used: where it is, and what is wrong with it."""

    loc: Loc
    text: str

    def __str__(self) -> str:
        return f"{key_path(self.loc)}: {self.text}" if self.loc else self.text


def mismatch(loc: Loc, expected: str, found: object) -> Complaint:
    """The complaint about a value that is another than expected."""
    return Complaint(loc, f"expected {expected}, found {value_text(found)}")


def first_of(complaints: Sequence[Complaint]) -> str:
    """The first complaint, and how many follow it; one line."""
    return f"{complaints[0]} (and {len(complaints) - 1} more)" if len(complaints) > 1 else str(complaints[0])


def complaints(error: ValidationError, kind: Any) -> list[Complaint]:
    """What pydantic found wrong with a value of a type; misspelt keys first, since they explain what is missing."""
    details = error.errors(include_url=False)
    unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
    misspelt = [unknown_key(loc, _schema(kind, loc[:-1])["properties"]) for loc in unknown]
    meant = {loc for loc, _ in misspelt}
    others = (
        _complaint(detail, kind)
        for detail in details
        if detail["loc"] not in unknown and not (detail["type"] == "missing" and detail["loc"] in meant)
    )
    return [*(complaint for _, complaint in misspelt), *others]


def properties(kind: Any, loc: Sequence[int | str] = ()) -> Collection[str]:
    """The keys that a type has at a place within it. Raises KeyError for a place that does not exist."""
    keys: dict[str, Any] = _schema(kind, loc)["properties"]
    return keys.keys()


def key_path(loc: Loc) -> str:
    """The full key of a place in a file: `stage1.evaluation.batches`, `space.operations[2]`."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += "." * bool(text) + (step if re.fullmatch(r"[\w-]+", step) else repr(step))
    return _cut(text, 200)


def unknown_key(loc: Loc, known: Collection[str]) -> tuple[Loc, Complaint]:
    """Where the key that was meant would be, and the complaint about the one that is there."""
    nearest, hint = suggestion(loc, known)
    return (*loc[:-1], nearest), Complaint(loc, f"expected a known key ({hint}), found an unknown one")


def suggestion(loc: Loc, known: Collection[str]) -> tuple[str, str]:
    """The known key nearest to the last of `loc` ("" where none is near), and the words that propose it, or all."""
    nearest = next(iter(difflib.get_close_matches(str(loc[-1]), known, 1)), "")
    return nearest, f"did you mean {key_path((*loc[:-1], nearest))}?" if nearest else ", ".join(known)


def one_of(allowed: Collection[object]) -> str:
    """Values to choose from."""
    names = ", ".join(map(str, allowed))
    return names if len(allowed) == 1 else f"one of {names}"


def value_text(value: object) -> str:
    """A value as messages show it, cut to a readable length."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {value[:60]!r}" + "..." * (len(value) > 60)
        case dict():
            return "keys below it"
        case tuple() | list():
            return "a list"
        case _:
            return _cut(repr(value), 60)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _complaint(detail: Any, kind: Any) -> Complaint:
    loc = detail["loc"]
    if detail["type"] == "value_error":  # raised by a rule of ours, in words of its own
        return Complaint(loc, " ".join(str(detail["ctx"]["error"]).split()))
    expected = _expected(_schema(kind, loc))
    if detail["type"] == "missing":
        return Complaint(loc, f"expected {expected}, found nothing")
    return mismatch(loc, expected, detail["input"])


@functools.cache
def _json_schema(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema()


def _schema(kind: Any, loc: Sequence[int | str]) -> dict[str, Any]:
    """The part of a type's JSON schema that describes the value at `loc`."""
    root = _json_schema(kind)
    node = _resolved(root, root)
    for step in loc:
        if isinstance(step, int):
            node = node["prefixItems"][step] if "prefixItems" in node else node["items"]
        else:
            node = node["properties"][step] if "properties" in node else node["additionalProperties"]
        node = _resolved(node, root)
    return node


def _resolved(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """A node of a schema in place of a reference to it, or of the choice between it and null."""
    optional = [each for each in node.get("anyOf", ()) if each != {"type": "null"}]
    node = optional[0] if len(optional) == 1 else node
    resolved: dict[str, Any] = root["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    return resolved


def _expected(schema: dict[str, Any]) -> str:
    """The schema of one value in words."""
    if "const" in schema or "enum" in schema:
        return one_of(schema.get("enum") or [schema["const"]])
    match schema.get("type"):
        case "object":
            return f"the keys {', '.join(schema['properties'])}" if "properties" in schema else "keys with values"
        case "array":
            return "a list of " + ("at least one value" if "minItems" in schema else "values")
        case "boolean":
            return "true or false"
        case "string":
            most = f" of at most {schema['maxLength']} characters" if "maxLength" in schema else ""
            like = f" like {schema['pattern']}" if "pattern" in schema else ""
            return f"a text{most}{like}" + " that is not empty" * ("minLength" in schema)
        case "integer" | "number" as kind:
            bounds = " and ".join(f"{word} {schema[name]:.10g}" for name, word in BOUNDS.items() if name in schema)
            return f"{'an integer' if kind == 'integer' else 'a number'} {bounds}".rstrip()
        case _:
            return "another value"
