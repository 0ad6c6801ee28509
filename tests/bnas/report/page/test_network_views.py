import base64
import dataclasses
import io
import random
import re
import tracemalloc
from collections import Counter
from html import unescape

import numpy as np
import pytest
import yaml
from markupsafe import escape
from PIL import Image

from bnas.records.training import Predictions
from bnas.report.formats import literal
from bnas.report.network_tables import Table
from bnas.report.page.build import page_html
from bnas.report.page.mistakes import image_uri, worst_confusions, worst_of_each
from bnas.report.page.network_views import knee, picks, round_limit
from bnas.report.plot_data import confusion_rows, confusions, loss_rows
from bnas.report.story import search_story
from tests import finished_run
from tests.imports import ROOT


def networks(*points):
    """Front networks of these (KiB, wrong answers out of 400)."""
    made = finished_run.networks(finished_run.front(random.Random(0)), random.Random(0))[0]
    return [
        dataclasses.replace(made, name=f"front-{i}", size_bytes=1024.0 * kib, wrong=wrong)
        for i, (kib, wrong) in enumerate(points, 1)
    ]


def error(network):
    return network.test_error


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finished_run.write(folder)
    return finished_run.read(folder)


# Cards


def test_the_knee_is_farthest_below_the_line_between_the_ends():
    assert knee(networks((4, 100), (8, 20), (16, 15), (32, 0)), error).name == "front-2"
    assert knee(networks((4, 100), (32, 0)), error) is None
    assert knee(networks((4, 100), (8, 99), (32, 0)), error) is None, "above the line"
    assert knee(networks((4, 100), (8, 200), (16, 10), (32, 0)), error).name == "front-3", "a dominated one is none"


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


def test_confusions_count_every_answer_in_its_cell_and_no_other_cell(answers):
    slow = Counter(zip(answers.labels.tolist(), answers.predictions.tolist(), strict=True))
    assert confusions(answers) == [(actual, predicted, count) for (actual, predicted), count in sorted(slow.items())]


def test_worst_confusions_come_in_order_and_name_their_images(answers):
    found = worst_confusions(answers, 5)
    counts = [len(confusion.images) for confusion in found]
    assert counts == sorted((count for i, j, count in confusions(answers) if i != j), reverse=True)[:5]
    for confusion in found:
        assert all(answers.labels[i] == confusion.actual for i in confusion.images)
        assert all(answers.predictions[i] == confusion.predicted for i in confusion.images)


def test_who_makes_no_mistakes_has_no_worst_ones():
    labels = np.array([0, 1, 2])
    assert worst_confusions(Predictions(labels, labels), 4) == []


def test_of_each_class_the_worst_confusions_are_kept(answers):
    kept = worst_of_each(answers, 2)
    assert [count for _, _, count in kept] == sorted((count for _, _, count in kept), reverse=True)
    for label in range(4):
        counts = sorted((count for i, j, count in confusions(answers) if i == label != j), reverse=True)
        assert [count for i, _, count in kept if i == label] == counts[:2]


def test_confusions_take_memory_by_images_not_by_the_square_of_the_classes():
    rng = np.random.default_rng(0)
    answers = Predictions(rng.integers(0, 100_000, 2000), rng.integers(0, 100_000, 2000))
    tracemalloc.start()
    assert len(confusions(answers)) == 2000
    worst_of_each(answers, 3)
    worst_confusions(answers, 4)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


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
    assert all(row["images"] > 0 for row in rows)
    names = run.dataset.classes
    assert all((names[r["actual_number"]], names[r["predicted_number"]]) == (r["actual"], r["predicted"]) for r in rows)
    assert sum(row["images"] for row in rows) == finished_run.IMAGES
    wrong = sum(row["images"] for row in rows if row["actual"] != row["predicted"])
    assert {wrong} == {n.wrong for n in run.networks if n.name == rows[0]["network"]}


def test_the_template_for_dvc_finds_its_fields_in_the_confusion_rows(run):
    template = (ROOT / ".dvc/plots/confusion_counts.json").read_text()
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["report"]
    (options,) = [plot["reports/plots/confusion.json"] for plot in stage["plots"] if "confusion" in str(plot)]
    for anchor in ("x", "y"):
        template = template.replace(f"<DVC_METRIC_{anchor.upper()}>", options[anchor])
    made = {"mistakes", "rank", "rev"}  # by the template itself, and by DVC
    fields = set(re.findall(r'"field": "(\w+)"', template)) | set(re.findall(r"datum\.(\w+)", template))
    assert fields - made == {"actual", "actual_number", "predicted", "predicted_number", "images"}
    assert fields - made < set(confusion_rows(run)[0])


def test_names_of_classes_are_plain_in_the_data_for_dvc(run):
    classes = ("\x1b[2J", *run.dataset.classes[1:])
    hostile = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, classes=classes))
    names = {row["actual"] for row in confusion_rows(hostile)}
    assert r"\x1b[2J" in names
    assert "\x1b[2J" not in names


# Text that is not ours


def test_a_title_is_no_markdown_and_no_html(run):
    title = "**bold** `code` [link](http://x) <script>|</script>\n# heading \x1b[2J"
    hostile = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, title=title))
    story = search_story(hostile, 10, "", "")
    text = story.markdown("svg")
    assert not [mark for mark in ("**bold", "`code", "[link", "<script", "\x1b") if mark in text]
    assert "\n# heading" not in text
    page = page_html(hostile, story, None)
    heading = re.search("<h1>(.*)</h1>", page)[1]
    shown = title.replace("\n", r"\n").replace("\x1b", r"\x1b")
    assert unescape(heading) == f"A family of binary networks for {shown}"
    assert "<s" not in heading
    assert "\x1b" not in page
    assert f"<title>Binary networks for {escape(shown)}</title>" in page


@pytest.mark.parametrize("title", ["5,000 MNIST digits", "ImageNet (ILSVRC2012)", "Fashion-MNIST v1.2", "Bären's/猫"])
def test_a_usual_title_is_written_as_it_is(title):
    assert literal(title) == title


def test_a_table_in_markdown_has_the_cells_that_it_was_given():
    lines = Table([{"a": "x | y", "b\n": "\x1b[2J\n|"}]).markdown().splitlines()
    assert [re.split(r" *(?<!\\)\| *", line)[1:-1] for line in (lines[0], lines[2])] == [
        ["a", r"b\n"],
        [r"x \| y", r"\x1b[2J\n\|"],
    ]
