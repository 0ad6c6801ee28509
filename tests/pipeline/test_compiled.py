from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import caching

from pipeline.stage.compiled import borrow

CODE = "from numba import njit\n\n\n@njit(cache=True)\ndef f(x):\n    return x + {}\n"


def called(project: Path) -> tuple[int, str]:
    """What a new process gets from the compiled function, and what numba says of its files."""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"NUMBA_DEBUG_CACHE": "1"}
    code = "from bnas.part.kernels import f; print('found', f(1))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.split("found ")[1].split()[0]), done.stdout


def project(folder: Path, adds: int = 1) -> Path:
    package = folder / "bnas/part"
    package.mkdir(parents=True)
    for name in ("bnas/__init__.py", "bnas/part/__init__.py"):
        (folder / name).touch()
    (package / "kernels.py").write_text(CODE.format(adds))
    return folder


@pytest.fixture
def original(tmp_path: Path) -> Path:
    found = project(tmp_path / "project")
    assert called(found)[0] == 2
    return found


@pytest.mark.skipif(not hasattr(caching, "_hash_source_file"), reason="this numba compares times, not sources")
@pytest.mark.parametrize("place", ["tmpabc", "standalone/tmpabc"])
def test_an_experiment_s_copy_compiles_nothing_that_the_project_has_compiled(original: Path, place: str) -> None:
    copy = project(original / ".dvc/tmp/exps" / place)
    borrow(copy)
    value, said = called(copy)
    assert value == 2
    assert "data loaded" in said
    assert "data saved" not in said


def test_changed_kernels_are_compiled_whatever_was_borrowed(original: Path) -> None:
    copy = project(original / ".dvc/tmp/exps/tmpabc", adds=2)
    borrow(copy)
    value, said = called(copy)
    assert value == 3
    assert "data saved" in said


def test_what_is_there_already_stays_and_a_package_that_is_not_gets_nothing(original: Path) -> None:
    copy = original / ".dvc/tmp/exps/tmpabc"
    borrow(copy)
    assert not copy.exists()
    project(copy)
    index = next(original.rglob("*.nbi"))
    kept = copy / index.relative_to(original)
    kept.parent.mkdir()
    kept.write_bytes(b"newer")
    borrow(copy)
    assert kept.read_bytes() == b"newer"


def test_a_project_of_its_own_is_left_as_it_is(original: Path, tmp_path: Path) -> None:
    other = project(tmp_path / "other")
    before = sorted(other.rglob("*"))
    borrow(other)
    borrow(original)
    assert sorted(other.rglob("*")) == before
