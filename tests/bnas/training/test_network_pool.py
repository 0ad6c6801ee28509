import copy
import json
import math
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from bnas.data.batches import Augmentation, DataError
from bnas.data.picture import normalise
from bnas.data.split import Split
from bnas.nn.network import Network
from bnas.packed import fold
from bnas.packed.agreement import deviating
from bnas.packed.network import load
from bnas.packed.ties import shipped_off_ties
from bnas.records.networks import Rounded
from bnas.records.training import EpochRecord, Predictions, read_epochs, read_predictions
from bnas.space.genotype import Gene, Genotype
from bnas.space.network_config import Architecture
from bnas.storage.cache import MARK
from bnas.storage.checkpoint import Resumption, forget
from bnas.storage.weights import save_weights
from bnas.training import family as families
from bnas.training import network_pool
from bnas.training.family import Family, FamilyData, Recipe
from bnas.training.loop import TrainingError, calibrate, predict
from bnas.training.network import train_network
from bnas.training.network_pool import Job, train_family
from tests.bnas import tiny
from tests.bnas.packed import builders

CPU = torch.device("cpu")
RECIPE = Recipe(
    seed=3,
    epochs=2,
    batch_size=8,
    batch_norm_group=0,
    learning_rate=0.01,
    final_learning_rate=0.0,
    weight_decay=0.0,
    drop_path=0.2,
    label_smoothing=0.1,
    auxiliary_weight=0.0,
    mixed_precision=False,
)
GENOTYPES = {
    "a": tiny.everywhere("bin_conv_3x3"),
    "b": tiny.everywhere("max_pool_3x3"),
    "c": tiny.genotypes(1, seed=5)[0],
    "old": tiny.genotypes(1, seed=6)[0],
}
FILES = {"weights.safetensors", "curve.json", "predictions.csv", "rounded.json", "seconds.json"}
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


def job(name, folder, genotype=None, **changes):
    config = replace(tiny.CONFIG, **changes)
    return Job(name, Architecture(config, genotype or GENOTYPES[name]), folder / name, folder / "unfinished" / name)


def finish_earlier(folder, epochs=RECIPE.epochs):
    """What an earlier run may have left: a whole result, of whatever network."""
    folder.mkdir(parents=True)
    save_weights(torch.nn.Linear(2, 2), folder / "weights.safetensors")
    curve = [EpochRecord(epoch + 1, 1.0, 0.5, 0.01).to_dict() for epoch in range(epochs)]
    (folder / "curve.json").write_text(json.dumps(curve))
    (folder / "predictions.csv").write_text(Predictions(TEST.labels, TEST.labels).to_csv())
    (folder / "rounded.json").write_text("null")
    (folder / "seconds.json").write_text("1.5")


class Trained(NamedTuple):
    """What two processes left behind: the folder, the reported epochs, and whether they ended."""

    folder: Path
    heard: list[tuple[str, int]]
    ended: bool


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Three networks trained; a fourth was finished before; a last job fails while a long one is running.

    Of the second one, a first epoch was trained before. Another job for the third network stands for an experiment
    that trains the same one at the same time.
    """
    torch.set_num_threads(1)
    folder, heard = tmp_path_factory.mktemp("networks"), []
    finish_earlier(folder / "old")
    with pytest.raises(Stopped):
        here(data, "b", save=stopped_after(1, job("b", folder).unfinished()))
    unknown = ((Gene(0, "no such operation"), Gene(1, "no such operation")),) * tiny.SPACE.nodes
    jobs = [
        job("old", folder),
        *(job(name, folder) for name in "abc"),
        replace(job("c", folder), name="again"),
        job("long", folder, GENOTYPES["a"], cells=45, channels=48),
        job("bad", folder, Genotype(unknown, unknown, "elsewhere")),
    ]
    try:
        with pytest.raises(KeyError, match="no such operation"):
            train_family(
                jobs,
                Family(RECIPE, data, CPU),
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


class Stopped(BaseException):
    """The process dies."""


def stopped_after(epochs, checkpoints):
    """Keeps checkpoints until so many epochs are done, then dies."""

    def save(state):
        checkpoints.save(state)
        if len(state.plain["curve"]) == epochs:
            raise Stopped

    return save


def here(data, name="a", recipe=RECIPE, on_epoch=lambda record: None, state=None, save=forget):
    """A network trained in this process: itself, its curve and its predictions."""
    family = Family(recipe, data, CPU)
    return train_network(Architecture(tiny.CONFIG, GENOTYPES[name]), family, on_epoch, Resumption(state, save))[:3]


@pytest.fixture(scope="module")
def once(data):
    torch.set_num_threads(1)
    return here(data)


# ---- Several side by side ----


def test_finished_networks_have_whole_folders_and_nothing_else_is_left(trained):
    assert {path.name for path in trained.folder.iterdir()} == {"a", "b", "c", "old", "unfinished"}
    assert not {path.name for path in (trained.folder / "unfinished").iterdir()} & set("abc")
    for name in "abc":
        assert {path.name for path in (trained.folder / name).iterdir()} == {*FILES, MARK}


def test_a_failing_job_ends_the_others(trained):
    assert trained.ended
    assert ("long", RECIPE.epochs) not in trained.heard


def test_results_do_not_depend_on_processes_or_the_order_of_jobs(trained, data, tmp_path):
    folder = trained.folder
    for name in "cab":
        network, curve, predictions = here(data, name)
        save_weights(network, tmp_path / name)
        assert (folder / name / "weights.safetensors").read_bytes() == (tmp_path / name).read_bytes()
        assert read_epochs(folder / name / "curve.json") == tuple(curve)
        assert (folder / name / "predictions.csv").read_text() == predictions.to_csv()
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 3


def test_a_network_that_is_there_is_not_trained_again(trained):
    assert json.loads((trained.folder / "old" / "seconds.json").read_text()) == 1.5
    assert "old" not in {name for name, _ in trained.heard}


def test_epochs_are_reported_by_name_and_in_order(trained):
    assert trained.heard
    for name in {name for name, _ in trained.heard}:
        epochs = [epoch for other, epoch in trained.heard if other == name]
        first = 2 if name == "b" else 1
        assert epochs == list(range(first, first + len(epochs)))
        assert len(epochs) <= RECIPE.epochs


def test_a_training_that_a_killed_process_left_goes_on_from_its_last_epoch(trained):
    assert [epoch for name, epoch in trained.heard if name == "b"] == [2]
    assert not (trained.folder / "unfinished" / "b").exists()


def test_a_worker_ends_with_its_parent():
    ours, theirs = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(theirs)
        network_pool._end_with(ours)
    os.close(theirs)  # as when the parent dies
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 1
    os.close(ours)


def test_seconds_are_kept_beside_the_network(trained):
    for name in "abc":
        assert 0 <= json.loads((trained.folder / name / "seconds.json").read_text()) < 600


def test_nothing_to_do_changes_nothing(trained, data):
    folder = trained.folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    train_family([job(name, folder) for name in "abc"], Family(RECIPE, data, CPU), workers=2)
    train_family([], Family(RECIPE, data, CPU), workers=2)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("file", sorted(FILES))
def test_a_broken_result_is_named_and_trained_again(file, tmp_path):
    broken = job("a", tmp_path)
    finish_earlier(broken.folder)
    assert broken.is_finished(RECIPE.epochs)
    content = (broken.folder / file).read_bytes()
    (broken.folder / file).write_bytes(content[: len(content) // 2 - 1])
    with pytest.warns(UserWarning, match=rf"{file}.*; trained again"):
        assert not broken.is_finished(RECIPE.epochs)
    assert not broken.folder.exists()


def test_a_result_of_fewer_epochs_is_none(tmp_path):
    short = job("a", tmp_path)
    finish_earlier(short.folder, epochs=1)
    with pytest.warns(UserWarning, match="expected the curve of 2 epochs, found 1"):
        assert not short.is_finished(2)


# ---- One network ----


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_stopped_training_goes_on_to_the_same_network(data, once, tmp_path, epochs):
    network, curve, predictions = once
    unfinished = job("a", tmp_path).unfinished()
    with pytest.raises(Stopped):
        here(data, save=stopped_after(epochs, unfinished))
    redone = []
    state = job("a", tmp_path).unfinished().newest()
    again, same, answers = here(data, on_epoch=redone.append, state=state)
    assert tiny.same_weights(network, again)
    assert same == curve
    assert answers.predictions.tolist() == predictions.predictions.tolist()
    assert [record.epoch for record in redone] == list(range(epochs + 1, RECIPE.epochs + 1))


def test_a_loss_that_is_not_finite_is_reported_with_the_genotype_and_the_last_good_state_stays(data, monkeypatch):
    kept, recipe = [], replace(RECIPE, drop_path=0.0, label_smoothing=0.0)

    def forward(self, x, dropout=None):
        return self.run(x, self.genotype, None) * (math.nan if kept else 1)

    monkeypatch.setattr(Network, "forward", forward)
    with pytest.raises(TrainingError, match=rf"nan at step 5 \(learning rate .*\), genotype {GENOTYPES['a'].key}"):
        here(data, recipe=recipe, save=kept.append)
    (state,) = kept
    assert all(bool(torch.isfinite(value).all()) for value in state.tensors.values())


def test_data_too_small_for_a_mini_batch_are_refused(data):
    with pytest.raises(DataError, match=r"^batch_size: expected at most the 40 .* found 1000"):
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


@pytest.mark.parametrize("shipped", ["float16", "int8"])
def test_answers_are_those_of_the_file_and_what_rounding_changed_is_counted(data, tmp_path, shipped):
    config = replace(tiny.CONFIG, shipped=shipped)
    family = Family(RECIPE, data, CPU, ship=shipped_off_ties)
    network, curve, predictions, rounded = train_network(Architecture(config, GENOTYPES["a"]), family)
    before, same, _ = here(data)
    assert tiny.same_weights(network, before)  # the training knows nothing of it
    assert curve == same
    fold.save(network, tmp_path / "a.bnn", builders.card(network, (8, 8)))
    file = load(tmp_path / "a.bnn", 1)
    normalised = normalise(TEST.images, data.mean, data.std)
    decided = deviating(fold.shipped(network), file, normalised)
    assert (file(normalised).argmax(1) == predictions.predictions).sum() >= len(TEST.labels) - len(decided)
    validation = data.split("validation")
    x = torch.from_numpy(normalise(validation.images, data.mean, data.std))
    with torch.no_grad():
        answers = [each(x).argmax(1).numpy() for each in (network, fold.shipped(network))]
    wrong = [int((answer != validation.labels).sum()) for answer in answers]
    assert rounded == Rounded(len(validation.labels), int((answers[0] != answers[1]).sum()), *wrong)


def test_nothing_is_rounded_in_float32(data, once):
    family = Family(RECIPE, data, CPU, ship=shipped_off_ties)
    network, _, predictions, rounded = train_network(Architecture(tiny.CONFIG, GENOTYPES["a"]), family)
    assert rounded is None
    assert tiny.same_weights(network, once[0])
    assert predictions.to_csv() == once[2].to_csv()


def test_a_number_that_the_format_does_not_reach_is_refused_before_the_test(data, monkeypatch):
    def huge(network, inputs):
        network.classifier.bias.data[1] = 1e5

    monkeypatch.setattr("bnas.training.network.calibrate", huge)
    monkeypatch.setattr(Family, "test", lambda *_: pytest.fail("tested"))
    family = Family(RECIPE, data, CPU, ship=shipped_off_ties)
    with pytest.raises(TrainingError, match=r"^classifier: expected numbers of at most 65,504 for float16"):
        train_network(Architecture(replace(tiny.CONFIG, shipped="float16"), GENOTYPES["a"]), family)


def test_statistics_are_those_of_the_training_images_as_they_are(data, once):
    network = copy.deepcopy(once[0])
    learnt = Split.open(data.prepared / "train").joined(Split.open(data.prepared / "validation"))
    calibrate(network, tiny.NORMALISE(torch.from_numpy(learnt.images[:])))
    # Behind a sign, the order of a sum could decide; the stem has none before it.
    for name in ("stem.1.running_mean", "stem.1.running_var"):
        torch.testing.assert_close(once[0].get_buffer(name), network.get_buffer(name))


def test_test_split_is_opened_once_after_the_last_epoch(data, monkeypatch):
    events = []

    class Watched(Split):
        @classmethod
        def open(cls, folder, *where):
            events.append(folder.name)
            return Split.open(folder, *where)

    monkeypatch.setattr(families, "Split", Watched)
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
        {"auxiliary_weight": 0.4},
        {"mixed_precision": True},
        {"weight_decay": 0.1},
        {"final_learning_rate": 0.01},
    ],
)
def test_every_part_of_the_recipe_counts(data, once, change):
    assert not tiny.same_weights(once[0], here(data, recipe=replace(RECIPE, **change))[0])


def test_the_first_epochs_of_a_schedule_are_those_of_the_whole_training(data, once):
    _, curve, _ = once
    assert here(data, recipe=replace(RECIPE, epochs=1, schedule_epochs=RECIPE.epochs))[1] == curve[:1]
    assert here(data, recipe=replace(RECIPE, epochs=1))[1] != curve[:1]  # annealed to its end


def test_an_auxiliary_head_is_trained_kept_in_checkpoints_and_left_behind(data, once):
    recipe, states = replace(RECIPE, auxiliary_weight=0.4), []
    network, curve, _ = here(data, recipe=recipe, save=lambda state: states.append(copy.deepcopy(state)))
    assert network.state_dict().keys() == once[0].state_dict().keys()
    assert curve[0].loss > once[1][0].loss  # the head's is added
    first, second = (s.tensors["model.head.classifier.weight"] for s in states)
    assert not torch.equal(first, second)
    again, same, _ = here(data, recipe=recipe, state=states[0])
    assert tiny.same_weights(network, again)
    assert same == curve


def test_training_neither_uses_nor_changes_the_global_generator(data, once):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    again, _, _ = here(data)
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny.same_weights(once[0], again)
