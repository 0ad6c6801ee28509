"""A YAML file as plain values, read as `dvc exp run -S` writes it: YAML 1.2's core schema, on PyYAML's parser.

PyYAML by itself reads YAML 1.1, where 1e-05 is text, 010 is 8 and `on` is true. ruamel.yaml, which writes presets, gets
these right, but takes 1_000 and 0b1 for integers and 2001-01-01 for a date, refuses the texts `<<` and `=`, expands
aliases, and names a key that is given twice without those above it. Every problem is a ParamsError of one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bnas.storage.complaints import Complaint, Loc, first_of, mismatch


class ParamsError(ValueError):
    """A file that cannot be used; its text is one line: file, key path, what was expected, what was found."""


def params_error(file: Path, *complaints: Complaint) -> ParamsError:
    """The error about a file: the first complaint, and how many follow it."""
    return ParamsError(f"{file}: {first_of(complaints)}")


_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars by YAML 1.2's core schema; refuses aliases, whose expansion has no bound."""

    yaml_implicit_resolvers = {None: [(_TAG + name, pattern) for name, pattern in _CORE_SCHEMA.items()]}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="an alias, which is not supported", problem_mark=mark)
        return super().compose_node(parent, index)


def read_yaml(file: Path) -> Any:
    """The content of a YAML file: dicts with text keys, tuples and scalars; None for an empty file."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise params_error(file, Complaint((), f"expected a readable file, found {error.strerror or error}")) from None
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise params_error(file, Complaint((), f"expected text in UTF-8, found byte 0x{byte:02x}")) from None
    line = 0
    try:
        node = yaml.compose(text, _Loader)
        return None if node is None else _plain(node, file, ())
    except ParamsError:
        raise
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem)
        line = error.problem_mark.line + 1 if error.problem_mark else 0
    except yaml.reader.ReaderError as error:
        problem = f"the character 0x{error.character:02x}"
        line = text.count("\n", 0, error.position) + 1
    except RecursionError:
        problem = "too many levels"
    except (ValueError, OverflowError) as error:  # of chr(), for "\UFFFFFFFF"
        problem = str(error)
    where = f"{file}, line {line}" if line else str(file)
    raise ParamsError(f"{where}: expected valid YAML, found an error ({' '.join(problem.split())})")


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything below a mapping that is no mapping; a list is one value."""
    if not isinstance(value, dict):
        yield key, list(value) if isinstance(value, tuple) else value
        return
    for name, below in value.items():
        yield from flat(below, f"{key}.{name}" if key else str(name))


def _plain(node: yaml.Node, file: Path, loc: Loc) -> Any:
    """The node as a value; refuses a key given twice or that is no text, a foreign tag, a huge integer."""
    kind, content = node.tag.removeprefix(_TAG), node.value
    if isinstance(node, yaml.MappingNode) and kind == "map":
        mapping: dict[str, Any] = {}
        for key_node, value_node in content:
            key = _plain(key_node, file, loc)
            if not isinstance(key, str):
                raise params_error(file, mismatch(loc, "texts as keys", key))
            if key in mapping:
                again = f"it again in line {key_node.start_mark.line + 1}"
                raise params_error(file, Complaint((*loc, key), f"expected the key once, found {again}"))
            mapping[key] = _plain(value_node, file, (*loc, key))
        return mapping
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return tuple(_plain(item, file, (*loc, i)) for i, item in enumerate(content))
    if isinstance(node, yaml.ScalarNode) and kind == "str":
        return content
    if not (isinstance(node, yaml.ScalarNode) and kind in _CORE_SCHEMA and _CORE_SCHEMA[kind].match(content)):
        raise params_error(file, Complaint(loc, f"expected a plain value, found the tag {node.tag[:60]!r}"))
    match kind:
        case "null":
            return None
        case "bool":
            return content.lower() == "true"
        case "float":
            return float(content.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if len(content.lstrip("+-0xo")) > 18:
        found = f"{content[:24]}..."
        raise params_error(file, Complaint(loc, f"expected an integer of at most 18 digits, found {found}"))
    return int(content, {"0x": 16, "0o": 8}.get(content[:2], 10))
