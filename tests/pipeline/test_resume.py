"""Stages killed after a checkpoint, run again, and compared with runs that nothing disturbed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from bnas.checkpoint import Checkpoints, State
from pipeline import cache
from pipeline.params import load
from pipeline.stage import Stage
from tests.imports import ROOT
from tests.pipeline.workspace import tiny_params

CPU = torch.device("cpu")

KILLED = """
import os, signal, sys
import torch
from bnas import checkpoint, coevolution, evaluate
from bnas.train import count_wrong

steps, saved, after = [], [], int(sys.argv[2])
optimiser_step, save = torch.optim.Adam.step, checkpoint.Checkpoints.save

def counted(*args, **more):
    steps.append(1)
    return optimiser_step(*args, **more)

def scored(*args):
    steps.append(1)
    return count_wrong(*args)

def killed(self, state):
    save(self, state)
    saved.append(1)
    if len(saved) == after:
        os.kill(os.getpid(), signal.SIGKILL)

torch.optim.Adam.step = counted
evaluate.count_wrong = scored
checkpoint.Checkpoints.save = killed
module = __import__(f"pipeline.{sys.argv[1]}", fromlist=["run"])
from pipeline.stage import main
code = main(sys.argv[1], module.run)
print("steps", len(steps))
sys.exit(code)
"""


def params() -> str:
    """As tiny as elsewhere, but with something to stop between."""
    values = yaml.safe_load(tiny_params())
    values["stage1"] |= {"epochs": 2, "generations": 2}
    values["retrain"] |= {"count": 1, "epochs": 3, "hand_designed_channels": []}
    return yaml.safe_dump(values, sort_keys=False)


def project(folder: Path) -> Path:
    """What a stage reads of the project, with tiny parameters."""
    for name in ("bnas", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    (folder / "params.yaml").write_text(params())
    return folder


def stage(folder: Path, name: str, kill_after: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """One run of a stage, killed after so many checkpoints (0: not at all)."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "BNAS_"))} | environment
    command = [sys.executable, "-c", KILLED, name, str(kill_after)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def steps(done: subprocess.CompletedProcess[str]) -> int:
    """Optimiser steps and scored mini-batches of a run that came to its end."""
    assert done.returncode == 0, done.stderr
    found = re.search(r"^steps (\d+)$", done.stdout, flags=re.MULTILINE)
    assert found is not None
    return int(found[1])


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """All stages run once, and the steps that each took."""
    folder = project(tmp_path_factory.mktemp("undisturbed"))
    return folder, {name: steps(stage(folder, name)) for name in ("prepare", "stage1", "stage2", "search", "retrain")}


def start_again(finished: tuple[Path, dict[str, int]], folder: Path, name: str) -> Path:
    """A copy of the finished run as it was before a stage ran."""
    shutil.copytree(finished[0], folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "data" / name)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return folder


@pytest.mark.parametrize(("name", "kills"), [("stage1", [1, 2]), ("stage2", [1]), ("search", [2])])
def test_a_killed_stage_ends_with_the_same_files_and_less_work(
    finished: tuple[Path, dict[str, int]], tmp_path: Path, name: str, kills: list[int]
) -> None:
    folder = start_again(finished, tmp_path, name)
    for after in kills:
        assert stage(folder, name, after).returncode == -9
        assert list((folder / ".cache/checkpoints").glob(f"{name}-*/checkpoint-*"))
        assert not (folder / "data" / name).exists()
    assert steps(stage(folder, name)) < finished[1][name]
    assert contents(folder / "data" / name) == contents(finished[0] / "data" / name)
    assert not list((folder / ".cache/checkpoints").iterdir()), "checkpoints go when a stage has finished"
    assert not list((folder / "data").glob(".partial*"))


def test_a_killed_retraining_goes_on_by_epoch(finished: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    # Networks are trained in processes of their own: kill the stage once one of them has saved an epoch.
    folder = start_again(finished, tmp_path, "retrain")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "BNAS_"))}
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline.retrain"], cwd=folder, env=env, start_new_session=True
    ) as process:
        while process.poll() is None and not list((folder / ".cache/checkpoints").glob("network-*/checkpoint-*")):
            time.sleep(0.01)
        process.kill()  # the stage alone: its workers notice
    for lock in (folder / ".cache/checkpoints").glob("network-*.lock"):
        with cache.lock(lock, "a worker that outlives its stage", wait=True):
            pass
    unfinished = [path for path in (folder / ".cache/checkpoints").glob("network-*") if path.is_dir()]
    done = {path.name.removeprefix("network-"): Checkpoints(path, "").count for path in unfinished}
    assert done
    again = stage(folder, "retrain")
    assert again.returncode == 0, again.stderr
    assert contents(folder / "data/retrain") == contents(finished[0] / "data/retrain")


def test_a_spoilt_checkpoint_is_named_in_one_line_and_the_previous_used(
    finished: tuple[Path, dict[str, int]], tmp_path: Path
) -> None:
    folder = start_again(finished, tmp_path, "stage1")
    assert stage(folder, "stage1", 3).returncode == -9
    newest = max((folder / ".cache/checkpoints").glob("stage1-*/checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:1000])
    done = stage(folder, "stage1")
    assert 0 < steps(done) < finished[1]["stage1"]
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(rf"warning: .*{newest.name}: expected a whole checkpoint, found .*; passed over", line)
    assert contents(folder / "data/stage1") == contents(finished[0] / "data/stage1")


def test_no_resume_starts_over(finished: tuple[Path, dict[str, int]], tmp_path: Path) -> None:
    folder = start_again(finished, tmp_path, "stage1")
    assert stage(folder, "stage1", 3).returncode == -9
    assert steps(stage(folder, "stage1", BNAS_NO_RESUME="1")) == finished[1]["stage1"]
    assert contents(folder / "data/stage1") == contents(finished[0] / "data/stage1")


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
    "code": lambda folder: append(folder / "bnas/evolve.py", b"\n# a comment\n"),
}
NO_CHANGES = {
    "a parameter of a later stage": lambda folder: set_parameter(folder, "retrain", "epochs", 50),
    "workers": lambda folder: set_parameter(folder, "runtime", "workers", 7),
    "code of a later stage": lambda folder: append(folder / "bnas/family.py", b"\n# a comment\n"),
    "a comment in the parameters": lambda folder: append(folder / "params.yaml", b"\n# a comment\n"),
}


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
