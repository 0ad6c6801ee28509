"""Folders of pictures: what is found in them, what is refused, and that nothing large is held in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from bnas.data.datasets import LOADERS
from bnas.data.labelled_images import Request
from bnas.data.picture import read_image
from bnas.data.prepare import prepare
from bnas.data.problems import DataError, FileProblem, ProblemsError
from bnas.data.split import Split
from bnas.data.split_rows import Cut
from bnas.storage.terminal import printable

CUT = Cut(0, 0.25, 0.25, 0)
CLASSES = ("big dog", "cat", "Zebra")


def picture(path: Path, seed: int, size: tuple[int, int] = (10, 8), mode: str = "RGB", **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


def tree(folder: Path, splits: tuple[str, ...] = ("train", "test"), each: int = 8, **options: object) -> Path:
    """`each` pictures a class and split, all different, of formats in turn."""
    seed = 0
    for split in splits:
        for name in CLASSES:
            for i in range(each):
                seed += 1
                picture(folder / split / name / f"{i}.{('png', 'jpg', 'bmp', 'gif')[i % 4]}", seed, **options)
    return folder


def load(folder: Path, size: int = 6, per_class: int = 0, threads: int = 1):
    return LOADERS["image_folder"](Request(folder, size, per_class, 0, threads))


def wrong(folder: Path, size: int = 6, cut: Cut = CUT, skip: bool = False, out: Path | None = None) -> list[str]:
    """What is said to be wrong, one by one."""
    out = out or folder.with_name("out")
    out.mkdir(exist_ok=True)
    with pytest.raises(ProblemsError) as error:
        prepare(load(folder, size), cut, out, skip=skip)
    assert "\n" not in str(error.value)
    return [str(problem) for problem in error.value.problems]


def prepared(folder: Path, out: Path, **options):
    out.mkdir()
    options = {"size": 6, "cut": CUT, "skip": False, "per_class": 0, "threads": 1} | options
    found = load(folder, options["size"], options["per_class"], options["threads"])
    return found, prepare(found, options["cut"], out, skip=options["skip"])


# ---------------------------------------------------------------- what is found


def test_two_trees_keep_their_test_split_and_one_tree_is_cut(tmp_path):
    tree(tmp_path / "two")
    found, written = prepared(tmp_path / "two", tmp_path / "a")
    assert found.classes == tuple(sorted(CLASSES))
    assert written.counts == {"train": 18, "validation": 6, "test": 24}
    tree(tmp_path / "one", splits=("",))
    _, written = prepared(tmp_path / "one", tmp_path / "b")
    assert written.counts == {"train": 12, "validation": 6, "test": 6}


def test_prepared_images_are_those_that_predict_reads_and_keep_their_class(tmp_path):
    root = tree(tmp_path / "in")
    found, _ = prepared(root, tmp_path / "out", threads=2)
    known = {}
    for path in root.glob("*/*/*"):
        split = "test" if path.parts[-3] == "test" else "learnt"
        known[split, read_image(path, 6, 6, 3).tobytes()] = found.classes.index(path.parts[-2])
    assert len(known) == 48
    for name in ("train", "validation", "test"):
        split = Split.open(tmp_path / "out" / name)
        split.verify(tmp_path / "out" / name)
        for image, label in zip(split.images[:], split.labels, strict=True):
            assert known.pop(("test" if name == "test" else "learnt", image.tobytes())) == label
    assert not known


def test_pictures_without_colours_have_one_channel_and_one_with_makes_three(tmp_path):
    tree(tmp_path / "in", mode="L")
    assert load(tmp_path / "in").images.shape == (48, 6, 6, 1)
    picture(tmp_path / "in/train/cat/more.png", 99)
    assert load(tmp_path / "in").images.shape == (49, 6, 6, 3)


def test_pictures_of_one_size_may_keep_it_and_others_are_told_apart(tmp_path):
    tree(tmp_path / "in")
    assert load(tmp_path / "in", size=0).images.shape[1:] == (8, 10, 3)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    picture(tmp_path / "in/train/cat/turned.jpg", 99, (8, 10), exif=turned)
    assert load(tmp_path / "in", size=0).images.shape[1:] == (8, 10, 3), "it is seen upright"
    picture(tmp_path / "in/test/cat/other.png", 98, (9, 10))
    (line,) = wrong(tmp_path / "in", size=0)
    assert line.startswith("image_size: expected a size, for images differ: 8x10 in train/Zebra/0.png, ")
    assert line.endswith("10x9 in test/cat/other.png")


def test_of_a_limited_number_per_class_no_other_file_is_opened(tmp_path):
    root = tree(tmp_path / "in")
    chosen = load(root, per_class=3).images.paths
    assert len(chosen) == 18
    for path in root.glob("*/*/*"):
        if path.relative_to(root).as_posix() not in chosen:
            path.write_bytes(b"never read")
    _, written = prepared(root, tmp_path / "out", per_class=3, cut=Cut(0, 0.25, 0.34, 3))
    assert written.counts == {"train": 6, "validation": 3, "test": 9}


def test_what_file_managers_leave_is_no_picture(tmp_path):
    root = tree(tmp_path / "in")
    for name in (".DS_Store", "train/cat/.hidden", "train/cat/Thumbs.db", "train/.git/x", "README.md"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no picture")
    (root / "train/cat/further").mkdir()
    (root / "train/cat/0.png").rename(root / "train/cat/further/0.png")
    _, written = prepared(root, tmp_path / "out")
    assert sum(written.counts.values()) == 48


# ---------------------------------------------------------------- what is wrong


def spoil(root: Path) -> dict[str, str]:
    """Files that are wrong in all ways, and what is said of them."""
    good = (root / "train/cat/1.jpg").read_bytes()
    (root / "train/cat/empty.jpg").write_bytes(b"")
    (root / "train/cat/text.jpg").write_text("no picture")
    (root / "train/cat/page.jpg").write_text("<!doctype html>")
    (root / "train/cat/photo.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    (root / "train/cat/live.MOV").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(99))
    (root / "test/cat/short.jpg").write_bytes(good[: len(good) // 2])
    (root / "test/cat/nowhere.jpg").symlink_to("nowhere at all")
    (root / "train/Zebra/twin.bin").write_bytes((root / "test/Zebra/0.png").read_bytes())
    return {
        "test/cat/nowhere.jpg": "expected a file that can be read, found No such file or directory",
        "test/cat/short.jpg": "expected a whole image, found ",
        "train/Zebra/twin.bin": "expected no image of the test split, found a copy of one (test/Zebra/0.png)",
        "train/cat/empty.jpg": "expected an image that Pillow reads, found an empty file",
        "train/cat/live.MOV": "expected an image that Pillow reads, found a video",
        "train/cat/page.jpg": "expected an image that Pillow reads, found HTML or XML",
        "train/cat/photo.HEIC": "expected an image that Pillow reads, found HEIC, which Pillow does not read",
        "train/cat/text.jpg": "expected an image that Pillow reads, found something else",
    }


@pytest.mark.parametrize("threads", [1, 3])
def test_everything_wrong_with_files_is_said_at_once(tmp_path, threads):
    root = tree(tmp_path / "in")
    expected = spoil(root)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ProblemsError) as error:
        prepare(load(root, threads=threads), CUT, out, skip=False)
    found = {problem.path: problem.text for problem in error.value.problems}
    assert sorted(found) == sorted(expected)
    for path, text in expected.items():
        assert found[path].startswith(text)
        assert path in str(error.value)
    assert str(error.value).startswith(f"{root}: found 8 problems: ")


def test_skipped_files_are_named_and_the_rest_is_as_if_they_had_never_been(tmp_path):
    root = tree(tmp_path / "in")
    _, clean = prepared(root, tmp_path / "clean")
    bad = spoil(root)
    _, written = prepared(root, tmp_path / "out", skip=True)
    assert sorted(problem.path for problem in written.skipped) == sorted(bad)
    assert (written.hash, written.counts) == (clean.hash, clean.counts)


def test_equal_files_of_one_tree_are_found_where_they_would_be_learnt_and_tested_on(tmp_path):
    root = tree(tmp_path / "in", splits=("",))
    for i in range(8):
        (root / "cat" / f"copy {i}.png").write_bytes((root / "cat/0.png").read_bytes())
    lines = wrong(root)
    assert lines
    assert all("expected no image of the test split, found a copy of one (cat/" in line for line in lines)
    _, written = prepared(root, tmp_path / "kept", skip=True)
    assert len(written.skipped) == 8
    assert sum(written.counts.values()) == 24


@pytest.mark.parametrize("place", ["train/cat/twin.png", "test/cat/twin.png"])
def test_a_picture_in_two_classes_is_named_as_such(tmp_path, place):
    root = tree(tmp_path / "in")
    _, clean = prepared(root, tmp_path / "clean")
    picture(root / place, 99)
    (root / "train/Zebra/twin.png").write_bytes((root / place).read_bytes())
    text = "expected a picture in one class, found it in two"
    expected = [f"{place}: {text} (train/Zebra/twin.png)", f"train/Zebra/twin.png: {text} ({place})"]
    assert sorted(wrong(root)) == sorted(expected)
    _, written = prepared(root, tmp_path / "kept", skip=True)
    assert sorted(map(str, written.skipped)) == sorted(expected)
    assert written.hash == clean.hash


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def test_a_broken_picture_decides_neither_on_channels_nor_on_the_size(tmp_path):
    root = tree(tmp_path / "in", mode="L")
    _, clean = prepared(root, tmp_path / "clean", size=0)
    picture(root / "train/cat/broken.jpg", 99, (30, 30))
    truncate(root / "train/cat/broken.jpg")
    found, written = prepared(root, tmp_path / "kept", size=0, skip=True)
    assert found.images.shape[1:] == (8, 10, 1)
    assert [problem.path for problem in written.skipped] == ["train/cat/broken.jpg"]
    assert written.hash == clean.hash
    (line,) = wrong(root, size=0)
    assert line.startswith("train/cat/broken.jpg: expected a whole image, found ")


def test_problems_of_one_kind_are_counted_as_one():
    texts = (
        "expected no image of the test split, found a copy of one (cat/1: (2).png)",
        "expected no image of the test split, found a copy of one (cat/2.png)",
        "expected a whole image, found image file is truncated (12 bytes not processed)",
        "expected a whole image, found image file is truncated (7 bytes not processed)",
    )
    assert len({FileProblem("path", text).kind for text in texts}) == 2


def test_equal_digests_are_not_believed(tmp_path):
    root = tree(tmp_path / "in")
    found = load(root)
    found.images.digests[:] = 7
    (tmp_path / "out").mkdir()
    prepare(found, CUT, tmp_path / "out", skip=False)


def empty_class(root: Path) -> None:
    for path in (root / "train/cat").iterdir():
        path.unlink()


STRUCTURE = {
    "an empty class": (empty_class, "train/cat: expected images, found an empty folder"),
    "a class that is only trained on": (
        lambda root: picture(root / "train/dog/1.png", 99),
        "test/dog: expected the class that is in train",
    ),
    "a class that is only tested on": (
        lambda root: picture(root / "test/dog/1.png", 99),
        "train/dog: expected the class that is in test",
    ),
    "a name with a line break": (
        lambda root: [picture(root / split / "a\nb" / "1.png", i) for i, split in enumerate(("train", "test"), 99)],
        "a\\nb: expected a class name of printable characters",
    ),
}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("case", STRUCTURE)
def test_classes_that_do_not_fit_are_refused_whatever_is_skipped(tmp_path, case, skip):
    change, line = STRUCTURE[case]
    root = tree(tmp_path / "in")
    change(root)
    assert any(found.endswith(line) for found in wrong(root, skip=skip))


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ([], "expected folders train/<class>/ and test/<class>/, or <class>/, with images, found none"),
        (["train/cat"], "expected the folders train and test alone, found train alone: if it holds them, move them up"),
        (["train/cat", "test/cat", "val/cat"], "expected the folders train and test alone, found test, train, val"),
        (
            ["photos/train/cat", "photos/test/cat"],
            "two folders of classes, found photos alone: if it holds them, move them up",
        ),
        (
            ["train/photos/cat", "test/photos/cat"],
            "two folders of classes, found photos alone: if it holds them, move them up",
        ),
        (
            ["cat", "Thumbs.db"],
            "found cat alone: if it holds them, move them up; left out what systems leave in folders: 1 Thumbs.db",
        ),
    ],
)
def test_a_tree_of_another_form_is_refused(tmp_path, folders, said):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert str(error.value).startswith(f"{tmp_path}: ")
    assert str(error.value).endswith(said)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: expected a folder of images, found none"):
        load(tmp_path / "nowhere")


def test_a_class_all_of_whose_files_are_broken_does_not_hide_them(tmp_path):
    root = tree(tmp_path / "in", each=4)
    for path in (root / "train/cat").iterdir():
        path.write_bytes(b"broken")
    for skip in (False, True):
        lines = wrong(root, skip=skip)
        assert sum("train/cat/" in line for line in lines) == 4
        assert any("cat" in line and "train/cat/" not in line for line in lines), "the class is named, too"


def test_a_message_stays_short_however_many_files_are_broken(tmp_path):
    root = tree(tmp_path / "in")
    for i in range(300):
        (root / "train/cat" / f"broken {i}.jpg").write_bytes(b"broken")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ProblemsError, match=f"^{root}: found 300 problems: .*; and 290 more$") as error:
        prepare(load(root), CUT, out, skip=False)
    assert len(str(error.value)) < 1500
    assert len(error.value.problems) == 300


# ---------------------------------------------------------------- folders of real life


JUNK = {
    "@eaDir": "train/cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
    "__MACOSX": "__MACOSX/train/cat/._0.png",
    ".ipynb_checkpoints": "train/cat/.ipynb_checkpoints/0-checkpoint.png",
    "Thumbs.db": "train/cat/Thumbs.db",
    "desktop.ini": "train/desktop.ini",
    ".DS_Store": ".DS_Store",
    "._0.png": "train/cat/._0.png",
    "$RECYCLE.BIN": "$RECYCLE.BIN/0.png",
    ".thumbnails": "test/cat/.thumbnails/0.png",
    "System Volume Information": "System Volume Information/x",
    "lost+found": "lost+found/x",
    "#recycle": "#recycle/0.png",
    "0.png:Zone.Identifier": "train/cat/0.png:Zone.Identifier",
    "Icon\r": "train/Icon\r",
    "Icon\uf00d": "train/Icon\uf00d",
    "@tmp": "@tmp/0.png",
    "FOUND.000": "FOUND.000/FILE0000.CHK",
    "Network Recycle Bin 1": "Network Recycle Bin 1/0.png",
    "TheVolumeSettingsFolder": "TheVolumeSettingsFolder/x",
    "RECYCLER": "RECYCLER/S-1-5-21/Dc1.png",
}


@pytest.mark.parametrize("name", JUNK)
def test_what_systems_leave_in_folders_is_counted_and_no_picture_or_class(tmp_path, name):
    root = tree(tmp_path / "in")
    _, clean = prepared(root, tmp_path / "clean")
    picture(root / JUNK[name], 99, format="PNG")
    images, written = prepared(root, tmp_path / "out")
    assert images.notes == (f"left out what systems leave in folders: 1 {printable(name)}",)
    assert (written.hash, written.counts) == (clean.hash, clean.counts)


def test_junk_of_one_tree_is_counted_once_and_recycled_is_a_class(tmp_path):
    root = tree(tmp_path / "in", splits=("",))
    (root / "cat").rename(root / "recycled")
    (root / ".DS_Store").touch()
    found = load(root)
    assert found.classes == ("Zebra", "big dog", "recycled")
    assert found.notes == ("left out what systems leave in folders: 1 .DS_Store",)


def test_pictures_beside_the_folders_are_named(tmp_path):
    root = tree(tmp_path / "in")
    for name in ("loose.jpg", "train/b.png", "train/c.png", "train/d.gif", "LICENSE", "notes.txt"):
        (root / name).touch()
    assert load(root).notes == ("left out pictures beside the folders: loose.jpg, train/b.png, train/c.png and 1 more",)


@pytest.mark.parametrize("twin", ["CAT", "cat "])
def test_classes_of_nearly_one_name_are_pointed_at(tmp_path, twin):
    root = tree(tmp_path / "in", splits=("",))
    picture(root / twin / "1.png", 99)
    expected = (
        f"took {twin!r}, 'cat' for several classes" if twin < "cat" else f"took 'cat', {twin!r} for several classes"
    )
    assert load(root).notes == (f"{expected}, though they differ in case or spaces alone",)


@pytest.mark.parametrize(
    ("training", "testing"),
    [
        ("training_set", "test_set"),
        ("Training set", "Testing-Set"),
        ("Train", "Test"),
        ("TRAIN", "test"),
        ("training", "testing"),
        ("train", "valid"),
        ("Training", "val"),
        ("train", "Validation"),
    ],
)
def test_usual_names_of_splits_are_taken_for_them_and_that_is_said(tmp_path, training, testing):
    _, expected = prepared(tree(tmp_path / "plain"), tmp_path / "a")
    images, written = prepared(tree(tmp_path / "in", splits=(training, testing)), tmp_path / "b")
    assert images.classes == tuple(sorted(CLASSES))
    assert (written.counts, written.hash) == (expected.counts, expected.hash)
    assert images.notes == (f"took {training} for the images to learn from, {testing} for those to test on",)


def test_train_and_test_need_no_word(tmp_path):
    assert load(tree(tmp_path / "in")).notes == ()


def test_classes_that_look_like_splits_are_pointed_at(tmp_path):
    for i in range(4):
        picture(tmp_path / "in/training" / f"{i}.png", i)
        picture(tmp_path / "in/zebra" / f"{i}.png", 10 + i)
    images = load(tmp_path / "in")
    assert images.classes == ("training", "zebra")
    assert images.notes == ("took training for classes, though they look like splits",)


def test_splits_within_classes_are_pointed_at(tmp_path):
    for place in ("cat/train", "cat/test", "dog"):
        picture(tmp_path / "in" / place / "1.png", len(place))
    assert load(tmp_path / "in").notes == ("took all images in cat for one class, though it holds test, train",)


@pytest.mark.parametrize(
    ("places", "note"),
    [
        (["seg_train/{}", "seg_test/{}"], "took seg_test, seg_train for classes, though each of them holds cat, dog"),
        (["dev/{}/x", "eval/{}"], "took dev, eval for classes, though each of them holds cat, dog"),
        (["{}/train/x", "{}/test/x"], "took cat, dog for classes, though each of them holds test, train"),
    ],
)
def test_classes_that_hold_the_same_folders_are_pointed_at(tmp_path, places, note):
    for name in ("cat", "dog"):
        for place in places:
            picture(tmp_path / "in" / place.format(name) / "1.png", len(place + name))
    assert load(tmp_path / "in").notes == (note,)


def test_a_folder_that_may_not_be_read_is_the_only_problem(tmp_path, monkeypatch):
    root = tree(tmp_path / "in", splits=("",))
    scandir, locked = os.scandir, [root / "cat"]

    def refused(path):
        if path in locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refused)
    assert wrong(root) == ["cat: expected a folder that can be read, found Permission denied"]
    locked.append(root)
    assert wrong(root) == ["expected a folder that can be read, found Permission denied"]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("place", ["train", "test", "train/cat", "train/cat/further"])
def test_a_link_to_a_folder_is_refused_with_what_to_do(tmp_path, place, skip):
    root = tree(tmp_path / "in")
    picture(root / "train/cat/further/99.png", 99)
    (root / place).rename(tmp_path / "elsewhere")
    (root / place).symlink_to(tmp_path / "elsewhere")
    (line,) = wrong(root, skip=skip)
    assert line.startswith(
        f"{place}: expected a folder, found a link to one, behind which no change would be noticed: "
    )
    assert "cp -rs" in line


def test_nothing_behind_a_link_to_a_folder_is_looked_into(tmp_path, monkeypatch):
    root = tree(tmp_path / "in", splits=("",))
    (root / "cat/up").symlink_to("..")
    monkeypatch.setattr("bnas.data.image_folder._inspected", lambda *a: pytest.fail("files were read"))
    (line,) = wrong(root)
    assert line.startswith("cat/up: expected a folder, found a link to one")


def test_links_to_files_and_a_link_to_the_whole_are_taken(tmp_path):
    root = tree(tmp_path / "real")
    _, expected = prepared(root, tmp_path / "a")
    (tmp_path / "link").symlink_to(root)
    assert prepared(tmp_path / "link", tmp_path / "b")[1].hash == expected.hash
    for path in root.glob("*/*/*"):
        target = tmp_path / "files" / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    assert prepared(tmp_path / "files", tmp_path / "c")[1].hash == expected.hash


def test_a_class_that_is_a_link_to_nowhere_is_named(tmp_path):
    root = tree(tmp_path / "in")
    (root / "train/dog").symlink_to("nowhere")
    assert "train/dog: expected a folder, found a link that leads nowhere" in wrong(root)


def test_a_pipe_is_named_and_does_not_hang(tmp_path):
    root = tree(tmp_path / "in")
    os.mkfifo(root / "train/cat/pipe.jpg")
    (line,) = wrong(root)
    assert line == "train/cat/pipe.jpg: expected a regular file, found a pipe, socket or device"
    _, written = prepared(root, tmp_path / "kept", skip=True)
    assert [problem.path for problem in written.skipped] == ["train/cat/pipe.jpg"]


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    root = tree(tmp_path / "in")
    os.rename(root / "train/cat/0.png", os.fsencode(root / "train/cat") + b"/caf\xe9.png")
    (line,) = wrong(root)
    assert line == r"train/cat/caf\udce9.png: expected a name in UTF-8"
    line.encode()


# ---------------------------------------------------------------- memory

PEAK = """
import sys
from pathlib import Path
from bnas.data.datasets import LOADERS
from bnas.data.labelled_images import Request
from bnas.data.split_rows import Cut
from bnas.data.prepare import prepare
root, out = map(Path, sys.argv[1:])
out.mkdir()
prepare(LOADERS["image_folder"](Request(root, 0, 0, 0, 2)), Cut(0, 0.2, 0.2, 0), out, skip=False)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    rng = np.random.default_rng(0)
    peaks = []
    for count in (600, 4000):
        root = tmp_path / str(count)
        for name in ("a", "b"):
            (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "ab"[i % 2] / f"{i}.bmp")
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(root), str(tmp_path / f"out{count}")],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks.append(int(done.stdout) * 1024)
    pixels = 3400 * 32 * 32 * 3
    assert peaks[1] - peaks[0] < pixels / 2, "as many as would be held if pixels were"
    assert peaks[1] < 200 * 2**20


def test_no_file_is_read_as_a_whole(tmp_path, monkeypatch):
    root = tree(tmp_path / "in")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("a whole file was read"))
    assert len(load(root).labels) == 48


def test_what_a_mac_leaves_beside_each_file_is_one_kind_in_the_message(tmp_path):
    root = tree(tmp_path / "in")
    for i in range(20):
        (root / f"train/cat/._IMG_{i}.JPG").touch()
        (root / f"train/cat/IMG_{i}.JPG:Zone.Identifier").touch()
        (root / f"train/cat/.tmp{i}").touch()
    (note,) = load(root).notes
    assert note.startswith("left out what systems leave in folders: 20 ._*, 20 *:Zone.Identifier, 1 .tmp0, ")
    assert note.endswith(", 14 others")


def test_a_class_is_what_its_name_looks_like_however_a_system_spells_it(tmp_path):
    one, two = "Caf\u00e9", "Cafe\u0301"
    root = tree(tmp_path / "in")
    (root / "train/cat").rename(root / "train" / two)
    (root / "test/cat").rename(root / "test" / one)
    found, written = prepared(root, tmp_path / "out")
    assert found.classes == ("Caf\u00e9", "Zebra", "big dog")
    assert sum(written.counts.values()) == 48
