"""`python -m pipeline.preset NAME`: write a parameters file that is known to fit a purpose, comments and all.

A preset in `pipeline/presets/` is either whole, with every comment (the default of a pipeline), or holds only what
differs from that. What is written never depends on what a file held before. A default is changed in its preset; the
parameters file that is committed is what this command writes.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from bnas.storage.complaints import Complaint, Loc, suggestion, unknown_key
from bnas.storage.files import atomic_write, read_text
from bnas.storage.terminal import Parser, printable, run_command
from pipeline.git import GitError, git
from pipeline.params import load
from pipeline.params.yaml12 import ParamsError, flat, params_error, read_yaml
from pipeline.tabular.stage import TABULAR
from pipeline.transfer.stage import TRANSFER

PRESETS = Path(__file__).with_name("presets")


@dataclass(frozen=True)
class Target:
    """A parameters file, the whole preset that is its default, and how it is validated."""

    file: Path
    default: str
    check: Callable[[Path], object]


TARGETS = (
    Target(Path("params.yaml"), "mnist5k", load),
    Target(TRANSFER.params, "mnist5k-transfer", TRANSFER.load),
    Target(TABULAR.params, "mnist5k-tabular", TABULAR.load),
)


def names() -> list[str]:
    """All presets, the defaults first."""
    defaults = [target.default for target in TARGETS]
    return [*defaults, *sorted(path.stem for path in PRESETS.glob("*.yaml") if path.stem not in defaults)]


def target_of(name: str) -> Target:
    """The file that a preset is for: the one whose sections it names. Raises ParamsError for an unknown preset."""
    if name not in names():
        raise ParamsError(f"expected a known preset ({suggestion((name,), names())[1]}), found {name!r}")
    sections = set(_mapping(_file(name)))
    return min(TARGETS, key=lambda target: len(sections - set(_mapping(_file(target.default)))))


def text_of(name: str) -> str:
    """The file's content under a preset. Raises ParamsError, one line, for a preset that does not fit or is invalid."""
    target, path = target_of(name), _file(name)
    text = read_text(_file(target.default))
    if name != target.default:
        text = _overlaid(text, path)
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / target.file.name
        probe.write_text(text, encoding="utf-8")
        try:
            target.check(probe)
        except ParamsError as error:
            raise ParamsError(str(error).replace(str(probe), str(path), 1)) from None
    return text


def _file(name: str) -> Path:
    return PRESETS / f"{name}.yaml"


def _mapping(path: Path) -> Mapping[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise params_error(path, Complaint((), "expected sections of parameters, found none"))
    return content


def _overlaid(text: str, path: Path) -> str:
    """The text of a parameters file with the values of a preset, its comments kept."""
    keeping_comments = YAML()
    keeping_comments.width = 4096  # no line is wrapped
    keeping_comments.preserve_quotes = True
    keeping_comments.indent(mapping=2, sequence=4, offset=2)
    content, written = keeping_comments.load(text), io.StringIO()
    _overlay(content, _mapping(path), path, ())
    keeping_comments.dump(content, written)
    return written.getvalue()


def _overlay(base: CommentedMap, changes: Mapping[str, Any], file: Path, loc: Loc) -> None:
    """Put the changes into the base in place; refuses a key that the base does not have."""
    for key, value in changes.items():
        here = (*loc, key)
        if key not in base:
            raise params_error(file, unknown_key(here, base)[1])
        inner = isinstance(base[key], dict)
        if inner != isinstance(value, dict):
            expected, found = ("keys below it", "a value") if inner else ("a value", "keys below it")
            raise params_error(file, Complaint(here, f"expected {expected}, found {found}"))
        if isinstance(value, dict):
            _overlay(base[key], value, file, here)
            continue
        base[key] = _like(base[key], value)
        for comment in base.ca.items.get(key, ()):
            if comment is not None and not isinstance(comment, list):
                comment.start_mark.column = 0  # one space before it, however long the value is


def _like(before: object, value: object) -> object:
    """The value; a list is written as the one it replaces, in brackets or by line."""
    if not isinstance(value, tuple):
        return value
    made = CommentedSeq(value)
    if isinstance(before, CommentedSeq) and before.fa.flow_style():
        made.fa.set_flow_style()
    return made


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """`key: old -> new` of every value that differs, in the order of the new file; then what is gone."""
    old, new = dict(flat(before)), dict(flat(after))
    lines = [
        f"{key}: {_shown(old[key]) if key in old else '(none)'} -> {_shown(value)}"
        for key, value in new.items()
        if key not in old or (type(old[key]), old[key]) != (type(value), value)
    ]
    return lines + [f"{key}: {_shown(value)} -> (none)" for key, value in old.items() if key not in new]


def _shown(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def uncommitted(file: Path) -> str:
    """Edits of the file that overwriting would lose, neither committed nor a preset's, in words ("": none)."""
    text = read_text(file)
    if any(text == text_of(name) for name in names() if target_of(name).file == file):
        return ""
    try:
        changed = git("status", "--porcelain", "--ignored", "--", file.name, folder=file.parent).strip()
    except GitError as error:  # so nothing is known to be committed
        return f"edits that git does not tell from committed ones ({error}); give --force"
    return "some; commit them, or give --force" if changed else ""


def apply(name: str, *, force: bool) -> list[str]:
    """Write the preset's file; what changed, a line each. Raises ParamsError where edits would be lost."""
    target, text = target_of(name), text_of(name)
    file = target.file
    before: Mapping[str, Any] = {}
    notes: list[str] = []
    if file.exists():
        if not force and (lost := uncommitted(file)):
            raise ParamsError(f"{file}: expected no uncommitted edits, found {lost}")
        try:
            before = _mapping(file)
        except ParamsError as error:
            notes.append(f"not readable before: {error}")
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, text)
    return [*notes, *changes(before, _mapping(file))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Apply or list presets; 2 with one line on stderr for what cannot be done."""
    return run_command("preset", lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m pipeline.preset", description="Write params.yaml from a preset.")
    parser.add_argument("name", nargs="?", help="of the preset (see --list)")
    parser.add_argument("--list", action="store_true", help="print the presets, with what they are for")
    parser.add_argument("--force", action="store_true", help="overwrite uncommitted edits of the file")
    given = parser.parse_args(arguments)
    if given.list:
        width = max(map(len, names()))
        for name in names():
            print(f"{name:{width}}  {target_of(name).file}: {_purpose(name)}")
        return 0
    if given.name is None:
        raise ParamsError(f"expected a name ({', '.join(names())}), found none")
    lines = apply(given.name, force=given.force)
    head = f"{target_of(given.name).file}: preset {given.name}, {len(lines) or 'nothing'} changed"
    print(head, *map(printable, lines), sep="\n")
    return 0


def _purpose(name: str) -> str:
    """The first comment of a preset's file."""
    if name == target_of(name).default:
        return "the default, every value of it"
    first = read_text(_file(name)).splitlines()[0]
    return first.lstrip("# ") if first.startswith("#") else ""


if __name__ == "__main__":
    sys.exit(main())
