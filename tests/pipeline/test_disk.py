"""Disks that are full or may not be written to: one clear line, and nothing half-written taken for whole."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import Searched
from tests.pipeline.forks import Forks


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("stage", "limits"),
    [("prepare", [0, 1000]), ("stage1", [0, 300, 20_000]), ("stage2", [100]), ("search", [5, 4000])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_full_disk_stops_a_stage_which_later_goes_on(
    searched: Searched, forks: Forks, tmp_path: Path, stage: str, limits: list[int]
) -> None:
    # No file may grow beyond the limit: the write fails as on a full disk, with another number.
    name = "prepared" if stage == "prepare" else stage
    folder = searched.before(name, tmp_path)
    for limit in limits:
        done = forks.run(folder, stage, file_bytes=limit)
        assert done.code == 2, (limit, done)
        (line,) = done.err.splitlines()
        assert re.match(rf"{stage}: \S+: cannot be written: ", line), line
        assert not (folder / "data" / name).exists()
        assert not list(folder.rglob("*partial*"))
    assert forks.run(folder, stage).code == 0
    assert contents(folder / "data" / name) == contents(searched.folder / "data" / name)


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that everyone may look into, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*/"):
        path.chmod(0o755)
    shutil.rmtree(folder)


def closed_to_others(path: Path) -> bool:
    """Whether a user without privileges cannot come to a folder."""
    return any(not folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


@pytest.mark.skipif(
    os.geteuid() == 0 and closed_to_others(Path(sys.prefix)),
    reason="root may write anywhere, and no other user can read this environment",
)
@pytest.mark.parametrize("place", ["data", ".cache/checkpoints", ".cache/locks"])
def test_a_folder_that_may_not_be_written_to_stops_a_stage(
    searched: Searched, forks: Forks, readable: Path, place: str
) -> None:
    folder = searched.before("stage1", readable / "project")
    for name in ("bnas", "pipeline"):
        (folder / name).unlink()
        shutil.copytree(searched.folder / name, folder / name)
    for name in (".cache/checkpoints", ".cache/locks", "reports"):
        (folder / name).mkdir(parents=True)
    for path in [folder, *folder.rglob("*/")]:
        path.chmod(0o777)
    (folder / place).chmod(0o555)
    done = forks.run(folder, "stage1", as_nobody=True)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("stage1: ")
    assert "ermission denied" in line
    assert place in line
    assert not (folder / "data/stage1").exists()
    (folder / place).chmod(0o777)
    assert forks.run(folder, "stage1", as_nobody=True).code == 0
