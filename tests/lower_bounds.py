"""The lowest versions that `pyproject.toml` allows, as constraints for pip: `make test-lower-bounds` installs them."""

from __future__ import annotations

import re
import tomllib

from tests.imports import ROOT

BOUNDS = re.compile(r"([\w.-]+)>=([\w.]+),<([\w.]+)")
CHECKERS = re.compile(r"(mypy|ruff|types-[\w.-]+|[\w.-]+-stubs)==[\w.]+")
"""What `make test` checks style and types with: exact versions, which need no constraint."""


def requirements() -> list[str]:
    """Every requirement on another project, of the base install and of all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    of_extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    return [each for each in (*project["dependencies"], *of_extras) if not each.startswith(f"{project['name']}[")]


def constraints() -> list[str]:
    """`name==lowest` for each requirement with bounds; ValueError for one without bounds that is no checker."""
    found = []
    for requirement in requirements():
        if CHECKERS.fullmatch(requirement):
            continue
        bounds = BOUNDS.fullmatch(requirement)
        if bounds is None:
            raise ValueError(f"pyproject.toml: expected name>=lowest,<limit, found {requirement}")
        found.append(f"{bounds[1]}=={bounds[2]}")
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(constraints()))
