"""The lowest versions that `pyproject.toml` allows, as constraints for pip: `make test-lower-bounds` installs them."""

from __future__ import annotations

import re
import tomllib

from tests.imports import ROOT

BOUNDS = re.compile(r"([\w.-]+)>=([\w.]+),<([\w.]+)")


def requirements() -> list[str]:
    """Every requirement on another project, of the base install and of all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    of_extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    return [each for each in (*project["dependencies"], *of_extras) if not each.startswith(f"{project['name']}[")]


def constraints() -> list[str]:
    """`name==lowest` for each that the tests run with (stubs are for mypy); ValueError for one that lacks a bound."""
    found = []
    for requirement in requirements():
        bounds = BOUNDS.fullmatch(requirement)
        if bounds is None:
            raise ValueError(f"pyproject.toml: expected name>=lowest,<limit, found {requirement}")
        if not bounds[1].startswith("types-") and not bounds[1].endswith("-stubs"):
            found.append(f"{bounds[1]}=={bounds[2]}")
    return sorted(found)


if __name__ == "__main__":
    print("\n".join(constraints()))
