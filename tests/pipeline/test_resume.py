"""Stages killed after a checkpoint, run again, and compared with runs that nothing disturbed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from bnas.storage.checkpoint import State
from bnas.storage.lock import lock
from pipeline import cache
from pipeline.params import load
from pipeline.stage import Stage
from tests.pipeline.conftest import Searched, project
from tests.pipeline.forks import Forks

CPU = torch.device("cpu")


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("name", "kills"),
    [("stage1", [1, 2]), ("stage1", [6]), ("stage2", [1]), ("search", [1, 1]), ("search", [3]), ("trial", [1])],
)
def test_a_killed_stage_ends_with_the_same_files_and_less_work(
    searched: Searched, forks: Forks, tmp_path: Path, name: str, kills: list[int]
) -> None:
    folder = searched.before(name, tmp_path)
    for after in kills:
        assert forks.run(folder, name, after).code == -9
        assert list((folder / ".cache/checkpoints").glob("*/checkpoint-*"))
        assert not (folder / "data" / name).exists()
    done = forks.run(folder, name)
    assert (done.code, done.err) == (0, "")
    assert done.steps is not None
    assert done.steps < searched.steps[name]
    assert contents(folder / "data" / name) == contents(searched.folder / "data" / name)
    assert not list((folder / ".cache/checkpoints").iterdir()), "checkpoints go when a stage has finished"
    assert not list((folder / "data").glob(".partial*"))


def test_a_spoilt_checkpoint_is_named_in_one_line_and_the_previous_used(
    searched: Searched, forks: Forks, tmp_path: Path
) -> None:
    folder = searched.before("stage1", tmp_path)
    assert forks.run(folder, "stage1", 3).code == -9
    newest = max((folder / ".cache/checkpoints").glob("stage1-*/checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    done = forks.run(folder, "stage1")
    assert done.steps is not None
    assert 0 < done.steps < searched.steps["stage1"]
    (line,) = done.err.splitlines()
    assert re.fullmatch(rf"warning: .*{newest.name}: expected a whole checkpoint, found .*; passed over", line)
    assert contents(folder / "data/stage1") == contents(searched.folder / "data/stage1")


def test_no_resume_starts_over(searched: Searched, forks: Forks, tmp_path: Path) -> None:
    folder = searched.before("stage1", tmp_path)
    assert forks.run(folder, "stage1", 3).code == -9
    assert forks.run(folder, "stage1", BNAS_NO_RESUME="1").steps == searched.steps["stage1"]
    assert contents(folder / "data/stage1") == contents(searched.folder / "data/stage1")


def test_a_second_run_in_the_same_folder_is_refused_with_the_pid_of_the_first(
    searched: Searched, forks: Forks, tmp_path: Path
) -> None:
    folder = searched.before("stage1", tmp_path)
    with lock(folder / ".cache/locks/stage1.lock", "test"):
        (folder / "data/.partial-stage1").mkdir()
        done = forks.run(folder, "stage1")
    assert done.code == 2
    expected = f"stage1: stage stage1 is at work already in process {os.getpid()} (.cache/locks/stage1.lock is locked)"
    assert done.err.splitlines() == [expected]
    assert (folder / "data/.partial-stage1").exists(), "the first run's files are its own"


# ---- The key ----


@pytest.fixture
def keyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in the working directory with a little data."""
    for name in ("DVC_STAGE", "DVC_ROOT", "BNAS_NO_RESUME"):
        monkeypatch.delenv(name, raising=False)
    folder = project(tmp_path)
    for name in ("prepared/dataset.json", "prepared/train/images.npy", "prepared/validation/images.npy"):
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    monkeypatch.chdir(folder)
    return folder


@contextmanager
def opened(name: str = "stage1") -> Iterator[Stage]:
    """A stage as `main` hands it to its `run`."""
    found = Stage(name, load("params.yaml"), Path("unused"))
    with found.held:
        yield found


def set_parameter(folder: Path, section: str, key: str, value: object) -> None:
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values[section][key] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


CHANGES = {
    "a parameter of the stage": lambda folder: set_parameter(folder, "stage1", "weight_decay", 0.5),
    "a parameter of another section it reads": lambda folder: set_parameter(folder, "network", "sign", "ste"),
    "threads": lambda folder: set_parameter(folder, "runtime", "threads", 2),
    "data": lambda folder: append(folder / "data/prepared/train/images.npy", b"!"),
    "more data": lambda folder: (folder / "data/prepared/train/more").touch(),
    "code": lambda folder: append(folder / "bnas/search/generation.py", b"\n# a comment\n"),
}
NO_CHANGES = {
    "a parameter of a later stage": lambda folder: set_parameter(folder, "retrain", "epochs", 50),
    "workers": lambda folder: set_parameter(folder, "runtime", "workers", 7),
    "code of a later stage": lambda folder: append(folder / "bnas/report/results.py", b"\n# a comment\n"),
    "compiled code": lambda folder: compiled(folder / "bnas/search/__pycache__"),
    "a comment in the parameters": lambda folder: append(folder / "params.yaml", b"\n# a comment\n"),
}


def compiled(folder: Path) -> None:
    """Leave a file as numba does when it compiles a kernel for other types."""
    folder.mkdir(exist_ok=True)
    (folder / "kernel.1.nbc").write_bytes(b"compiled")


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_anything_else_is_never_used(keyed: Path, change: str) -> None:
    with opened() as before:
        cache.checkpoints(before, CPU).save(State({}, {"number": 1}))
    CHANGES[change](keyed)
    with opened() as after:
        assert cache.checkpoints(after, CPU).newest() is None


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_cannot_change_the_result_keeps_the_checkpoint(keyed: Path, change: str) -> None:
    with opened() as before:
        cache.checkpoints(before, CPU).save(State({}, {"number": 1}))
    NO_CHANGES[change](keyed)
    with opened() as after:
        assert cache.checkpoints(after, CPU).newest() == State({}, {"number": 1})


def test_the_key_knows_stage_device_and_library_versions(keyed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as one, opened("stage2") as other:
        keys = {cache.stage_key(one, CPU), cache.stage_key(one, torch.device("cuda")), cache.stage_key(other, CPU)}
        monkeypatch.setattr(cache, "version", lambda name: "0.0.1")
        keys.add(cache.stage_key(one, CPU))
    assert len(keys) == 4


def test_two_runs_of_one_computation_keep_their_checkpoints_apart(keyed: Path) -> None:
    # Queued experiments in their own copies share this cache.
    with opened() as one, opened() as other:
        first, second = cache.checkpoints(one, CPU), cache.checkpoints(other, CPU)
        assert first.folder != second.folder
        first.save(State({}, {"number": 1}))
        second.save(State({}, {"number": 2}))
    with opened() as later:
        assert cache.checkpoints(later, CPU).newest() is not None
