"""The table of trained networks: what is in it, and what its networks saw."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from bnas.data.batches import Augmentation
from bnas.data.npy import content_hash
from bnas.nn.cost import CostTable
from bnas.space.genotype import Genotype
from bnas.space.network_config import NetworkConfig
from bnas.space.search_space import SearchSpace
from bnas.training.family import FINISHED, TRIAL, FamilyData, Use
from pipeline.params.yaml12 import ParamsError
from pipeline.tabular.networks import EQUAL, SHORT, Training, chosen, halves, trainings, use_of
from pipeline.tabular.params import NetworksSection, load
from pipeline.tabular.stage import TABULAR
from tests.imports import ROOT
from tests.pipeline.warm import WarmCommands
from tests.pipeline.workspace import Workspace

COSTS = CostTable(NetworkConfig(1, 10, 8, 3), SearchSpace(nodes=3), (1, 28, 28))
SECTION = NetworksSection(
    seed=0, spread=6, bands_kib=(9.0, 18.0), per_band=5, repeated=4, seeds=3, schedules=(1, 3), folds=4
)


def test_networks_are_spread_over_sizes_and_equal_within_bands() -> None:
    entries = chosen(COSTS, SECTION)
    kib = {part: [COSTS.size(e.genotype) / 1024 for e in entries if e.part == part] for part in ("spread", "9", "18")}
    assert [len(sizes) for sizes in kib.values()] == [6, 5, 5]
    assert all(abs(size / 9 - 1) <= EQUAL for size in kib["9"])
    assert all(abs(size / 18 - 1) <= EQUAL for size in kib["18"])
    low, high = (size / 1024 for size in COSTS.size_range())
    places = np.sort(np.log(np.array(kib["spread"]) / low) / np.log(high / low))
    np.testing.assert_allclose(places, [1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4], atol=0.08)
    assert len({entry.genotype for entry in entries}) == 16


def test_fewer_networks_are_the_first_of_more() -> None:
    few = chosen(COSTS, SECTION)
    for changes in ({"spread": 60}, {"per_band": 60}, {"spread": 60, "per_band": 60}):
        more = chosen(COSTS, SECTION.model_copy(update=changes))
        assert set(few) < set(more), "a table that grows keeps what was trained"


def test_halves_fill_the_range_ever_finer() -> None:
    assert list(halves(7)) == [0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]


def test_too_many_networks_of_one_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"networks.bands_kib: expected 50 architectures of 90 KiB, found 0"):
        chosen(COSTS, SECTION.model_copy(update={"bands_kib": (90.0,), "per_band": 50}))


def test_every_network_is_trained_in_full_and_by_short_schedules_and_some_under_further_seeds() -> None:
    entries = chosen(COSTS, SECTION)
    plan = trainings(entries, SECTION, 10)
    assert [(training, len(them)) for training, them in plan] == [
        (Training(0, 10), 16),
        (Training(SHORT, 1), 16),
        (Training(SHORT, 3), 16),
        (Training(1, 10), 4),
        (Training(2, 10), 4),
    ]
    assert {entry.part for entry in plan[-1][1]} == {"9", "18"}


def splits(root: Path, **counts: int) -> FamilyData:
    """Splits whose every image holds its own number; `test` is not among them unless counted."""
    number = 0
    for name, count in counts.items():
        images = np.arange(number, number + count, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(4, 1).repeat(4, 2)
        labels = np.arange(count) % 2
        folder = root / name
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels)
        (folder / "sha256").write_text(content_hash([images, labels]) + "\n")
        number += count
    return FamilyData(root, (0.5,), (0.5,), Augmentation(0, False))


def test_folds_part_what_is_learnt_from_what_judges_and_every_image_judges_once(tmp_path: Path) -> None:
    data = splits(tmp_path, train=48, validation=16)
    judged: list[int] = []
    for fold in range(4):
        use = Use(("train", "validation"), "", 4, fold)
        learns, judges = use.learns(data), use.judges(data)
        seen, judging = (set(split.images[:][:, 0, 0, 0].tolist()) for split in (learns, judges))
        assert not seen & judging
        assert len(seen | judging) == 64
        assert np.bincount(judges.labels).tolist() == [8, 8]
        judged += sorted(judging)
    assert sorted(judged) == list(range(64))


def test_finished_networks_learn_both_splits_and_those_on_trial_one(tmp_path: Path) -> None:
    data = splits(tmp_path, train=8, validation=4)
    assert len(FINISHED.learns(data)) == 12
    assert len(TRIAL.learns(data)) == 8
    assert (FINISHED.judge, TRIAL.judge) == ("test", "validation")


def test_further_seeds_are_judged_by_other_folds() -> None:
    uses = [use_of(SECTION, Training(seed, 10)) for seed in (0, 1, 2)]
    assert [use.fold for use in uses] == [0, 1, 2]
    assert use_of(SECTION.model_copy(update={"folds": 1}), Training(0, 10)) == TRIAL


@pytest.mark.parametrize("folds", [2, 4, 5])
def test_short_trainings_are_judged_by_other_images_than_those_that_they_are_to_foretell(folds: int) -> None:
    section = SECTION.model_copy(update={"folds": folds})
    assert use_of(section, Training(SHORT, 1)).fold != use_of(section, Training(0, 10)).fold


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, warm: WarmCommands) -> tuple[Workspace, pd.DataFrame]:
    """A table of tiny networks, made by DVC in a workspace without a main run."""
    workspace = Workspace(tmp_path_factory.mktemp("tabular"), warm.folder)
    shutil.copytree(ROOT / "pipeline/tabular", workspace.folder / "pipeline/tabular", dirs_exist_ok=True)
    values = yaml.safe_load((ROOT / TABULAR.params).read_text())
    tabular = values["tabular"]
    tabular["data"] |= {"images_per_class": 24, "test_fraction": 0.25, "validation_fraction": 0.25}
    tabular["space"] |= {"nodes": 1}
    tabular["network"]["final"] |= {"channels": 2}
    tabular["recipe"] |= {"epochs": 2, "batch_size": 60}
    tabular["networks"] |= {"spread": 3, "bands_kib": [], "per_band": 0, "repeated": 0, "schedules": [1]}
    tabular["runtime"] |= {"device": "cpu", "workers": 1}
    (workspace.folder / TABULAR.params).write_text(yaml.safe_dump(values, sort_keys=False))
    workspace.run("dvc", "repro", "pipeline/tabular/dvc.yaml")
    return workspace, pd.read_csv(workspace.folder / "reports/tabular/mnist5k.csv")


def test_a_table_has_a_row_for_every_training(table: tuple[Workspace, pd.DataFrame]) -> None:
    rows = table[1]
    assert rows.groupby(["epochs", "seed"]).size().to_dict() == {(1, SHORT): 3, (2, 0): 3}
    assert rows["network"].nunique() == 3
    assert rows["error"].between(0, 1).all()
    assert rows["images"].tolist() == [40] * 6, "the first of four parts of 18 images of every class"
    weights = 8 * 10  # of the classifier, in 8 bits with one scale of 16 for each class
    numbers = weights + 2 * 10 + 2 * (rows["float_params"] - weights)
    assert (rows["binary_params"] / 8 + numbers).tolist() == rows["size_bytes"].tolist()
    full = rows[rows["epochs"] == 2]
    assert full.filter(like="train_").notna().all(axis=None)
    assert rows[rows["epochs"] == 1]["train_loss_2"].isna().all()
    for text, key in zip(rows["genotype"], rows["network"], strict=True):
        assert Genotype.from_json(text).key == key


def test_a_table_is_not_made_twice_and_a_larger_one_trains_what_is_new(table: tuple[Workspace, pd.DataFrame]) -> None:
    workspace, rows = table
    assert workspace.repro("pipeline/tabular/dvc.yaml") == []
    path = workspace.folder / TABULAR.params
    path.write_text(path.read_text().replace("spread: 3", "spread: 4"))
    before = set((workspace.folder / ".cache/networks").iterdir())
    workspace.run("dvc", "repro", "pipeline/tabular/dvc.yaml")
    assert len(set((workspace.folder / ".cache/networks").iterdir()) - before) == 2
    more = pd.read_csv(workspace.folder / "reports/tabular/mnist5k.csv")
    assert set(rows["network"]) < set(more["network"])


def test_rows_of_a_table_are_not_trained_again_on_another_machine(table: tuple[Workspace, pd.DataFrame]) -> None:
    workspace = table[0]
    path = workspace.folder / "reports/tabular/mnist5k.csv"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # as if interrupted
    shutil.rmtree(workspace.folder / ".cache/networks")
    workspace.run("dvc", "repro", "pipeline/tabular/dvc.yaml")
    assert [each.is_dir() for each in (workspace.folder / ".cache/networks").iterdir()] == [True], "one was lacking"
    made_again = pd.read_csv(path).drop(columns="seconds")
    pd.testing.assert_frame_equal(made_again, pd.read_csv(io.BytesIO(whole)).drop(columns="seconds"))


def test_rows_of_another_recipe_are_not_overwritten(table: tuple[Workspace, pd.DataFrame]) -> None:
    workspace = table[0]
    params, path = workspace.folder / TABULAR.params, workspace.folder / "reports/tabular/mnist5k.csv"
    before, rows = params.read_text(), path.read_bytes()
    params.write_text(before.replace("learning_rate: 0.02", "learning_rate: 0.03"))
    done = workspace.run("dvc", "repro", "pipeline/tabular/dvc.yaml", check=False)
    assert done.returncode
    assert "reports/tabular/mnist5k.csv: expected rows of these data" in done.stdout + done.stderr
    assert path.read_bytes() == rows
    params.write_text(before)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schedules: [1, 3]", "schedules: [10]", r"schedules\[0\]: expected an integer below recipe.epochs"),
        ("seeds: 2", "seeds: 5", "seeds: expected an integer of at most folds"),
        ("bands_kib: [5, 8, 13]", "bands_kib: [5, 5]", "expected each band once"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (ROOT / TABULAR.params).read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    with pytest.raises(ParamsError, match=message):
        load(tmp_path / "params.yaml")
