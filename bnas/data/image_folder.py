"""Folders of pictures: which classes and files there are, and what is wrong with them."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
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
"""Names of folders, in lower case, that hold the pictures to learn from and to test on."""

LINKED = (
    "expected a folder, found a link to one, behind which no change would be noticed: link its files "
    "(cp -rs does), or the data set's folder as a whole"
)

AT_ONCE = 512
"""Files that are looked into before the next are listed for it."""


def image_folder(
    request: Request, title: str, *, test: str = "test", resize: int | None = None, streamed: bool = False
) -> LabelledImages:
    """The pictures in `train/<class>/` and `<test>/<class>/` below `request.root`, or in `<class>/`, to be split.

    `train` and `<test>` may have another of their usual names. Classes are the folders' names in order; their files may
    lie in further folders. Headers and bytes of the files are looked into, not pixels. Where `request.image_size` is 0
    all must be of one size; pictures have one channel if no file has colours, else three. What is wrong is collected in
    `problems`; raises ProblemsError where nothing is left to go on with.
    """
    root, notes = request.root, list[str]()
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found none")
    listing = PictureFiles(root)
    problems = listing.problems
    trees = _trees(listing, test, notes)
    files = {tree: _files_of_classes(listing, tree, notes) for tree in trees}
    problems += [FileProblem(path, LINKED, False) for path in dict.fromkeys(listing.links)]
    classes = sorted(set().union(*files.values()))
    for tree, other in ((a, b) for a in trees for b in trees if a != b):
        missing = sorted(set(files[other]) - set(files[tree]))
        problems += [FileProblem(f"{tree}/{name}", f"expected the class that is in {other}", False) for name in missing]
    if len(classes) < 2:
        problems.append(FileProblem("", f"expected at least two folders of classes, found {len(classes)}", False))
        raise ProblemsError(root, problems)
    paths: list[str] = []
    labels: list[int] = []
    for tree in trees:
        first_of_tree = len(paths)
        for label, name in enumerate(classes):
            chosen = _drawn(files[tree].get(name, []), request, label)
            paths += chosen
            labels += [label] * len(chosen)
    digests, headers, unreadable = _inspected(request, paths)
    problems += unreadable
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
        tuple(filter(None, [*notes, listing.left_out_text()])),
        streamed,
    )


def _trees(listing: PictureFiles, test: str, notes: list[str]) -> tuple[str, ...]:
    """The names of the folders to learn from and to test on or, for one tree to be split, `("",)`."""
    names = listing.folders()
    training = [name for name in names if name.lower() in TRAINING]
    testing = [name for name in names if name.lower() in TESTING]
    if len(names) == 2 and training and testing:
        if [*training, *testing] != ["train", test]:
            notes.append(f"took {training[0]} for the images to learn from, {testing[0]} for those to test on")
        return (*training, *testing)
    if not names:
        raise DataError(
            f"{listing.root}: expected folders train/<class>/ and {test}/<class>/, or <class>/, with images, found none"
        )
    if {"train", test} & {name.lower() for name in names}:
        raise DataError(f"{listing.root}: expected the folders train and {test} alone, found {', '.join(names):.200}")
    if training or testing:
        notes.append(f"took {', '.join(training + testing)} for classes, though they look like splits")
    return ("",)


def _files_of_classes(listing: PictureFiles, tree: str, notes: list[str]) -> Mapping[str, list[str]]:
    """Class → paths of its files, from the data set's folder.

    A class is what its name looks like: a Mac and a NAS may spell an accent as one character or as two.
    """
    files: dict[str, list[str]] = {}
    for name in listing.folders(tree):
        folder = f"{tree}/{name}" if tree else name
        inside = listing.files(folder)
        files.setdefault(unicodedata.normalize("NFC", name), []).extend(inside)
        if not inside:
            listing.problems.append(FileProblem(folder, "expected images, found an empty folder", False))
        if printable(name) != name:
            listing.problems.append(FileProblem(folder, "expected a class name of printable characters", False))
        inner = {path.split("/")[-2] for path in inside} - {name}
        if splits := sorted(other for other in inner if other.lower() in TRAINING + TESTING):
            notes.append(f"took all images in {folder} for one class, though it holds {', '.join(splits)}")
    return files


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
