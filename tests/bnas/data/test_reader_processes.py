"""Images that stay in their files: the index, and training on it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bnas.data.augmentation import Augmentation
from bnas.data.batches import DataError, MiniBatches, TrainingFeed
from bnas.data.datasets import LOADERS
from bnas.data.labelled_images import Request
from bnas.data.picture import read_image
from bnas.data.prepare import prepare
from bnas.data.problems import ProblemsError
from bnas.data.split import Normalise, Split
from bnas.data.split_rows import Cut
from bnas.training.loop import CosineRate, fit, new_training

WNIDS = ("n01", "n02", "n03")
SIDE = 14
PLAIN = Normalise((0.0,) * 3, (1 / 255,) * 3, torch.device("cpu"))
FULL = Augmentation(1, True, 3, True, 0.4)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 + 4 pictures a class, of many sizes."""
    folder, draw = tmp_path_factory.mktemp("raw") / "imagenet", np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for wnid in WNIDS:
            (folder / split / wnid).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (draw.integers(10, 30), draw.integers(10, 30), 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / wnid / f"{wnid}_{i}.JPEG")
    return folder


def request(root: Path) -> Request:
    return Request(root, SIDE, 0, 0, 1)


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    written = prepare(LOADERS["imagenet"](request(root)), Cut(0, 0.9, 0.25, 0), out, skip=False)
    assert written.counts == {"train": 27, "validation": 9, "test": 12}
    return out


def opened(folder: Path, root: Path, name: str = "train", loader_workers: int = 0) -> Split:
    return Split.open(folder / name, root, loader_workers)


def test_nothing_is_copied_and_every_file_is_in_one_split(folder, root):
    assert {path.name for path in folder.glob("*/*")} == {"files.txt", "index.json", "labels.npy", "sha256"}
    named = [
        line.split(" ", 1)[1] for part in folder.iterdir() for line in (part / "files.txt").read_text().splitlines()
    ]
    assert sorted(named) == sorted(path.relative_to(root).as_posix() for path in root.glob("*/*/*"))
    for name in ("train", "validation", "test"):
        split = opened(folder, root, name)
        split.verify(folder / name)
        for path, label in zip(split.images.paths, split.labels, strict=True):
            assert path.split("/")[0] == ("val" if name == "test" else "train")
            assert path.split("/")[1] == WNIDS[label]


def test_pictures_to_test_on_are_scaled_to_256_of_224_and_the_middle_is_cut_out(folder, root):
    split = opened(folder, root, "test", loader_workers=2)
    assert split.images.shape == (12, SIDE, SIDE, 3)
    for i, image in enumerate(split.images[:]):
        picture = Image.open(root / split.images.paths[i])
        scale = 16 / min(picture.size)
        width, height = (max(16, round(side * scale)) for side in picture.size)
        scaled = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        top, left = (height - SIDE) // 2, (width - SIDE) // 2
        assert np.abs(image.astype(int) - scaled[top : top + SIDE, left : left + SIDE]).mean() < 30
        np.testing.assert_array_equal(image, read_image(root / split.images.paths[i], SIDE, SIDE, 3, 16))


def test_statistics_are_those_of_training_images_as_they_are_tested(root, tmp_path):
    found = LOADERS["imagenet"](request(root))
    written = prepare(found, Cut(0, 0.9, 0.25, 0), tmp_path, skip=False)
    images = opened(tmp_path, root).images[:]
    np.testing.assert_allclose(written.mean, (images / 255).mean((0, 1, 2)), atol=2e-6)
    np.testing.assert_allclose(written.std, (images / 255).std((0, 1, 2)), atol=2e-6)


def epochs(folder: Path, root: Path, workers: int, seed: int = 0, count: int = 2, skip: int = 0) -> list[torch.Tensor]:
    split = opened(folder, root, loader_workers=workers).joined(opened(folder, root, "validation", workers))
    feed = TrainingFeed(split, 8, PLAIN, FULL)
    generator = rng(seed)
    if skip:
        for _ in range(skip):
            list(feed.epoch(generator))
        generator.set_state(generator.get_state().clone())
    return [x for _ in range(count) for x, _ in feed.epoch(generator)]


def test_training_images_are_the_same_however_many_processes_read_them(folder, root):
    alone = epochs(folder, root, 0)
    assert len(alone) == 8
    for workers in (1, 2):
        assert all(torch.equal(a, b) for a, b in zip(alone, epochs(folder, root, workers), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(alone, epochs(folder, root, 0, seed=1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(alone[:4], alone[4:], strict=True))
    resumed = epochs(folder, root, 0, count=1, skip=1)
    assert all(torch.equal(a, b) for a, b in zip(alone[4:], resumed, strict=True))


@pytest.mark.parametrize("streams", [True, False])
def test_parts_of_a_mini_batch_have_the_draws_of_the_whole(folder, root, streams):
    split = opened(folder, root)
    if not streams:
        split = Split(np.stack([split.images[np.array([i])][0] for i in range(len(split))]), split.labels)
    feed = TrainingFeed(split, 6, PLAIN, FULL)
    generators = [rng() for _ in range(3)]
    whole = list(feed.epoch(generators[0]))
    first, second = list(feed.epoch(generators[1], slice(0, 2))), list(feed.epoch(generators[2], slice(2, 6)))
    assert [len(x) for x, _ in first] == [2] * feed.steps
    for both in zip(whole, first, second, strict=True):
        for everything, *parts in zip(*both, strict=True):
            assert torch.equal(torch.cat(parts), everything)
    assert len({tuple(generator.get_state().tolist()) for generator in generators}) == 1


def test_an_epoch_takes_nothing_from_the_global_generator(folder, root):
    before = torch.get_rng_state()
    epochs(folder, root, 1, count=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_travel_with_streamed_images(folder, root):
    split = opened(folder, root, loader_workers=1)
    known = {image.tobytes(): int(label) for image, label in zip(split.images[:], split.labels, strict=True)}
    feed = TrainingFeed(split, 9, PLAIN, Augmentation(0, False))
    seen = []
    for x, y in feed.epoch(rng()):
        assert x.is_contiguous(memory_format=torch.channels_last)
        pixels = x.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()
        seen += [known[image.tobytes()] == label for image, label in zip(pixels, y.tolist(), strict=True)]
    assert len(seen) == 27
    assert all(seen), "without augmentation they are those that testing sees"


def test_mini_batches_read_each_file_once_as_long_as_they_fit(folder, root, monkeypatch):
    split = opened(folder, root, "validation")
    batches = MiniBatches(split, 4, PLAIN, 0)
    first = [batches[i] for i in range(len(batches))]
    read = []
    monkeypatch.setattr("bnas.data.file_images.read_image", lambda *a: read.append(a))
    again = [batches[i] for i in range(len(batches))]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert read == []


def broken(root: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A data set one of whose training files broke after it was prepared, and its prepared splits."""
    copy, out = tmp_path / "imagenet", tmp_path / "prepared"
    shutil.copytree(root, copy)
    out.mkdir()
    prepare(LOADERS["imagenet"](request(copy)), Cut(0, 0.9, 0.25, 0), out, skip=False)
    victim = copy / opened(out, copy).images.paths[3]
    victim.write_bytes(victim.read_bytes()[:200])
    return copy, out


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_broke_since_is_named_in_one_line(root, tmp_path, workers):
    copy, out = broken(root, tmp_path)
    split = opened(out, copy, loader_workers=workers)
    with pytest.raises(DataError, match=rf"^{copy}/{split.images.paths[3]}: expected a whole image, found [^\n]*$"):
        list(TrainingFeed(split, 9, PLAIN, FULL).epoch(rng()))
    name = split.images.paths[3]
    with pytest.raises(
        ProblemsError, match=rf"^{copy}: found 1 problem: {name}: expected a whole image, found [^\n]*$"
    ):
        split.images[:]


LOST = r"^loader_workers: expected [^\n]*, or was killed \([^\n]*"


def test_a_reader_that_is_killed_during_a_step_is_told_in_one_line(folder, root):
    def forward(x, step, rows):
        (reader,) = multiprocessing.active_children()
        os.kill(reader.pid, signal.SIGKILL)
        time.sleep(20)  # its end is a signal to this process, and cuts this short
        return classify(x.mean((2, 3)))

    classify = torch.nn.Linear(3, len(WNIDS))
    feed = TrainingFeed(opened(folder, root, loader_workers=1), 2, PLAIN, FULL)
    with pytest.raises(DataError, match=LOST + "DataLoader worker"):
        fit(forward, new_training(classify, 0.0, 0), feed, CosineRate(0.1, 0.1, 13), 1)


def test_a_reader_that_dies_as_it_delivers_is_told_in_one_line(folder, root, monkeypatch):
    class Broken:
        def __init__(self, *_, **__):
            pass

        def __iter__(self):
            raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr("bnas.data.reader_processes.DataLoader", Broken)
    with pytest.raises(DataError, match=LOST + "Connection reset"):
        list(TrainingFeed(opened(folder, root), 2, PLAIN, FULL).epoch(rng()))


def test_another_file_of_the_same_size_makes_another_index(root, tmp_path):
    hashes = []
    for name in ("a", "b"):
        copy, out = tmp_path / name, tmp_path / f"out-{name}"
        shutil.copytree(root, copy)
        if name == "b":
            path = copy / "train/n02/n02_1.JPEG"
            content = bytearray(path.read_bytes())
            content[-3] ^= 1
            path.write_bytes(content)
        out.mkdir()
        hashes.append(prepare(LOADERS["imagenet"](request(copy)), Cut(0, 0.9, 0.25, 0), out, skip=False).hash)
    assert hashes[0] != hashes[1]


# ---------------------------------------------------------------- indices that are none

GOOD = {"height": 14, "width": 14, "channels": 3, "resize": 16}


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"width": 10**9},
        {"channels": 2},
        {"resize": 3},
        {"resize": 1.5},
        {"more": 1},
        {"height": True},
        {"height": "14"},
    ],
    ids=str,
)
def test_an_index_of_absurd_pictures_is_refused(folder, root, tmp_path, change):
    shutil.copytree(folder / "train", tmp_path / "train")
    (tmp_path / "train/index.json").write_text(json.dumps(GOOD))
    assert len(opened(tmp_path, root)) == 27
    (tmp_path / "train/index.json").write_text(json.dumps(GOOD | change))
    with pytest.raises(DataError, match=r"train/index\.json: expected"):
        opened(tmp_path, root)


@pytest.mark.parametrize(
    "path",
    [b"/etc/hostname", b"../secret", b"train/../../secret", b"..", b"a\0b", b"\xff\xfe", b""],
    ids=repr,
)
def test_a_path_that_leads_out_of_the_folder_is_refused(folder, root, tmp_path, path):
    shutil.copytree(folder / "train", tmp_path / "train")
    lines = (tmp_path / "train/files.txt").read_bytes().splitlines()
    (tmp_path / "train/files.txt").write_bytes(b"\n".join([*lines[:5], lines[5][:17] + path, *lines[6:]]) + b"\n")
    with pytest.raises(DataError, match=r"train/files\.txt: expected"):
        opened(tmp_path, root)


def test_a_changed_index_is_noticed(folder, root, tmp_path):
    shutil.copytree(folder / "train", tmp_path / "train")
    lines = (tmp_path / "train/files.txt").read_text().splitlines(keepends=True)
    (tmp_path / "train/files.txt").write_text("".join(lines[::-1]))
    split = opened(tmp_path, root)
    with pytest.raises(DataError, match="found other content than sha256 says"):
        split.verify(tmp_path / "train")


def test_an_index_without_its_images_is_refused(folder, tmp_path):
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="with the images that it names, found none"):
            Split.open(folder / "train", root)


# ---------------------------------------------------------------- names of classes


def test_classes_have_their_names_where_a_mapping_lies(root, tmp_path):
    copy = tmp_path / "imagenet"
    shutil.copytree(root, copy)
    assert LOADERS["imagenet"](request(copy)).classes == WNIDS
    mapping = copy / "LOC_synset_mapping.txt"
    mapping.write_text("n01 tench, Tinca tinca\nn02 crane\nn03 crane\nn04 more\n")
    assert LOADERS["imagenet"](request(copy)).classes == ("tench", "crane (n02)", "crane (n03)")
    mapping.write_text("n01 tench\n")
    with pytest.raises(DataError, match="expected a line with the names of n02, found none"):
        LOADERS["imagenet"](request(copy))
