"""Which stages run again after which change: the committed dvc.yaml, real `dvc repro`, tiny parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.workspace import STAGES, Workspace

AFTER = {name: list(STAGES[i:]) for i, name in enumerate(STAGES)}

CHANGES = [
    ("runtime.workers", 2, []),
    ("report.size_bins", 5, AFTER["report"]),
    ("retrain.epochs", 2, AFTER["retrain"]),
    ("search.seed", 1, AFTER["search"]),
    ("stage2.learning_rate", 0.002, AFTER["stage2"]),
    ("stage1.learning_rate", 0.002, AFTER["stage1"]),
    ("data.seed", 1, AFTER["prepare"]),
]
# All stages but the first declare these: it is enough to see what would run.
ONLY_SEEN = [
    ("objectives.margin", 1.5),
    ("space.sampling", "uniform"),
    ("network.sign", "ste"),
    ("objectives.resource", "ops"),
]


def test_nothing_changed_runs_nothing(finished: Workspace) -> None:
    assert finished.repro() == []


@pytest.mark.parametrize(("key", "value", "stages"), CHANGES, ids=[key for key, _, _ in CHANGES])
def test_a_parameter_runs_its_stages_and_put_back_none(
    finished: Workspace, key: str, value: object, stages: list[str]
) -> None:
    before = finished.set(key, value)
    try:
        run = finished.repro()
    finally:
        finished.set(key, before)
    if key.startswith(("retrain.", "data.")):  # they change every network
        assert run == stages
    assert without_export(run) == without_export(stages)
    assert run == [stage for stage in stages if stage in run]
    assert finished.repro() == []
    assert finished.git("status", "--porcelain") == "", "what was put back differs from what was there"


def without_export(stages: list[str]) -> list[str]:
    """The stages whose own parameters changed: `export` runs if the networks differ, which in so small a space
    another search may not bring about, and which a dry run cannot know."""
    return [stage for stage in stages if stage != "export"]


@pytest.mark.parametrize(("key", "value"), ONLY_SEEN, ids=[key for key, _ in ONLY_SEEN])
def test_what_the_search_looks_for_runs_all_but_prepare(finished: Workspace, key: str, value: object) -> None:
    before = finished.set(key, value)
    try:
        would_run = finished.repro("--dry")
    finally:
        finished.set(key, before)
    assert without_export(would_run) == without_export(AFTER["latency_table"])
    assert finished.repro("--dry") == []


def test_another_file_in_the_data_sets_folder_runs_prepare_and_no_further(finished: Workspace) -> None:
    file = finished.folder / "data/raw/mnist5k/found.png"
    file.write_bytes(b"not read for this data set")
    try:
        assert finished.repro() == ["prepare"], "equal outputs must stop the chain"
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


def test_a_comment_in_params_runs_nothing(finished: Workspace) -> None:
    path = finished.folder / "params.yaml"
    text = path.read_text()
    path.write_text("# a comment\n" + text)
    assert finished.repro() == []
    path.write_text(text)


def test_a_comment_in_code_runs_its_importers_and_no_further(finished: Workspace) -> None:
    path: Path = finished.folder / "bnas" / "evolve.py"
    path.write_text(path.read_text() + "\n# a comment\n")
    assert finished.repro() == ["stage1", "stage2", "search", "retrain"], "equal outputs must stop the chain"
    changed = {line.split()[-1] for line in finished.git("status", "--porcelain").splitlines()}
    assert {name for name in changed if not name.startswith("reports/times/")} == {"bnas/evolve.py", "dvc.lock"}
