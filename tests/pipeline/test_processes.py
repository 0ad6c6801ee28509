"""A stage that starts itself as two ranks: killed, resumed, refused; with one line for each."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from bnas.training.ranks import LOST, START
from pipeline import processes
from tests.pipeline.conftest import Searched
from tests.pipeline.forks import Forks
from tests.pipeline.test_resume import contents


def with_ranks(searched: Searched, stage: str, folder: Path, count: int, group: int) -> Path:
    """A copy as it was before a stage ran, with so many processes."""
    folder.mkdir()
    searched.before(stage, folder)
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["runtime"]["processes"] = count
    values[stage]["batch_norm_group"] = group
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


def ranks_of(folder: Path, stage: str) -> dict[int, int]:
    """Rank → process id of a running stage."""
    launcher = int((folder / f".cache/locks/{stage}.lock").read_text())
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        environment = dict(
            line.split("=", 1) for line in Path(f"/proc/{child}/environ").read_text().split("\0") if "=" in line
        )
        found[int(environment["RANK"])] = int(child)
    return found


def after_a_checkpoint(folder: Path, stage: str, act: Callable[[dict[int, int]], None]) -> threading.Thread:
    """Does something to the ranks as soon as there is a checkpoint."""

    def watch() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            if list((folder / ".cache/checkpoints").glob(f"{stage}-*/checkpoint-*")):
                act(ranks_of(folder, stage))
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_killed_rank_ends_the_stage_with_its_number_and_the_next_run_ends_with_the_same_files(
    searched: Searched, forks: Forks, tmp_path: Path
) -> None:
    alone = with_ranks(searched, "stage1", tmp_path / "alone", 1, 30)
    assert forks.run(alone, "stage1").code == 0
    folder = with_ranks(searched, "stage1", tmp_path / "ranks", 2, 30)
    seen: dict[int, int] = {}

    def kill(ranks: dict[int, int]) -> None:
        seen.update(ranks)
        os.kill(ranks[1], signal.SIGKILL)

    watch = after_a_checkpoint(folder, "stage1", kill)
    start = time.monotonic()
    done = forks.run(folder, "stage1")
    watch.join()
    assert done.code == 1
    assert done.err == f"stage1: rank 1 (process {seen[1]}) was ended by SIGKILL\n"
    assert time.monotonic() - start < START.total_seconds(), "nobody waits for who is gone"
    assert not any(map(alive, seen.values()))
    assert not (folder / "data/stage1").exists()
    assert not list((folder / "data").glob(".partial*"))
    assert list((folder / ".cache/checkpoints").glob("stage1-*/checkpoint-*"))

    done = forks.run(folder, "stage1")
    assert (done.code, done.err) == (0, "")
    # Two sums of two ranks are those of one process in the same order: equal to the bit.
    assert contents(folder / "data/stage1") == contents(alone / "data/stage1")
    assert not list((folder / ".cache/checkpoints").glob("stage1-*/checkpoint-*"))


def test_ranks_that_share_a_trial_end_with_the_files_of_one(searched: Searched, forks: Forks, tmp_path: Path) -> None:
    folder = with_ranks(searched, "trial", tmp_path / "ranks", 2, 0)
    done = forks.run(folder, "trial")
    assert (done.code, done.err) == (0, "")
    assert contents(folder / "data/trial") == contents(searched.folder / "data/trial")


def test_a_stage_that_cannot_be_divided_says_which_parameter_to_set(
    searched: Searched, forks: Forks, tmp_path: Path
) -> None:
    folder = with_ranks(searched, "stage2", tmp_path / "ranks", 2, 0)
    done = forks.run(folder, "stage2")
    assert done.code == 2
    expected = "expected at most 30, so that each of 2 processes has images of its own to normalise, found 0"
    assert done.err == f"stage2: stage2.batch_norm_group: {expected} (the whole mini-batch)\n"


# ---- Who is to blame ----


def failure(code: int, timestamp: int = 5, message: str = "", signal_name: str = "") -> SimpleNamespace:
    data = {"message": message, "timestamp": str(timestamp)} if message else {"message": "<NONE>"}
    return SimpleNamespace(
        pid=77,
        exitcode=code,
        timestamp=timestamp,
        message=message,
        error_file_data=data,
        signal_name=lambda: signal_name,
    )


@pytest.mark.parametrize(
    ("failures", "line", "code"),
    [
        ({0: failure(LOST, 1, "another rank has ended"), 1: failure(-9, 2, signal_name="SIGKILL")}, "SIGKILL", 1),
        ({0: failure(-15, 1, signal_name="SIGTERM"), 2: failure(1, 2, "KeyError: 'x'")}, "KeyError: 'x'", 1),
        ({0: failure(2, 1, "no such file")}, "no such file", 2),
        ({1: failure(2, 1, "no such file"), 0: failure(-15, 1, signal_name="SIGTERM")}, "no such file", 2),
        ({1: failure(3)}, "ended with exit code 3", 1),
    ],
)
def test_the_rank_that_failed_by_itself_is_named(failures, line, code):  # type: ignore[no-untyped-def]
    text, found = processes.explained(failures)
    assert found == code
    assert text.endswith(line)
    blamed = next(rank for rank, each in failures.items() if each.exitcode not in (LOST, -15))
    assert re.match(rf"rank {blamed} \(process 77\)", text) or (blamed == 0 and code == 2)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 1),
        ({"NNODES": "1"}, 1),
        ({"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400"}, 2),
        ({"NNODES": "two"}, "NNODES: expected the number of hosts, found 'two'"),
        ({"NNODES": "2", "MASTER_ADDR": "x"}, "NNODES: 2 hosts need NODE_RANK, MASTER_PORT in the environment, too"),
    ],
)
def test_hosts_are_those_of_torchruns_variables(environment, expected):  # type: ignore[no-untyped-def]
    if isinstance(expected, int):
        assert processes.hosts(environment) == expected
    else:
        with pytest.raises(ValueError, match=re.escape(expected)):
            processes.hosts(environment)
