"""Presets: the same file whatever was there, comments and all, no edit lost; each valid, and its first steps taken."""

from __future__ import annotations

import random
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bnas.data.batches import TrainingFeed
from bnas.data.split import Split
from bnas.nn.network import Supernet
from bnas.records.dataset import DatasetDescription, ImageShape, SplitCounts
from bnas.space.network_config import Architecture
from bnas.training.family import Family, FamilyData, Recipe
from bnas.training.loop import CosineRate, fit, new_training
from bnas.training.network import train_network
from pipeline import build, preset
from pipeline.config import network_config, search_space
from pipeline.params import Params, load
from pipeline.params.yaml12 import flat
from pipeline.retrain import NOT_OF_THE_RECIPE
from pipeline.transfer import params as transfer
from tests.bnas import tiny
from tests.imports import ROOT

NAMES = (
    *("mnist5k", "mnist5k-transfer", "mnist5k-tabular"),
    *("cifar10", "cifar10-cpu", "cifar10-tabular", "imagenet-transfer", "own-images"),
)
DEFAULTS = {target.default: target.file for target in preset.TARGETS}
OVERLAYS = [name for name in NAMES if name not in DEFAULTS]
SIDES = {"mnist5k": (28, 1, 10), "cifar10": (32, 3, 10), "imagenet": (224, 3, 1000)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with the default parameters, outside git."""
    for file in DEFAULTS.values():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


@pytest.fixture
def presets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the presets, to be spoilt."""
    monkeypatch.setattr(preset, "PRESETS", folder / "presets")
    shutil.copytree(ROOT / "pipeline/presets", folder / "presets")
    return folder / "presets"


def git(*arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refusal prints; nothing is written."""
    before = {file: file.read_text() for file in DEFAULTS.values()}
    assert preset.main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == ""
    assert line.startswith("preset: ")
    assert {file: file.read_text() for file in DEFAULTS.values()} == before
    return line


def test_the_presets_are_those_that_were_promised() -> None:
    assert sorted(preset.names()) == sorted(NAMES)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_whole_preset_is_the_committed_default(name: str) -> None:
    command = f"run `python -m pipeline.preset {name}` after a change of pipeline/presets/{name}.yaml"
    assert preset.text_of(name) == (ROOT / DEFAULTS[name]).read_text(), command


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_preset_changes_what_it_names_and_nothing_else(name: str, folder: Path) -> None:
    target = preset.target_of(name)
    before = dict(flat(yaml.safe_load(target.file.read_text())))
    named = dict(flat(yaml.safe_load((ROOT / f"pipeline/presets/{name}.yaml").read_text())))
    preset.apply(name, force=False)
    after = dict(flat(yaml.safe_load(target.file.read_text())))
    assert after == before | named
    assert [key for key in named if before[key] == named[key]] == [], "a preset holds only what differs"


@pytest.mark.parametrize("name", OVERLAYS)
def test_comments_stay(name: str) -> None:
    def comments(text: str) -> list[str]:
        return [line.split("# ", 1)[1] for line in text.splitlines() if "# " in line]

    assert comments(preset.text_of(name)) == comments(preset.text_of(preset.target_of(name).default))


def test_a_preset_gives_the_same_file_whatever_was_there(folder: Path) -> None:
    file = Path("params.yaml")
    preset.apply("cifar10", force=False)
    first = file.read_text()
    preset.apply("own-images", force=False)
    assert file.read_text() != first
    preset.apply("cifar10", force=False)
    assert file.read_text() == first
    file.write_text("data: [\n")
    assert preset.apply("cifar10", force=True)[0].startswith("not readable before: params.yaml, line 2")
    assert file.read_text() == first
    file.unlink()
    preset.apply("mnist5k", force=False)
    assert file.read_text() == (ROOT / file).read_text()


def test_what_changed_is_printed_and_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(flat(yaml.safe_load(Path("params.yaml").read_text())))
    assert preset.main(["cifar10"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    after = dict(flat(yaml.safe_load(Path("params.yaml").read_text())))
    assert [line.partition(": ")[0] for line in lines] == [key for key in after if before[key] != after[key]]
    assert head == f"params.yaml: preset cifar10, {len(lines)} changed"
    assert "network.final.cells: 3 -> 20" in lines
    assert "retrain.hand_designed_channels: [2, 4, 8] -> [36]" in lines
    assert preset.main(["cifar10"]) == 0
    assert capsys.readouterr().out == "params.yaml: preset cifar10, nothing changed\n"


def test_keys_that_came_or_went_are_printed_too() -> None:
    lines = preset.changes({"a": {"b": 1, "gone": True}}, {"a": {"b": 1.0, "new": ()}})
    assert lines == ["a.b: 1 -> 1.0", "a.new: (none) -> []", "a.gone: true -> (none)"]


def test_the_transfer_s_preset_leaves_params_yaml_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path("params.yaml").read_text()
    assert preset.main(["imagenet-transfer"]) == 0
    assert Path("params.yaml").read_text() == before
    assert capsys.readouterr().out.startswith("pipeline/transfer/params.yaml: preset imagenet-transfer, ")


def test_edits_that_are_not_committed_are_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "state")
    file = Path("params.yaml")
    file.write_text(file.read_text() + "# mine\n")
    assert "uncommitted edits" in refused(capsys, "cifar10")
    git("commit", "-qam", "mine")
    assert preset.main(["cifar10"]) == 0
    assert preset.main(["own-images"]) == 0, "what a preset wrote is no edit"
    file.write_text(file.read_text().replace("seed: 0", "seed: 7", 1))
    assert "uncommitted edits" in refused(capsys, "cifar10") if capsys.readouterr() else False
    assert preset.main(["cifar10", "--force"]) == 0
    assert "data.seed: 7 -> 0" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("with_git", [True, False])
def test_outside_git_only_what_a_preset_wrote_is_overwritten(
    folder: Path, with_git: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_git:
        monkeypatch.setenv("PATH", str(folder))
    assert preset.main(["cifar10"]) == 0
    capsys.readouterr()
    file = Path("params.yaml")
    file.write_text(file.read_text().replace("seed: 0", "seed: 7", 1))
    assert "uncommitted edits" in refused(capsys, "mnist5k")
    assert preset.main(["mnist5k", "--force"]) == 0


def test_a_preset_that_is_not_there_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean cifar10" in refused(capsys, "cifar-10")
    assert "mnist5k, mnist5k-transfer, mnist5k-tabular, cifar10" in refused(capsys, "../../params")
    assert "expected a name" in refused(capsys)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "stage1:\n  epoch: 5\n",
            "stage1.epoch: expected a known key (did you mean stage1.epochs?), found an unknown one",
        ),
        ("objective:\n  margin: 2\n", "objective: expected a known key (did you mean objectives?"),
        ("stage1: 5\n", "stage1: expected keys below it, found a value"),
        ("stage1:\n  epochs:\n    a: 1\n", "stage1.epochs: expected a value, found keys below it"),
        ("stage1:\n  epochs: many\n", "stage1.epochs: expected an integer"),
        ("retrain:\n  learning_rate: 0.0001\n  final_learning_rate: 0.1\n", "retrain.final_learning_rate: expected"),
        ("- 1\n", "expected sections of parameters"),
        ("stage1: [\n", "expected valid YAML"),
    ],
)
def test_a_preset_that_does_not_fit_is_one_line(
    presets: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (presets / "cifar10.yaml").write_text(text)
    line = refused(capsys, "cifar10")
    assert said in line
    assert "presets/cifar10.yaml" in line


def test_the_list_names_every_preset_with_its_file_and_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert preset.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(NAMES)
    assert all(line.split(": ", 1)[0].endswith("params.yaml") and len(line.split(": ", 1)[1]) > 20 for line in lines)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("-tabular")])  # test_tabular has steps
def test_a_preset_is_valid_and_its_first_steps_are_taken(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    path = tmp_path / "params.yaml"
    path.write_text(preset.text_of(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of more networks than a front can have
        params = load(path) if preset.target_of(name).file == Path("params.yaml") else transfer.load(path)
    side, channels, classes = SIDES.get(params.data.name) or (params.data.image_size, 3, 3)
    description = DatasetDescription(
        name, name, tuple(map(str, range(classes))), ImageShape(side, side, channels), SplitCounts(2, 2, 2),
        (0.5,) * channels, (0.25,) * channels, "0" * 16,
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, channels)).astype(np.uint8)
    for split in ("train", "validation", "test"):
        tiny.write_split(tmp_path / split, Split(images, np.array([0, 1])))
    if isinstance(params, transfer.TransferParams):
        genotype = tiny.SPACE.sample(random.Random(0))
    else:
        genotype = search_space(params).sample(random.Random(0))
        assert supernet_step(params, description, tmp_path / "train") > 0
    assert retraining_step(params, description, genotype, tmp_path) > 0


def supernet_step(params: Params, description: DatasetDescription, folder: Path) -> float:
    """The loss of one training step on two images."""
    space, device, section = search_space(params), torch.device("cpu"), params.stage1
    supernet = Supernet(network_config(params, description, params.network.supernet), space)
    genotype = space.sample(random.Random(0))
    normalise = build.normalise(description, device)
    feed = TrainingFeed(Split.open(folder), 2, normalise, build.augmentation(params))
    training = new_training(supernet, section.weight_decay, 0)
    rate = CosineRate(section.learning_rate, section.final_learning_rate, 1)
    fit(lambda x, *_: supernet(x, genotype), training, feed, rate, 1)
    return training.curve[0].loss


def retraining_step(params: Params, description: DatasetDescription, genotype: object, folder: Path) -> float:
    """The loss of one training step on the four images of both splits, and an answer to the test images."""
    given = params.retrain.model_dump(exclude=NOT_OF_THE_RECIPE)
    recipe = Recipe(**given | {"epochs": 1, "batch_size": 4})
    data = FamilyData(folder, description.mean, description.std, build.augmentation(params))
    config = network_config(params, description, params.network.final)
    _, (record,), answers, _ = train_network(Architecture(config, genotype), Family(recipe, data, torch.device("cpu")))
    assert len(answers.labels) == 2
    return record.loss
