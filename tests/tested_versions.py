"""The versions that the tests passed with, `constraints.txt`: written from an environment, or compared with one.

The file is a record: nothing is installed by it unless somebody asks pip to (`pip install -c constraints.txt …`).
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "bnas"
FILE = Path(__file__).resolve().parent.parent / "constraints.txt"
HEAD = """\
# What the tests passed with ({where}); `make constraints` writes it from .venv.
# A record: `make install` takes what the bounds of pyproject.toml allow, and says what differs. To take these:
# {command}
"""
COMMAND = ".venv/bin/pip install -c constraints.txt -e '.[pipeline]'"


def required(project: str, extras: Iterable[str]) -> dict[str, set[str]]:
    """Name → extras of every installed distribution that a project's extras require here, directly or not."""
    found: dict[str, set[str]] = {}
    todo = [(project, frozenset(extras))]
    while todo:
        name, wanted = todo.pop()
        if name in found and wanted <= found[name]:
            continue
        found[name] = wanted | found.get(name, set())
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", *wanted)):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return found


def public(text: str) -> str:
    """A version without its local part: `2.9.1+cpu` is 2.9.1 from another place."""
    return text.partition("+")[0]


def written() -> str:
    """The constraints of this environment, which holds the extra `dev`."""
    where = f"Python {sys.version_info.major}.{sys.version_info.minor}, {platform.machine()}"
    pins = sorted(f"{name}=={public(version(name))}" for name in required(PROJECT, ["dev"]) if name != PROJECT)
    return HEAD.format(where=where, command=COMMAND) + "\n".join(pins) + "\n"


def recorded(text: str) -> dict[str, str]:
    """Name → version of a file of constraints."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))


def departures(tested: Mapping[str, str], installed: Mapping[str, str], named: Iterable[str]) -> str:
    """One line on the installed versions that are not the tested ones, of those in `named` by name ("" if all are)."""
    other = {name: found for name, found in installed.items() if tested.get(name, found) != found}
    said = [f"{name} {other.pop(name)} (tested {tested[name]})" for name in named if name in other]
    if other:
        said.append(f"{len(other)} more that they need")
    return f"Not the versions that were tested: {', '.join(said)}. To take those: {COMMAND}" if said else ""


def installed(names: Iterable[str]) -> dict[str, str]:
    """Name → version of the distributions that are here."""
    found = {}
    for name in names:
        try:
            found[name] = public(version(name))
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text(written())
    else:
        ours = sorted({canonicalize_name(Requirement(line).name) for line in distribution(PROJECT).requires or ()})
        record = recorded(FILE.read_text())
        if line := departures(record, installed(record), ours):
            print(line)
