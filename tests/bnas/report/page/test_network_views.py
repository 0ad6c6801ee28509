import base64
import dataclasses
import io
import random

import numpy as np
import pytest
from PIL import Image

from bnas.records.training import Predictions
from bnas.report.analysis import confusion_matrix, confusion_rows, loss_rows
from bnas.report.page.mistakes import image_uri, worst_confusions
from bnas.report.page.network_views import knee, picks, round_limit
from tests import finished_run


def networks(*points):
    """Front networks of these (KiB, wrong answers out of 400)."""
    made = finished_run.networks(finished_run.front(random.Random(0)), random.Random(0))[0]
    return [
        dataclasses.replace(made, name=f"front-{i}", size_bytes=1024.0 * kib, wrong=wrong)
        for i, (kib, wrong) in enumerate(points, 1)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finished_run.write(folder)
    return finished_run.read(folder)


# Cards


def test_the_knee_is_farthest_below_the_line_between_the_ends():
    assert knee(networks((4, 100), (8, 20), (16, 15), (32, 0))).name == "front-2"
    assert knee(networks((4, 100), (32, 0))) is None
    assert knee(networks((4, 100), (8, 99), (32, 0))) is None, "above the line"
    assert knee(networks((4, 100), (8, 200), (16, 10), (32, 0))).name == "front-3", "a dominated one is none"


@pytest.mark.parametrize(
    ("sizes", "limit"), [((6, 38), 20), ((60, 190), 100), ((6, 51), 50), ((6, 50), 50), ((6, 9), None), ((6,), None)]
)
def test_the_round_limit_leaves_some_networks_out_and_keeps_some(sizes, limit):
    assert round_limit(networks(*((kib, 9) for kib in sizes))) == limit


def test_cards_name_each_network_once_and_smallest_first(run):
    chosen = picks(run)
    assert "smallest" in chosen[0].reasons
    assert "most accurate" in chosen[-1].reasons
    names = [pick.network.name for pick in chosen]
    assert len(set(names)) == len(names)
    sizes = [pick.network.size_bytes for pick in chosen]
    assert sizes == sorted(sizes)


# Mistakes


@pytest.fixture(scope="module")
def answers():
    rng = np.random.default_rng(3)
    return Predictions(rng.integers(0, 4, 200), rng.integers(0, 4, 200))


def test_the_confusion_matrix_counts_every_answer_in_its_cell(answers):
    slow = [[0] * 4 for _ in range(4)]
    for label, prediction in zip(answers.labels, answers.predictions, strict=True):
        slow[label][prediction] += 1
    assert confusion_matrix(answers, 4).tolist() == slow


def test_worst_confusions_come_in_order_and_name_their_images(answers):
    matrix = confusion_matrix(answers, 4)
    found = worst_confusions(answers, 4, 5)
    counts = [len(confusion.images) for confusion in found]
    assert counts == sorted((matrix[i, j] for i in range(4) for j in range(4) if i != j), reverse=True)[:5]
    for confusion in found:
        assert all(answers.labels[i] == confusion.actual for i in confusion.images)
        assert all(answers.predictions[i] == confusion.predicted for i in confusion.images)


def test_who_makes_no_mistakes_has_no_worst_ones():
    labels = np.array([0, 1, 2])
    assert worst_confusions(Predictions(labels, labels), 3, 4) == []


def picture_of(address):
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_a_small_grey_image_survives_as_it_was():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 1), dtype=np.uint8)
    assert np.array_equal(np.asarray(picture_of(image_uri(image))), image[..., 0])


def test_a_colour_image_keeps_its_colours():
    image = np.full((32, 32, 3), (200, 60, 20), dtype=np.uint8)
    assert np.abs(np.asarray(picture_of(image_uri(image)), dtype=int) - image).max() < 8


def test_a_large_image_is_reduced():
    address = image_uri(np.zeros((224, 112, 3), dtype=np.uint8))
    assert picture_of(address).size == (32, 64)


# Data of DVC's plots


def test_loss_rows_hold_every_epoch_of_every_training(run):
    rows = loss_rows(run)
    epochs = sum(map(len, run.training.values())) + sum(map(len, run.curves.values()))
    assert len(rows) == epochs
    assert {row["kind"] for row in rows} == {"supernet", "front", "random", "hand", "published"}
    assert [row["loss"] for row in rows if row["network"] == "stage 1"] == [
        round(record.loss, 6) for record in run.training["stage1"]
    ]


def test_confusion_rows_count_every_test_image_once(run):
    rows = confusion_rows(run)
    assert len(rows) == len(run.dataset.classes) ** 2
    assert sum(row["images"] for row in rows) == finished_run.IMAGES
    wrong = sum(row["images"] for row in rows if row["actual"] != row["predicted"])
    assert {wrong} == {n.wrong for n in run.networks if n.name == rows[0]["network"]}
