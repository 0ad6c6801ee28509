import copy
import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bnas import family
from bnas.data import Augmentation, DataError, Split
from bnas.family import FamilyData, Job, Recipe, train_family, train_network
from bnas.results import read_epochs, read_predictions
from bnas.space import Gene, Genotype
from bnas.train import calibrate, predict
from tests.bnas import tiny

CPU = torch.device("cpu")
RECIPE = Recipe(
    seed=3,
    epochs=2,
    batch_size=8,
    learning_rate=0.01,
    final_learning_rate=0.0,
    weight_decay=0.0,
    drop_path=0.2,
    label_smoothing=0.1,
)
GENOTYPES = {
    "a": tiny.everywhere("bin_conv_3x3"),
    "b": tiny.everywhere("max_pool_3x3"),
    "c": tiny.genotypes(1, seed=5)[0],
    "old": tiny.genotypes(1, seed=6)[0],
}
FILES = {"weights.safetensors", "curve.json", "predictions.csv", "seconds.json"}
TEST = tiny.split(21, seed=2)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for name, part in (("train", tiny.split(24)), ("validation", tiny.split(16, seed=1)), ("test", TEST)):
        tiny.write_split(folder / name, part)
    return FamilyData(folder, tiny.MEAN, tiny.STD, Augmentation(1, False))


def job(name, folder, **changes):
    return Job(name, replace(tiny.CONFIG, **changes), GENOTYPES[name], folder / name)


class Trained(NamedTuple):
    """What two processes left behind: the folder, the reported epochs, and whether they ended."""

    folder: Path
    heard: list[tuple[str, int]]
    ended: bool


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Three networks trained; a fourth was finished before; a last job fails while a long one is running.

    Another job for the third network stands for an experiment that trains the same one at the same time.
    """
    torch.set_num_threads(1)
    folder, heard = tmp_path_factory.mktemp("networks"), []
    (folder / "old").mkdir()
    (folder / "old" / "file").write_text("finished earlier")
    unknown = ((Gene(0, "no such operation"), Gene(1, "no such operation")),) * tiny.SPACE.nodes
    jobs = [
        job("old", folder),
        *(job(name, folder) for name in "abc"),
        replace(job("c", folder), name="again"),
        Job("long", replace(tiny.CONFIG, cells=45, channels=48), GENOTYPES["a"], folder / "long"),
        Job("bad", tiny.CONFIG, Genotype(unknown, unknown), folder / "bad"),
    ]
    try:
        with pytest.raises(KeyError, match="no such operation"):
            train_family(
                jobs,
                RECIPE,
                data,
                device=CPU,
                workers=2,
                on_epoch=lambda name, record: heard.append((name, record.epoch)),
            )
        deadline = time.monotonic() + 10
        while multiprocessing.active_children() and time.monotonic() < deadline:
            time.sleep(0.05)
        return Trained(folder, heard, not multiprocessing.active_children())
    finally:
        for process in multiprocessing.active_children():
            process.kill()


def here(data, name="a", recipe=RECIPE, on_epoch=lambda record: None):
    """A network trained in this process: itself, its curve and its predictions."""
    return train_network(tiny.CONFIG, GENOTYPES[name], recipe, data, CPU, on_epoch)


@pytest.fixture(scope="module")
def once(data):
    torch.set_num_threads(1)
    return here(data)


# ---- Several side by side ----


def test_finished_networks_have_whole_folders_and_nothing_else_is_left(trained):
    assert {path.name for path in trained.folder.iterdir()} == {"a", "b", "c", "old"}
    for name in "abc":
        assert {path.name for path in (trained.folder / name).iterdir()} == FILES


def test_a_failing_job_ends_the_others(trained):
    assert trained.ended
    assert ("long", RECIPE.epochs) not in trained.heard


def test_results_do_not_depend_on_processes_or_the_order_of_jobs(trained, data, tmp_path):
    folder = trained.folder
    for name in "cab":
        network, curve, predictions = here(data, name)
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / name)
        assert (folder / name / "weights.safetensors").read_bytes() == (tmp_path / name).read_bytes()
        assert read_epochs(folder / name / "curve.json") == tuple(curve)
        assert (folder / name / "predictions.csv").read_text() == predictions.to_csv()
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 3


def test_a_network_that_is_there_is_not_trained_again(trained):
    assert [path.name for path in (trained.folder / "old").iterdir()] == ["file"]
    assert "old" not in {name for name, _ in trained.heard}


def test_epochs_are_reported_by_name_and_in_order(trained):
    assert trained.heard
    for name in {name for name, _ in trained.heard}:
        epochs = [epoch for other, epoch in trained.heard if other == name]
        assert epochs == list(range(1, len(epochs) + 1))
        assert len(epochs) <= RECIPE.epochs


def test_seconds_are_kept_beside_the_network(trained):
    for name in "abc":
        assert 0 <= json.loads((trained.folder / name / "seconds.json").read_text()) < 600


def test_nothing_to_do_changes_nothing(trained, data):
    folder = trained.folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    train_family([job(name, folder) for name in "abc"], RECIPE, data, device=CPU, workers=2)
    train_family([], RECIPE, data, device=CPU, workers=2)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# ---- One network ----


def test_data_too_small_for_a_mini_batch_are_refused(data):
    with pytest.raises(DataError, match=r"retrain\.batch_size: expected at most the 40 .* found 1000"):
        here(data, recipe=replace(RECIPE, batch_size=1000))


def test_predictions_are_the_networks_answers_in_the_order_of_the_test_split(trained, once):
    network, _, predictions = once
    assert predictions.labels.tolist() == TEST.labels.tolist()
    answers = predict(network, TEST, tiny.NORMALISE, 4)
    assert predictions.predictions.tolist() == answers.tolist()
    assert len(set(answers.tolist())) > 1
    saved = read_predictions(trained.folder / "a" / "predictions.csv")
    assert saved.predictions.tolist() == answers.tolist()
    assert saved.labels.tolist() == TEST.labels.tolist()


def test_statistics_are_those_of_the_training_images_as_they_are(data, once):
    network = copy.deepcopy(once[0])
    learnt = Split.open(data.prepared / "train").joined(Split.open(data.prepared / "validation"))
    calibrate(network, tiny.NORMALISE(torch.from_numpy(learnt.images)))
    # Behind a sign, the order of a sum could decide; the stem has none before it.
    for name in ("stem.1.running_mean", "stem.1.running_var"):
        torch.testing.assert_close(once[0].get_buffer(name), network.get_buffer(name))


def test_test_split_is_opened_once_after_the_last_epoch(data, monkeypatch):
    events = []

    class Watched(Split):
        @classmethod
        def open(cls, folder):
            events.append(folder.name)
            return Split.open(folder)

    monkeypatch.setattr(family, "Split", Watched)
    here(data, on_epoch=lambda record: events.append(record.epoch))
    assert events == ["train", "validation", 1, 2, "test"]


def other_split(data, folder, name, part):
    """The prepared data with another content of one split."""
    for each in ("train", "validation", "test"):
        source = part if each == name else Split.open(data.prepared / each)
        tiny.write_split(folder / each, source)
    return replace(data, prepared=folder)


def test_test_images_do_not_influence_the_network_but_train_and_validation_do(data, once, tmp_path):
    network, curve, predictions = once
    inverted = Split(255 - np.asarray(TEST.images), TEST.labels[::-1].copy())
    again, same, answers = here(other_split(data, tmp_path / "test", "test", inverted))
    assert tiny.same_weights(network, again)
    assert curve == same
    assert answers.predictions.tolist() != predictions.predictions.tolist()
    for name, count in (("train", 24), ("validation", 16)):
        changed = other_split(data, tmp_path / name, name, tiny.split(count, seed=9))
        assert not tiny.same_weights(network, here(changed)[0]), name


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"drop_path": 0.0},
        {"label_smoothing": 0.0},
        {"weight_decay": 0.1},
        {"final_learning_rate": 0.01},
    ],
)
def test_every_part_of_the_recipe_counts(data, once, change):
    assert not tiny.same_weights(once[0], here(data, recipe=replace(RECIPE, **change))[0])


def test_training_neither_uses_nor_changes_the_global_generator(data, once):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    again, _, _ = here(data)
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny.same_weights(once[0], again)
