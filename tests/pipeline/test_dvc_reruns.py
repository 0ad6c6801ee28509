"""Which stages run again after which change: the committed dvc.yaml, real `dvc repro`, tiny parameters."""

from __future__ import annotations

import pytest
import yaml

from tests.imports import ROOT, room
from tests.pipeline.workspace import STAGES, Workspace

AFTER = {name: list(STAGES[i:]) for i, name in enumerate(STAGES)}

CHANGES = [
    ("runtime.workers", 2, []),
    ("report.size_bins", 5, AFTER["report"]),
    ("retrain.epochs", 2, AFTER["retrain"]),
    ("trial.epochs", 3, AFTER["trial"]),
    ("search.seed", 1, AFTER["search"]),
    ("stage2.learning_rate", 0.002, AFTER["stage2"]),
    ("stage1.learning_rate", 0.002, AFTER["stage1"]),
    ("objectives.margin", 1.5, AFTER["latency_table"]),
    ("space.sampling", "uniform", AFTER["latency_table"]),
    ("network.sign", "ste", AFTER["latency_table"]),
    ("data.seed", 1, AFTER["prepare"]),
]


def would_run(workspace: Workspace) -> list[str]:
    """The stages that are stale and all that depend on one of them, which run unless it writes what was there."""
    return workspace.repro("--dry", "--force-downstream")


def test_nothing_changed_runs_nothing(finished: Workspace) -> None:
    assert finished.repro() == []


@pytest.mark.parametrize(("key", "value", "stages"), CHANGES, ids=[key for key, _, _ in CHANGES])
def test_a_parameter_makes_its_stages_and_all_after_them_stale(
    finished: Workspace, key: str, value: object, stages: list[str]
) -> None:
    before = finished.set(key, value)
    try:
        assert would_run(finished) == stages
    finally:
        finished.set(key, before)


def test_a_parameter_runs_what_is_stale_and_put_back_nothing(finished: Workspace) -> None:
    # Other images change every network, so that each stage has something to do. `test_dvc_runs` runs another key.
    before = finished.set("data.seed", 1)
    try:
        assert finished.repro() == AFTER["prepare"]
    finally:
        finished.set("data.seed", before)
    assert finished.repro() == []
    assert finished.git("status", "--porcelain") == "", "what was put back differs from what was there"


def test_another_file_in_the_data_sets_folder_runs_prepare_and_no_further(finished: Workspace) -> None:
    file = finished.folder / "data/raw/mnist5k/found.png"
    file.write_bytes(b"not read for this data set")
    try:
        assert finished.repro() == ["prepare"], "equal outputs must stop the chain"
        changed = {line.split()[-1] for line in finished.git("status", "--porcelain").splitlines()}
        assert changed <= {"dvc.lock", "reports/times/prepare.json"}
    finally:
        file.unlink()
    assert finished.repro() == []
    assert finished.git("status", "--porcelain") == ""


def test_a_data_set_that_is_not_in_its_folder_ends_in_one_line_of_ours(finished: Workspace) -> None:
    (finished.folder / "data/raw/image_folder").mkdir()
    before = finished.set("data.name", "image_folder")
    try:
        done = finished.run("dvc", "repro", check=False)
    finally:
        finished.set("data.name", before)
        (finished.folder / "data/raw/image_folder").rmdir()
    assert done.returncode
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("prepare: ")]
    assert line.startswith("prepare: data/raw/image_folder: expected folders train/<class>/ and test/<class>/")
    assert finished.repro() == []
    assert finished.git("status", "--porcelain") == ""


def test_a_comment_in_params_makes_nothing_stale(finished: Workspace) -> None:
    path = finished.folder / "params.yaml"
    text = path.read_text()
    path.write_text("# a comment\n" + text)
    try:
        assert would_run(finished) == []
    finally:
        path.write_text(text)


@pytest.mark.parametrize("file", ["bnas/search/generation.py", "pipeline/stage2.py", "bnas/report/formats.py"])
def test_a_comment_in_code_makes_the_stages_stale_that_depend_on_it(finished: Workspace, file: str) -> None:
    stages = yaml.safe_load((finished.folder / "dvc.yaml").read_text())["stages"]
    expected = [name for name in STAGES if room(ROOT / file) in stages[name]["deps"]]
    assert expected
    path = finished.folder / file
    text = path.read_text()
    path.write_text(text + "\n# a comment\n")
    try:
        assert finished.repro("--dry") == expected
    finally:
        path.write_text(text)
