"""Whole runs through real `dvc`: equal clones, experiments, stages that fail."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from copy import copy
from pathlib import Path

import yaml

from tests import experiments_table
from tests.chaos import contents, interrupt
from tests.experiments_table import columns
from tests.imports import ROOT
from tests.pipeline.workspace import STAGES, Workspace

METRICS = (
    "hypervolume",
    "hypervolume_random",
    "margin_low",
    "margin_high",
    "hv_others",
    "gain",
    "best_error",
    "smallest_kib",
    "tau",
    "evaluations",
    "seconds",
)


def test_two_clones_end_with_equal_files(finished: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path, finished.commands)
    other.set("runtime.workers", 2)
    for stage in STAGES:  # without DVC, which has no part in the files
        other.run("python", "-m", f"pipeline.{stage}")
    ours, theirs = contents(finished.folder), contents(other.folder)
    assert ours.keys() == theirs.keys()
    assert "data/retrain/front-1/weights.safetensors" in ours
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_a_digit_changed_in_an_output_is_noticed_and_put_right(finished: Workspace) -> None:
    path = finished.folder / "data/search/front.json"
    text = path.read_text()
    path.write_text(text.replace('"params": ', '"params": 1', 1))
    assert finished.repro() == []
    assert path.read_text() == text


def test_experiments_in_folders_of_their_own_are_listed_with_their_metrics(finished: Workspace) -> None:
    # As queued ones run, but without the queue's daemons, which are DVC's affair; and DVC locks two that start at once.
    # They have names, for the width of the table is that of the names that DVC draws, too.
    changes = {"retrain.seed=1": ["retrain", "export", "report"], "report.size_bins=5": ["report"]}
    for name, (change, stages) in zip(("other-seed", "other-bins"), changes.items(), strict=True):
        done = finished.run("dvc", "exp", "run", "--temp", "--name", name, "-S", change)
        assert Workspace.ran(done.stdout) == stages
    shown = json.loads(finished.run("dvc", "exp", "show", "--json").stdout)
    found = {}
    for entry in shown:
        for experiment in entry["experiments"] or []:
            data = experiment["revs"][0]["data"]
            # The transfer, a pipeline of its own, was not run here.
            files = {name: file for name, file in data["metrics"].items() if not name.startswith("transfer/")}
            metrics = {k: v for file in files.values() for k, v in file["data"].items()}
            found[data["params"]["params.yaml"]["data"]["retrain"]["seed"]] = metrics
    assert sorted(found) == [0, 1]
    for metrics in found.values():
        assert set(METRICS) == {*metrics, "tau"}, "it is undefined where errors of so small networks are equal"
    listed = experiments_table.listed(finished)
    assert columns(listed)[:-2] == columns(experiments_table.table())[:-1]
    assert set(columns(listed)[-2:]) == {"retrain.seed", "report.size_bins"}
    assert max(map(len, listed.splitlines())) <= 160
    assert shlex.join(experiments_table.command()) in (ROOT / "Makefile").read_text()
    names = finished.run("dvc", "exp", "list", "--name-only").stdout.split()
    compared = finished.run("python", "-m", "pipeline.compare", *names).stdout
    assert "retrain.seed" in compared
    assert "report.size_bins" in compared
    assert "Not found" not in compared
    finished.run("dvc", "exp", "apply", names[0])
    finished.git("checkout", "-q", ".")
    finished.run("dvc", "checkout")


def test_results_are_restored_where_nobody_has_run_the_transfer_that_is_recorded(finished: Workspace) -> None:
    front = finished.folder / "data/search/front.json"
    found = front.read_bytes()
    shutil.rmtree(front.parent)
    assert (finished.folder / "pipeline/transfer/dvc.lock").exists()
    assert not (finished.folder / "transfer/data").exists()
    finished.run("dvc", "checkout")
    assert front.read_bytes() == found


def test_dvc_fills_the_templates_of_its_own_plots(finished: Workspace) -> None:
    shown = json.loads(finished.run("dvc", "plots", "show", "--json").stdout)["data"]
    for name in ("pareto", "losses", "confusion"):
        (plot,) = shown[f"reports/plots/{name}.json"]
        assert plot["content"]["data"]["values"], name
        assert "DVC_METRIC" not in json.dumps(plot["content"])


def test_a_failing_stage_exits_non_zero_and_leaves_nothing_for_git(finished: Workspace) -> None:
    before = finished.set("stage1.batch_size", 100_000)
    failed = finished.run("dvc", "repro", check=False)
    assert failed.returncode != 0
    line = "stage1: stage1.batch_size: expected at most the 120 images to train on, found 100000"
    assert line in (failed.stdout + failed.stderr).splitlines()
    assert not (finished.folder / "data" / "stage1").exists()
    changed = {entry.split()[-1] for entry in finished.git("status", "--porcelain").splitlines()}
    assert not {name for name in changed if name.startswith("data/")}
    finished.set("stage1.batch_size", before)
    assert finished.repro() == []


def test_an_invalid_parameter_stops_before_any_stage_writes(finished: Workspace) -> None:
    before = finished.set("report.size_bins", "many")
    failed = finished.run("dvc", "repro", check=False)
    assert failed.returncode != 0
    assert "report.size_bins" in failed.stdout + failed.stderr
    finished.set("report.size_bins", before)
    assert finished.repro() == []


def test_a_killed_run_ends_with_equal_files(finished: Workspace) -> None:
    # The last test of this module, for it takes from DVC what a stage is restored from.
    # The retraining alone runs again: nothing that others depend on is changed by it. It starts as it does for a user,
    # in a process that has imported nothing; and who kills a warm command does not kill its fork.
    reference, cold = contents(finished.folder), copy(finished)
    cold.commands = None
    for name in (".cache", ".dvc/cache/runs"):
        shutil.rmtree(finished.folder / name, ignore_errors=True)
    lock = yaml.safe_load((finished.folder / "dvc.lock").read_text())
    del lock["stages"]["retrain"]
    (finished.folder / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    kill = interrupt(cold, 1, 1.5, signal.SIGKILL)
    assert kill is not None
    assert kill.stage == "retrain"
    assert not (finished.folder / "data/retrain").exists()
    assert cold.repro() == ["retrain"]
    assert contents(finished.folder) == reference
