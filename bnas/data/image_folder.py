"""Folders of pictures: which classes and files there are, and what is wrong with them."""

from __future__ import annotations

import filecmp
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas.data.file_images import FileImages, Problem, side_by_side
from bnas.data.image_array import DataError
from bnas.data.labelled_images import Images, ProblemsError
from bnas.data.picture import Header, ImageError, read_header

NOT_PICTURES = ("thumbs.db", "desktop.ini")
"""What file managers leave in folders; so are names that start with a dot."""

AT_ONCE = 512
"""Files that are looked into before the next are listed for it."""

UNREADABLE = Header(False, 0, 0)


def image_folder(
    root: Path,
    title: str,
    *,
    test: str,
    size: int,
    per_class: int,
    seed: int,
    threads: int,
    resize: int | None = None,
    streamed: bool = False,
) -> Images:
    """The pictures in `train/<class>/` and `<test>/<class>/` below a folder, or in `<class>/`, to be split.

    Classes are the folders' names in order; their files may lie in further folders. No more than `per_class` files of
    each class in each tree, drawn by `seed`, are looked into (0 = all): header and bytes, not pixels. Pictures become
    `size` pixels square (0: all must be of one size); they have one channel if no file has colours, else three.
    What is wrong is collected in `problems`; raises ProblemsError where nothing is left to go on with.
    """
    trees = _trees(root, test)
    problems: list[Problem] = []
    found = {tree: _classes(root, tree, problems) for tree in trees}
    classes = sorted(set().union(*found.values()))
    for tree, other in ((a, b) for a in trees for b in trees if a != b):
        missing = sorted(set(found[other]) - set(found[tree]))
        problems += [Problem(f"{tree}/{name}", f"expected the class that is in {other}", False) for name in missing]
    if len(classes) < 2:
        problems.append(Problem("", f"expected at least two folders of classes, found {len(classes)}", False))
        raise ProblemsError(root, problems)
    paths: list[str] = []
    labels: list[NDArray[np.int64]] = []
    counts: list[int] = []
    for tree in trees:
        before = len(paths)
        for label, name in enumerate(classes):
            files = found[tree].get(name, [])
            if per_class and len(files) > per_class:
                drawn = np.random.default_rng([seed, label]).permutation(len(files))[:per_class]
                files = [files[i] for i in np.sort(drawn).tolist()]
            paths += files
            labels.append(np.full(len(files), label, np.int64))
        counts.append(len(paths) - before)
    digests, headers, bad = _inspected(root, paths, threads)
    problems += bad
    good = np.array([header is not UNREADABLE for header in headers], bool)
    if not good.any():
        raise ProblemsError(root, problems)
    usable = [header for header in headers if header is not UNREADABLE]
    height, width = (size, size) if size else _common_size(root, paths, headers, problems)
    pictures = FileImages(
        root, paths, height, width, 1 if all(header.grey for header in usable) else 3, resize, threads
    )
    whole = Images(
        title,
        tuple(classes),
        pictures,
        np.concatenate(labels),
        own_test=counts[1] if len(trees) == 2 else 0,
        digests=digests,
        problems=tuple(problems),
        streamed=streamed,
    )
    return whole.kept(good)


def _trees(root: Path, test: str) -> tuple[str, ...]:
    """`("train", <test>)` or, for one tree to be split, `("",)`."""
    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found none")
    names = {entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")}
    if not names & {"train", test}:
        if not names:
            raise DataError(
                f"{root}: expected folders train/<class>/ and {test}/<class>/, or <class>/, with images, found none"
            )
        return ("",)
    if names != {"train", test}:
        raise DataError(f"{root}: expected the folders train and {test} alone, found {', '.join(sorted(names)):.200}")
    return ("train", test)


def _classes(root: Path, tree: str, problems: list[Problem]) -> Mapping[str, list[str]]:
    """Class → paths of its files, from `root`."""
    found: dict[str, list[str]] = {}
    for entry in sorted(os.scandir(root / tree), key=lambda entry: entry.name):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        folder = f"{tree}/{entry.name}" if tree else entry.name
        found[entry.name] = [f"{folder}/{name}" for name in _files(entry.path, problems, folder)]
        if not found[entry.name]:
            problems.append(Problem(folder, "expected images, found an empty folder", False))
        if not entry.name.isprintable():
            problems.append(Problem(folder, "expected a class name of printable characters", False))
    return found


def _files(folder: str, problems: list[Problem], where: str) -> Iterator[str]:
    """Files below a folder in a fixed order, but for those that are no pictures by their names."""

    def unreadable(error: OSError) -> None:
        problems.append(Problem(where, f"expected a folder that can be read, found {error.strerror}", False))

    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(place, folder)
        for name in sorted(names):
            if not name.startswith(".") and name.lower() not in NOT_PICTURES:
                yield name if inside == "." else f"{inside}/{name}"


def _inspected(
    root: Path, paths: Sequence[str], threads: int
) -> tuple[NDArray[np.uint64], list[Header], list[Problem]]:
    """Digest of the bytes and header of every file (`UNREADABLE` where there is none), and what is wrong."""
    problems: list[Problem] = []

    def look(name: str) -> tuple[int, Header]:
        path = root / name
        try:
            content = path.read_bytes()
            digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
            return digest, read_header(io.BytesIO(content), path)
        except ImageError as error:
            problems.append(Problem(name, str(error).removeprefix(f"{path}: ")))
        except OSError as error:
            problems.append(Problem(name, f"expected a file that can be read, found {error.strerror}"))
        return 0, UNREADABLE

    digests, headers = np.empty(len(paths), np.uint64), []
    known: dict[Header, Header] = {UNREADABLE: UNREADABLE}
    for start in range(0, len(paths), AT_ONCE):
        for i, (digest, header) in enumerate(side_by_side(look, paths[start : start + AT_ONCE], threads), start):
            digests[i] = digest
            headers.append(known.setdefault(header, header))  # millions of pictures have few sizes
    return digests, headers, sorted(problems)


def _common_size(
    root: Path, paths: Sequence[str], headers: Sequence[Header], problems: Sequence[Problem]
) -> tuple[int, int]:
    sizes: dict[tuple[int, int], str] = {}
    for path, header in zip(paths, headers, strict=True):
        if header is not UNREADABLE:
            sizes.setdefault((header.height, header.width), path)
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        text = (
            f"data.image_size: expected a size, for images differ: {a[0]}x{a[1]} in {first}, {b[0]}x{b[1]} in {second}"
        )
        raise ProblemsError(root, [*problems, Problem("", text, False)])
    return next(iter(sizes))


def copies(found: Images, of: NDArray[np.int64], among: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Pairs (row of `of`, the first row of `among` whose file has the same bytes)."""
    if found.digests is None or not isinstance(found.images, FileImages):
        return []
    root, paths = found.images.root, found.images.paths
    candidates = of[np.isin(found.digests[of], found.digests[among])]
    first = {
        int(found.digests[row]): int(row)
        for row in among[::-1][np.isin(found.digests[among[::-1]], found.digests[candidates])]
    }
    pairs = ((int(row), first[int(found.digests[row])]) for row in candidates)
    return [(a, b) for a, b in pairs if a != b and filecmp.cmp(root / paths[a], root / paths[b], shallow=False)]


def leaks(found: Images, rows: Mapping[str, NDArray[np.int64]]) -> list[Problem]:
    """Files to learn from that are, byte for byte, files of the test split."""
    learnt = np.sort(np.concatenate([part for name, part in rows.items() if name != "test"]))
    return [_copy(found, a, b) for a, b in copies(found, learnt, rows["test"])]


def without_copies(found: Images) -> tuple[Images, list[Problem]]:
    """Without files that could be learnt from and tested on: of equal ones a test split's own stays, else the first."""
    everyone = np.arange(len(found.labels))
    first_of_test = len(found.labels) - found.own_test
    among = everyone[first_of_test:] if found.own_test else everyone
    of = everyone[:first_of_test] if found.own_test else everyone
    pairs = copies(found, of, among)
    keep = np.ones(len(everyone), bool)
    keep[[a for a, _ in pairs]] = False
    return found.kept(keep), [_copy(found, a, b) for a, b in pairs]


def _copy(found: Images, row: int, other: int) -> Problem:
    assert isinstance(found.images, FileImages)
    return Problem(
        found.images.paths[row], f"expected no image of the test split, found the bytes of {found.images.paths[other]}"
    )
