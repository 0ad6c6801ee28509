"""A front found on small pictures, retrained on large ones by the second pipeline: real `dvc`, tiny parameters."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bnas import cli
from bnas.records.dataset import read_dataset
from bnas.records.networks import read_networks
from bnas.records.search import read_front, read_space
from bnas.space.operations import OPERATIONS
from pipeline.params import ParamsError, UndeclaredSectionError
from pipeline.transfer import params, retrain
from tests.imports import ROOT
from tests.pipeline.conftest import project
from tests.pipeline.forks import Forks
from tests.pipeline.warm import WarmCommands
from tests.pipeline.workspace import Workspace

STAGES = ["prepare", "retrain", "export", "report"]
DVC_FILE = "pipeline/transfer/dvc.yaml"
PARAMS = "pipeline/transfer/params.yaml"
FRONT = "pipeline/transfer/front.json"


def tiny_transfer() -> dict[str, Any]:
    """The committed parameters of a transfer, shrunk; deeper and wider than the tiny search."""
    values: dict[str, Any] = yaml.safe_load((ROOT / PARAMS).read_text())
    sections = values["transfer"]
    sections["data"] |= {"name": "image_folder", "title": "large pictures", "image_size": 224}
    sections["network"]["final"] |= {"channels": 3, "cells": 4}
    sections["network"]["stem_stride"] = 8
    sections["retrain"] |= {"count": 1, "epochs": 1, "batch_size": 12, "hand_designed_channels": [2]}
    sections["retrain"] |= {"linear_baseline": True}
    sections["runtime"] |= {"device": "cpu", "threads": 1, "workers": 1}
    return values


def would_run(workspace: Workspace) -> list[str]:
    output = workspace.run("dvc", "repro", "--dry", DVC_FILE).stdout
    return re.findall(rf"^Running stage '{DVC_FILE}:(\w+)'", output, flags=re.MULTILINE)


def pictures(root: Path, classes: Sequence[str], side: int, train: int, test: int) -> None:
    """`train/<class>/*` and `test/<class>/*`: colour JPEGs, brighter from class to class."""
    rng = np.random.default_rng(side)
    for split, count in (("train", train), ("test", test)):
        for shade, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                small = rng.integers(60 * shade, 60 * shade + 80, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(small).resize((side, side)).save(folder / f"{i}.jpg")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Path:
    """The front of a tiny search on pictures of CIFAR-10's shape."""
    folder = project(tmp_path_factory.mktemp("small"))
    pictures(folder / "data/raw/image_folder", [f"class {i}" for i in range(10)], 32, 20, 2)
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["data"] |= {"name": "image_folder", "images_per_class": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for name in ("prepare", "stage1", "stage2", "search", "trial"):
        done = forks.run(folder, name)
        assert (done.code, done.err) == (0, "")
    return folder / "data/trial/front.json"


@pytest.fixture(scope="module")
def transferred(found: Path, tmp_path_factory: pytest.TempPathFactory, warm: WarmCommands) -> Workspace:
    """The transfer of that front to a few classes of pictures of ImageNet's shape, run and committed.

    On one of so few test pictures rounding may decide a sign otherwise in the packed network than in PyTorch.
    """
    workspace = Workspace(tmp_path_factory.mktemp("transfer"), warm.folder)
    pictures(workspace.folder / "data/raw/image_folder", ("cat", "dog", "owl"), 224, 12, 2)
    shutil.copy(found, workspace.folder / FRONT)
    (workspace.folder / PARAMS).write_text(yaml.safe_dump(tiny_transfer(), sort_keys=False))
    output = workspace.run("dvc", "repro", DVC_FILE).stdout
    assert re.findall(r"^Running stage '(.+)'", output, flags=re.MULTILINE) == [f"{DVC_FILE}:{s}" for s in STAGES]
    assert "Report: transfer/reports/index.html" in output
    workspace.commit()
    return workspace


def test_members_of_the_front_are_trained_at_the_transfer_s_own_scale(transferred: Workspace) -> None:
    front = read_front(transferred.folder / FRONT)
    networks = read_networks(transferred.folder / "transfer/data/retrain/networks.json")
    chosen = [network for network in networks if network.role == "front"]
    assert {n.key for n in chosen} <= {member.key for member in front.members}
    assert {(n.channels, n.cells) for n in networks if n.role != "hand"} == {(3, 4)}
    description = read_dataset(transferred.folder / "transfer/data/prepared/dataset.json")
    image = description.image
    assert (image.height, image.width, image.channels, description.classes) == (224, 224, 3, ("cat", "dog", "owl"))
    old = {member.key: member.size_bytes for member in front.members}
    assert all(network.size_bytes > old[network.key] for network in chosen)
    space = read_space(transferred.folder / "transfer/data/retrain/space.json")
    assert all(space.smallest_bytes <= n.size_bytes <= space.largest_bytes for n in networks if n.role != "hand")
    assert [n.matched for n in networks if n.role == "random"] == [n.name for n in chosen]
    assert [n.name for n in networks if n.role == "hand"] == ["hand-2"]


def test_no_supernet_is_trained_and_the_report_says_so(transferred: Workspace) -> None:
    networks = read_networks(transferred.folder / "transfer/data/retrain/networks.json")
    assert {network.supernet_error for network in networks} == {None}
    assert {path.name for path in (transferred.folder / "data").iterdir()} == {"raw"}, "the main pipeline has not run"
    report = (transferred.folder / "transfer/reports/report.md").read_text()
    page = (transferred.folder / "transfer/reports/index.html").read_text()
    for text in (report, page):
        assert "No supernet was trained on these images" in text
        assert "supernet validation error" not in text
        assert "linear classifier" in text
    assert f"`{FRONT}`" in report
    assert "τ-b" not in report + page
    assert 'id="search"' not in page
    metrics = json.loads((transferred.folder / "transfer/reports/metrics/report.json").read_text())
    assert set(metrics) == {
        "transfer_hypervolume",
        "transfer_hypervolume_random",
        "transfer_margin_low",
        "transfer_margin_high",
        "transfer_hv_others",
        "transfer_gain",
        "transfer_best_error",
        "transfer_smallest_kib",
    }


def test_every_picture_of_the_report_is_there(transferred: Workspace) -> None:
    reports = transferred.folder / "transfer/reports"
    named = {reports / target for target in re.findall(r"!\[.+?\]\((.*?)\)", (reports / "report.md").read_text(), re.S)}
    assert named == set((reports / "figures").iterdir())


def test_the_commands_read_the_transfer_s_folder(transferred: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "--run", str(transferred.folder / "transfer")]) == 0
    assert "front-1" in capsys.readouterr().out
    files = {path.stem for path in (transferred.folder / "transfer/data/export").glob("*.bnn")}
    assert files >= {"front-1", "random-1", "hand-2"}


def test_what_changed_runs_its_stages_and_no_others(transferred: Workspace) -> None:
    path = transferred.folder / PARAMS
    before = path.read_text()
    for section, key, value, stages in (
        ("runtime", "workers", 2, []),
        ("retrain", "drop_path", 0.1, ["retrain", "report"]),  # a dry run cannot know of export's
    ):
        values = yaml.safe_load(before)
        values["transfer"][section][key] = value
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        assert would_run(transferred) == stages
    path.write_text(before)
    front = transferred.folder / FRONT
    whole = front.read_text()
    front.write_text(whole.replace("\n", "\n\n", 1))
    assert would_run(transferred)[0] == "retrain"
    front.write_text(whole)
    assert transferred.git("status", "--porcelain") == ""


def test_a_front_of_other_operations_is_one_line(found: Path) -> None:
    front = read_front(found)
    used = {gene.op for member in front.members for gene in member.genotype.genes}
    (op, *_) = sorted(used)
    fewer = tuple(name for name in OPERATIONS["bnas"] if name != op)
    with pytest.raises(ValueError, match=rf"^front\.json: .*{op}.*\(see transfer\.source\.operations\)$"):
        retrain.space(front, fewer, Path("front.json"))
    narrow = dataclasses.replace(front, members=front.members[:1])
    assert retrain.space(narrow, OPERATIONS["bnas"], Path("front.json")).nodes == 1


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        (
            "retrain",
            "epoch",
            3,
            r"retrain\.epoch: expected a known key \(did you mean transfer\.retrain\.epochs",
        ),
        (
            "retrain",
            "final_learning_rate",
            1.0,
            r"transfer\.retrain\.final_learning_rate: expected a number",
        ),
        ("source", "operations", ["bin_conv_9x9"], r"transfer\.source\.operations\[0\]: expected one of skip_connect"),
        ("retrain", "published", ["nasnet"], r"retrain\.published\[0\]: expected one of ebnas, bnas"),
        ("network", "stem_stride", 3, r"transfer\.network\.stem_stride: expected one of 1, 2, 4, 8"),
        ("source", "front", "", r"transfer\.source\.front: expected a text that is not empty"),
        ("data", "validation_fraction", 0.9, r"transfer\.data\.validation_fraction: expected a number below 1"),
    ],
)
def test_a_bad_parameter_is_named_by_its_whole_key(
    tmp_path: Path, section: str, key: str, value: object, said: str
) -> None:
    values = tiny_transfer()
    values["transfer"][section][key] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError, match=said) as refusal:
        params.load(path)
    assert "\n" not in str(refusal.value)


def test_a_stage_reads_only_what_it_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", f"{DVC_FILE}:export")
    found = params.load(ROOT / PARAMS)
    assert found.sections == ("network", "runtime")
    with pytest.raises(UndeclaredSectionError, match="'retrain'"):
        _ = found.retrain
