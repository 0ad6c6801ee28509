"""Folders of pictures: which classes and files there are, and what is wrong with them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas.data.file_images import FileImages, side_by_side
from bnas.data.labelled_images import LabelledImages, Request
from bnas.data.picture import Header, ImageError, read_header
from bnas.data.picture_files import PictureFiles
from bnas.data.problems import DataError, FileProblem, ProblemsError
from bnas.storage.terminal import printable

TRAINING = ("train", "training")
TESTING = ("test", "testing", "val", "valid", "validation")
"""Names of folders, in lower case and without "set", that hold the pictures to learn from and to test on."""

NAMED = 3
"""Pictures that a note names; the others are counted."""

AT_ONCE = 512
"""Files that are looked into before the next are listed for it."""


def image_folder(
    request: Request, title: str, *, test: str = "test", resize: int | None = None, streamed: bool = False
) -> LabelledImages:
    """The pictures in `train/<class>/` and `<test>/<class>/` below `request.root`, or in `<class>/`, to be split.

    `train` and `<test>` may have another of their usual names. Classes are the folders' names in order; their files may
    lie in further folders. Headers and bytes of the files are looked into, and the pixels of those that decide on the
    rest: pictures have one channel if no file has colours, else three; where `request.image_size` is 0, all must be of
    one size. What is wrong is collected in `problems`; raises ProblemsError where nothing is left to go on with.
    """
    root, notes, problems = request.root, list[str](), list[FileProblem]()
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found none")
    listing = PictureFiles(root)
    trees = _trees(listing, test, notes)
    files = {tree: _files_of_classes(listing, tree, problems) for tree in trees}
    listing.require_listed()
    problems += listing.problems
    if all(len(found) < 2 for found in files.values()):
        text = "expected at least two folders of classes, found "
        problems += [FileProblem(tree, text + _found(list(files[tree]), listing), False) for tree in trees]
        raise ProblemsError(root, problems)
    classes = sorted(set().union(*files.values()))
    for tree, other in ((a, b) for a in trees for b in trees if a != b):
        missing = sorted(set(files[other]) - set(files[tree]))
        problems += [FileProblem(f"{tree}/{name}", f"expected the class that is in {other}", False) for name in missing]
    notes += _doubtful(files, classes)
    paths: list[str] = []
    labels: list[int] = []
    for tree in trees:
        first_of_tree = len(paths)
        for label, name in enumerate(classes):
            chosen = _drawn(files[tree].get(name, []), request, label)
            paths += chosen
            labels += [label] * len(chosen)
    digests, headers, unreadable = _inspected(request, paths)
    problems += unreadable + _unusable(root, paths, headers, sized=not request.image_size)
    rows = np.array([row for row, header in enumerate(headers) if header], np.int64)
    if not len(rows):
        raise ProblemsError(root, problems)
    height, width = (request.image_size,) * 2 if request.image_size else _common_size(root, paths, headers, problems)
    channels = 1 if all(header.grey for header in headers if header) else 3
    images = FileImages(root, paths, height, width, channels, resize, request.loader_workers, digests)
    own_test = int((rows >= first_of_tree).sum()) if len(trees) == 2 else 0
    return LabelledImages(
        title,
        tuple(classes),
        images.chosen(rows),
        np.array(labels, np.int64)[rows],
        own_test,
        tuple(problems),
        tuple(filter(None, [*notes, _beside(sorted(listing.beside)), listing.left_out_text()])),
        streamed,
    )


def _trees(listing: PictureFiles, test: str, notes: list[str]) -> tuple[str, ...]:
    """The names of the folders to learn from and to test on or, for one tree to be split, `("",)`."""
    names = listing.folders()
    training = [name for name in names if _without_set(name) in TRAINING]
    testing = [name for name in names if _without_set(name) in TESTING]
    if len(names) == 2 and training and testing:
        if [*training, *testing] != ["train", test]:
            notes.append(f"took {training[0]} for the images to learn from, {testing[0]} for those to test on")
        return (*training, *testing)
    if not names:
        expected = f"folders train/<class>/ and {test}/<class>/, or <class>/, with images"
        raise DataError(f"{listing.root}: expected {expected}, found {_found(names, listing)}")
    if {"train", test} & set(map(_without_set, names)):
        raise DataError(f"{listing.root}: expected the folders train and {test} alone, found {_found(names, listing)}")
    if training or testing:
        notes.append(f"took {', '.join(training + testing)} for classes, though they look like splits")
    return ("",)


def _without_set(name: str) -> str:
    """The name of a split without what does not matter: `Training set` is `training`."""
    return re.sub(r"[ _-]?set$", "", name.lower())


def _found(names: Sequence[str], listing: PictureFiles) -> str:
    """What was found where folders were expected, and left out, and what to do about one in which they may lie."""
    found = f"{', '.join(names):.200}" or "none"
    alone = " alone: if it holds them, move them up" if len(names) == 1 else ""
    return "; ".join(filter(None, [found + alone, listing.left_out_text()]))


def _files_of_classes(listing: PictureFiles, tree: str, problems: list[FileProblem]) -> dict[str, list[str]]:
    """Class → paths of its files, from the data set's folder.

    A class is what its name looks like: a Mac and a NAS may spell an accent as one character or as two.
    """
    files: dict[str, list[str]] = {}
    for name in listing.folders(tree):
        folder = f"{tree}/{name}" if tree else name
        inside = listing.files(folder)
        files.setdefault(unicodedata.normalize("NFC", name), []).extend(inside)
        if not inside:
            problems.append(FileProblem(folder, "expected images, found an empty folder", False))
        if printable(name) != name:
            problems.append(FileProblem(folder, "expected a class name of printable characters", False))
    return files


def _doubtful(files: Mapping[str, Mapping[str, list[str]]], classes: Sequence[str]) -> Iterator[str]:
    """Notes on classes that may be none: those of nearly one name, and those whose folders are divided like a set."""
    alike = Counter(name.strip().casefold() for name in classes)
    if twins := [name for name in classes if alike[name.strip().casefold()] > 1]:
        yield f"took {', '.join(map(repr, twins)):.200} for several classes, though they differ in case or spaces alone"
    below = {
        f"{tree}/{name}" if tree else name: {tuple(path.split("/")[1 + bool(tree) : -1]) for path in inside}
        for tree, found in files.items()
        for name, inside in found.items()
    }
    shared = set.intersection(*({folders[0] for folders in each if folders} for each in below.values()))
    if len(shared) > 1:
        yield f"took {', '.join(below):.200} for classes, though each of them holds {', '.join(sorted(shared)):.200}"
        return
    for folder, each in below.items():
        inner = {name for folders in each for name in folders}
        if splits := sorted(name for name in inner if _without_set(name) in TRAINING + TESTING):
            yield f"took all images in {folder} for one class, though it holds {', '.join(splits)}"


def _beside(paths: Sequence[str]) -> str:
    """One line that names pictures that belong to no class ("" for none)."""
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return f"left out pictures beside the folders: {printable(', '.join(paths[:NAMED]))}{more}" if paths else ""


def _drawn(files: list[str], request: Request, label: int) -> list[str]:
    """No more of a class's files than are wanted, in the same order."""
    if not request.images_per_class or len(files) <= request.images_per_class:
        return files
    order = np.random.default_rng([request.seed, label]).permutation(len(files))
    return [files[i] for i in np.sort(order[: request.images_per_class]).tolist()]


def _inspected(
    request: Request, paths: Sequence[str]
) -> tuple[NDArray[np.uint64], list[Header | None], list[FileProblem]]:
    """Digest of the bytes and header of every file (0 and None where there is none), and what is wrong."""
    problems: list[FileProblem] = []

    def look(name: str) -> tuple[int, Header | None]:
        path = request.root / name
        try:
            header = read_header(path)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).digest()
            return int.from_bytes(digest, "little"), header
        except ImageError as error:
            problems.append(FileProblem(name, str(error).removeprefix(f"{path}: ")))
        except OSError as error:
            problems.append(FileProblem(name, f"expected a file that can be read, found {error.strerror}"))
        return 0, None

    digests, headers = np.empty(len(paths), np.uint64), list[Header | None]()
    known: dict[Header | None, Header | None] = {}
    for start in range(0, len(paths), AT_ONCE):
        looked_at = side_by_side(look, paths[start : start + AT_ONCE], request.loader_workers)
        for row, (digest, header) in enumerate(looked_at, start):
            digests[row] = digest
            headers.append(known.setdefault(header, header))  # millions of pictures have few sizes
    return digests, headers, sorted(problems)


def _unusable(root: Path, paths: Sequence[str], headers: list[Header | None], *, sized: bool) -> list[FileProblem]:
    """What is wrong with files that would decide on channels or size, for none of their kind before them is whole.

    They lose their headers.
    """
    files, problems, known = FileImages(root, paths, 1, 1, 3), list[FileProblem](), set[Header]()
    for row, header in enumerate(headers):
        kind = header if header is None or sized else Header(header.grey, 0, 0)
        if kind and kind not in known:
            try:
                files[row]
                known.add(kind)
            except ProblemsError as error:
                problems += error.problems
                headers[row] = None
    return problems


def _common_size(
    root: Path, paths: Sequence[str], headers: Sequence[Header | None], problems: Sequence[FileProblem]
) -> tuple[int, int]:
    """(height, width) of all pictures; raises ProblemsError where they differ."""
    sizes: dict[tuple[int, int], str] = {}
    for path, header in zip(paths, headers, strict=True):
        if header:
            sizes.setdefault((header.height, header.width), path)
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        differ = f"{a[0]}x{a[1]} in {first}, {b[0]}x{b[1]} in {second}"
        text = f"image_size: expected a size, for images differ: {differ}"
        raise ProblemsError(root, [*problems, FileProblem("", text, False)])
    return next(iter(sizes))
