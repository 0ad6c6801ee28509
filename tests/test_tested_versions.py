"""`constraints.txt` records what was tested, and an environment that departs from it is told in one line."""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.lower_bounds import requirements
from tests.tested_versions import FILE, PROJECT, departures, public, recorded, required

RECORD = recorded(FILE.read_text())


def test_the_record_holds_a_version_within_its_bounds_for_every_requirement() -> None:
    found = [Requirement(each) for each in requirements()]
    assert [str(each) for each in found if RECORD[canonicalize_name(each.name)] not in each.specifier] == []
    assert len(RECORD) > len(found) > 20


def test_the_record_holds_names_and_public_versions_only() -> None:
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(f"{name}=={version}" for name, version in RECORD.items())
    assert {public(version) for version in RECORD.values()} == set(RECORD.values())


def test_what_a_requirement_requires_is_recorded_too() -> None:
    assert {"numpy", "pytest", "fsspec"} <= required(PROJECT, ["test"]).keys()
    assert "pytest" not in required(PROJECT, ["pipeline"])


def test_a_departure_is_one_line_of_package_installed_and_tested_version() -> None:
    record = {"numpy": "2.4.6", "torch": "2.14.1", "fsspec": "2026.9.0", "yarl": "1.25.1"}
    assert departures(record, {"numpy": "2.4.6", "fsspec": "2026.9.0"}, ["numpy", "torch"]) == ""
    line = departures(record, {"numpy": "2.4.6", "torch": "2.9.1", "fsspec": "1", "yarl": "2"}, ["numpy", "torch"])
    assert line.startswith("Not the versions that were tested: torch 2.9.1 (tested 2.14.1), 2 more that they need. ")
    assert "\n" not in line


def test_the_same_version_from_another_place_is_no_departure() -> None:
    assert public("2.14.1+cpu") == "2.14.1"
