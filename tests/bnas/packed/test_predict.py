"""`bnas predict` and predictions without torch: the network's own answers, whatever the picture's neighbours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnas import packed
from bnas.cli import main
from bnas.data.picture import read_image
from bnas.space.network_config import NetworkConfig
from tests.bnas.packed import builders

SIZE = (9, 7)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("export") / "colour.bnn"
    path.write_bytes(builders.content(NetworkConfig(3, 3, 4, 3), size=SIZE, seed=1))
    return path


@pytest.fixture
def run(capsys):
    """Runs `bnas predict`: (exit status, output, lines on stderr)."""

    def call(*argv: object) -> tuple[int, str, list[str]]:
        status = main(["predict", *map(str, argv)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return call


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of pictures of different sizes and colours, one of them in a folder of its own."""
    found = tmp_path_factory.mktemp("pictures")
    (found / "more").mkdir()
    rng = np.random.default_rng(0)
    for name, shape in {"a.png": (9, 7, 3), "b.jpg": (40, 30, 3), "c.png": (12, 12), "more/d.png": (9, 7, 4)}.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(found / name)
    return found


def answers(run, *argv: object) -> list[dict]:
    status, out, errors = run(*argv, "--json")
    assert (status, errors) == (0, [])
    return json.loads(out)


def test_a_prediction_is_the_networks_own(run, model, pictures):
    network = packed.load(model, 1)
    rows = answers(run, model, pictures)
    names = ("a.png", "b.jpg", "c.png", "more/d.png")
    assert [row["image"] for row in rows] == [str(pictures / name) for name in names]
    for row in rows:
        pixels = read_image(Path(row["image"]), *SIZE, 3).transpose(2, 0, 1)
        logits = network(pixels[None])[0].astype(float)
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert list(row["probabilities"]) == list(builders.CLASSES)
        np.testing.assert_allclose(list(row["probabilities"].values()), shares, atol=1e-6)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["class"] == builders.CLASSES[int(logits.argmax())]
        assert row["probability"] == max(row["probabilities"].values())


def test_a_picture_is_answered_alone_as_among_others(run, model, pictures):
    together = answers(run, model, pictures)
    alone = [answers(run, model, row["image"])[0] for row in together]
    assert alone == together


def test_a_prediction_is_printed_as_a_table(run, model, pictures):
    status, out, errors = run(model, pictures / "a.png", pictures / "more")
    assert (status, errors) == (0, [])
    expected = answers(run, model, pictures / "a.png", pictures / "more")
    assert [line.split() for line in out.splitlines()[2:]] == [
        [row["image"], row["class"], f"{row['probability']:.3f}"] for row in expected
    ]


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_a_bad_picture_among_good_ones_is_reported_and_does_not_stop_the_rest(run, model, pictures, tmp_path, form):
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    missing = tmp_path / "missing.png"
    status, out, errors = run(model, pictures / "a.png", bad, missing, pictures / "c.png", *form)
    assert status == 1
    assert len(errors) == 2
    assert str(bad) in errors[0]
    assert str(missing) in errors[1]
    images = [row["image"] for row in json.loads(out)] if form else [line.split()[0] for line in out.splitlines()[2:]]
    assert images == [str(pictures / "a.png"), str(pictures / "c.png")]


def test_pictures_that_are_all_bad_print_no_table(run, model, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    assert run(model, tmp_path)[:2] == (1, "")
    status, out, _ = run(model, tmp_path, "--json")
    assert (status, json.loads(out)) == (1, [])


def test_more_pictures_than_are_read_at_once_are_all_answered(run, model, pictures, monkeypatch):
    expected = answers(run, model, pictures)
    monkeypatch.setattr("bnas.cli.IMAGES_AT_ONCE", 2)
    assert answers(run, model, pictures, pictures) == expected * 2


def test_an_empty_folder_of_pictures_is_reported_and_does_not_stop_the_rest(run, model, pictures, tmp_path):
    status, out, errors = run(model, tmp_path)
    assert (status, out, len(errors)) == (1, "", 1)
    assert "found an empty folder" in errors[0]
    status, out, errors = run(model, tmp_path, pictures / "a.png", "--json")
    assert (status, len(errors)) == (1, 1)
    assert [row["image"] for row in json.loads(out)] == [str(pictures / "a.png")]


@pytest.mark.parametrize("name", [".DS_Store", ".ipynb_checkpoints/a.png", "@eaDir/a.png", "Thumbs.db", "desktop.ini"])
def test_what_systems_leave_in_a_folder_is_counted_and_not_answered(run, model, tmp_path, name):
    (tmp_path / "in" / name).parent.mkdir(parents=True)
    Image.new("RGB", (9, 7)).save(tmp_path / "in/seen.png")
    Image.new("RGB", (9, 7)).save(tmp_path / "in" / name, "PNG")
    status, out, errors = run(model, tmp_path / "in", "--json")
    assert status == 0
    assert [row["image"] for row in json.loads(out)] == [str(tmp_path / "in/seen.png")]
    left = name.split("/")[0]
    assert errors == [f"bnas predict: {tmp_path}/in: left out what systems leave in folders: 1 {left}"]


def test_pictures_behind_a_link_to_a_folder_are_answered(run, model, pictures, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(pictures)
    (tmp_path / "in/round").symlink_to(tmp_path / "in")
    status, out, errors = run(model, tmp_path / "in", "--json")
    assert [Path(row["image"]).name for row in json.loads(out)] == ["a.png", "b.jpg", "c.png", "d.png"]
    assert (status, len(errors)) == (1, 1)
    assert "round: expected a folder, found a link to one that is looked into already" in errors[0]


def test_folders_of_links_to_each_other_are_answered_once(run, model, tmp_path):
    for name in "abcdefgh":
        (tmp_path / "in" / name).mkdir(parents=True)
    Image.new("RGB", (9, 7)).save(tmp_path / "in/a/1.png")
    for folder in (tmp_path / "in").iterdir():
        for other in "abcdefgh":
            (folder / f"to {other}").symlink_to(f"../{other}")
    _, out, errors = run(model, tmp_path / "in", "--json")
    assert [row["image"] for row in json.loads(out)] == [str(tmp_path / "in/a/1.png")]
    assert len(errors) <= 64


def test_only_regular_files_are_opened(run, model, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    status, out, errors = run(model, tmp_path)
    assert (status, out) == (1, "")
    assert errors == [f"bnas predict: {tmp_path}/pipe.jpg: expected a regular file, found a pipe, socket or device"]


# ---------------------------------------------------------------- without torch

WITHOUT = ("torch", "torchvision", "pandas", "matplotlib", "dvc", "scipy", "deap", "yaml")

BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import bnas.cli
import bnas.packed

network = bnas.packed.load(sys.argv[1])
assert network.classes == ("cat", "dog", "newt")
status = bnas.cli.main(["predict", *sys.argv[1:], "--json"])
assert not {names!r} & {{name.partition(".")[0] for name in sys.modules}}
sys.exit(status)
"""


def test_the_runtime_needs_neither_torch_nor_anything_else_of_the_pipeline(run, model, pictures):
    root = Path(__file__).parents[3]
    script = BLOCKED.format(names=set(WITHOUT))
    done = subprocess.run(
        [sys.executable, "-c", script, model, pictures], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == answers(run, model, pictures)


def test_the_blocker_blocks():
    script = BLOCKED.format(names=set(WITHOUT)).replace("import bnas.packed\n", "import bnas.packed.fold\n", 1)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert "No module named 'torch'" in done.stderr
