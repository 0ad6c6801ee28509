"""A YAML file as plain values, read as `dvc exp run -S` writes it: YAML 1.2's core schema.

PyYAML by itself reads 1e-05 as text, 010 as 8 and `on` as true. Every problem is a ParamsError of one line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

Loc = tuple[int | str, ...]
"""Where in a file: keys and list indices, outermost first."""


class ParamsError(ValueError):
    """A file that cannot be used; its text is one line: file, key path, what was expected, what was found."""


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

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="an alias, which is not supported", problem_mark=mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern in _CORE_SCHEMA.items():
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, None)


def read_yaml(file: Path) -> Any:
    """The content of a YAML file: dicts with text keys, tuples and scalars; None for an empty file."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise params_error(file, (), "a readable file", error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise params_error(file, (), "text in UTF-8", f"byte 0x{error.object[error.start]:02x}") from None
    line = 0
    try:
        node = yaml.compose(text, _Loader)
        return None if node is None else _plain(node, file, ())
    except ParamsError:
        raise
    except yaml.MarkedYAMLError as error:
        found = str(error.problem)
        line = error.problem_mark.line + 1 if error.problem_mark else 0
    except yaml.reader.ReaderError as error:
        found = f"the character 0x{error.character:02x}"
        line = text.count("\n", 0, error.position) + 1
    except RecursionError:
        found = "too many levels"
    except (ValueError, OverflowError) as error:  # of chr(), for "\UFFFFFFFF"
        found = str(error)
    where = f"{file}, line {line}" if line else str(file)
    raise ParamsError(f"{where}: expected valid YAML, found an error ({' '.join(found.split())})")


def _plain(node: yaml.Node, file: Path, loc: Loc) -> Any:
    """The node as a value; refuses a key given twice or that is no text, a foreign tag, a huge integer."""
    kind, text = node.tag.removeprefix(_TAG), node.value
    if isinstance(node, yaml.MappingNode) and kind == "map":
        mapping: dict[str, Any] = {}
        for key_node, value_node in text:
            key = _plain(key_node, file, loc)
            if not isinstance(key, str):
                raise params_error(file, loc, "texts as keys", found_text(key))
            if key in mapping:
                again = f"it again in line {key_node.start_mark.line + 1}"
                raise params_error(file, (*loc, key), "the key once", again)
            mapping[key] = _plain(value_node, file, (*loc, key))
        return mapping
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return tuple(_plain(item, file, (*loc, i)) for i, item in enumerate(text))
    if isinstance(node, yaml.ScalarNode) and kind == "str":
        return text
    if not (isinstance(node, yaml.ScalarNode) and kind in _CORE_SCHEMA and _CORE_SCHEMA[kind].match(text)):
        raise params_error(file, loc, "a plain value", f"the tag {node.tag[:60]!r}")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if len(text.lstrip("+-0xo")) > 18:
        raise params_error(file, loc, "an integer of at most 18 digits", f"{text[:24]}...")
    return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))


def key_path(loc: Loc) -> str:
    """The full key of a place in a file: `stage1.evaluation.batches`, `space.operations[2]`."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += "." * bool(text) + (step if re.fullmatch(r"[\w-]+", step) else repr(step))
    return text if len(text) <= 200 else f"{text[:200]}..."


def params_error(file: Path, loc: Loc, expected: str, found: str) -> ParamsError:
    """The one line that says where something else was found than expected."""
    where = f"{file}: {key_path(loc)}" if loc else str(file)
    return ParamsError(f"{where}: expected {expected}, found {found}")


def found_text(value: object) -> str:
    """A value as messages show it, cut to a readable length."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:60]!r}..."
        case dict():
            return "keys below it"
        case tuple():
            return "a list"
        case _:
            return repr(value)
