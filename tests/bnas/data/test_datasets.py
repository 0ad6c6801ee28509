"""Data sets as torchvision reads them, from tiny files of their true formats; nothing is downloaded."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import socket
import struct
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets as published

from bnas.data.datasets import LOADERS
from bnas.data.labelled_images import LabelledImages, Request
from bnas.data.prepare import prepare
from bnas.data.problems import DataError
from bnas.data.split_rows import Cut

COUNT = {"train": 40, "test": 20}


def request(root: Path) -> Request:
    return Request(root, 0, 0, 0, 1)


def write_cifar(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Batches as the authors pickle them: rows of 3,072 bytes, plane by plane; torchvision is told their sums."""
    rng, known, pixels = np.random.default_rng(0), getattr(published, kind), {}
    folder = root / known.base_folder
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> str:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    fine, classes = kind == "CIFAR100", 100 if kind == "CIFAR100" else 10
    for split in ("train", "test"):
        files = getattr(known, f"{split}_list")
        each = classes * 4
        sums, parts = [], []
        for name, _ in files:
            data = rng.integers(0, 256, (each, 3072)).astype(np.uint8)
            labels = [i % classes for i in range(each)]
            rows = {"data": data, "fine_labels" if fine else "labels": labels}
            sums.append([name, write(name, rows)])
            parts.append(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        pixels[split] = np.concatenate(parts)
        monkeypatch.setattr(known, f"{split}_list", sums)
    names = [f"class {i}" for i in range(classes)]
    meta = dict(known.meta)
    meta["md5"] = write(meta["filename"], {meta["key"]: names})
    monkeypatch.setattr(known, "meta", meta)
    return pixels


def write_fashion(root: Path) -> dict[str, np.ndarray]:
    """idx files, compressed: magic number, dimensions, bytes."""
    rng, pixels = np.random.default_rng(0), {}
    folder = root / "FashionMNIST/raw"
    folder.mkdir(parents=True)
    for split, stem in (("train", "train"), ("test", "t10k")):
        count = COUNT[split]
        images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images", images), ("labels", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{stem}-{kind}-idx{array.ndim}-ubyte").write_bytes(header + array.tobytes())
        pixels[split] = images[..., None]
    return pixels


def check(found: LabelledImages, pixels: dict[str, np.ndarray], classes: int, out: Path) -> None:
    learnt, test = len(pixels["train"]), len(pixels["test"])
    assert found.own_test == test
    np.testing.assert_array_equal(found.images[:], np.concatenate([pixels["train"], pixels["test"]]))
    assert found.labels.tolist() == [i % classes for i in range(learnt)] + [i % classes for i in range(test)]
    out.mkdir()
    written = prepare(found, Cut(0, 0.9, 0.25, 0), out, skip=False)
    assert written.counts == {"train": learnt * 3 // 4, "validation": learnt // 4, "test": test}
    np.testing.assert_array_equal(np.load(out / "test/images.npy"), pixels["test"])


@pytest.mark.parametrize(("name", "kind", "classes"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100)])
def test_cifar_comes_as_its_authors_pickled_it(tmp_path, monkeypatch, name, kind, classes):
    pixels = write_cifar(tmp_path / "in", kind, monkeypatch)
    found = LOADERS[name](request(tmp_path / "in"))
    assert found.classes == tuple(f"class {i}" for i in range(classes))
    check(found, pixels, classes, tmp_path / "out")


def test_fashion_mnist_comes_from_idx_files(tmp_path):
    pixels = write_fashion(tmp_path / "in")
    found = LOADERS["fashion_mnist"](request(tmp_path / "in"))
    assert found.classes[9] == "Ankle boot"
    check(found, pixels, 10, tmp_path / "out")


def test_archives_that_were_put_there_are_unpacked_without_a_network(tmp_path, monkeypatch):
    write_fashion(tmp_path)
    sums = []
    for name, _ in published.FashionMNIST.resources:
        path = tmp_path / "FashionMNIST/raw" / name
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
        path.with_suffix("").unlink()
        sums.append((name, hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(published.FashionMNIST, "resources", sums)
    without_network(monkeypatch)
    assert len(LOADERS["fashion_mnist"](request(tmp_path)).labels) == 60


def repacked_fashion(root: Path) -> None:
    """Every file compressed by somebody else: none has the published sum of its archive."""
    write_fashion(root)
    for path in list((root / "FashionMNIST/raw").iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()


def test_archives_that_somebody_repacked_are_taken_by_their_content(tmp_path, monkeypatch):
    without_network(monkeypatch)
    pixels = write_fashion(tmp_path / "plain")
    repacked_fashion(tmp_path / "in")
    before = sorted((tmp_path / "in").rglob("*"))
    check(LOADERS["fashion_mnist"](request(tmp_path / "in")), pixels, 10, tmp_path / "out")
    assert sorted((tmp_path / "in").rglob("*")) == before, "what prepare depends on stays as it was"
    one = tmp_path / "in/FashionMNIST/raw/t10k-images-idx3-ubyte.gz"
    one.with_suffix("").write_bytes(gzip.decompress(one.read_bytes()))
    one.unlink()
    assert len(LOADERS["fashion_mnist"](request(tmp_path / "in")).labels) == 60, "some packed, some not"


def test_an_archive_of_cifar_that_somebody_repacked_is_taken_by_its_content(tmp_path, monkeypatch):
    without_network(monkeypatch)
    pixels = write_cifar(tmp_path / "plain", "CIFAR10", monkeypatch)
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "plain/cifar-10-batches-py", "cifar-10-batches-py")
        escape = tarfile.TarInfo("../escaped")
        archive.addfile(escape)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz with other content"):
        LOADERS["cifar10"](request(tmp_path / "in"))
    with tarfile.open(tmp_path / "in/cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "plain/cifar-10-batches-py", "cifar-10-batches-py")
    check(LOADERS["cifar10"](request(tmp_path / "in")), pixels, 10, tmp_path / "out")


# Named, for an archive holds the second in which it was made, and processes that share tests compare their names.
@pytest.mark.parametrize(
    "content",
    [b"no archive", gzip.compress(b"no idx file"), gzip.compress(bytes(1000))[:-12]],
    ids=["no archive", "no idx file", "cut"],
)
def test_an_archive_that_holds_something_else_is_named(tmp_path, monkeypatch, content):
    without_network(monkeypatch)
    repacked_fashion(tmp_path)
    path = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"found .*train-images-idx3-ubyte\.gz.* with other content \(") as error:
        LOADERS["fashion_mnist"](request(tmp_path))
    assert "\n" not in str(error.value)


def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("fashion_mnist", "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz"),
    ],
)
def test_without_files_and_network_one_line_says_what_to_put_where(tmp_path, monkeypatch, name, files):
    without_network(monkeypatch)
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        LOADERS[name](request(tmp_path / name))
    assert time.monotonic() - start < 5
    assert str(tmp_path / name / files) in str(error.value)
    assert "or a network to download from" in str(error.value)
    assert "\n" not in str(error.value)
    assert socket.getdefaulttimeout() is None


def test_a_pickle_that_is_not_the_published_one_is_never_read(tmp_path, monkeypatch):
    write_cifar(tmp_path, "CIFAR10", monkeypatch)

    class Hostile:
        def __reduce__(self):
            return (Path(tmp_path / "unpickled").touch, ())

    (tmp_path / "cifar-10-batches-py/data_batch_3").write_bytes(pickle.dumps(Hostile()))
    without_network(monkeypatch)
    with pytest.raises(DataError, match=r"expected .*cifar-10-python\.tar\.gz, or a network"):
        LOADERS["cifar10"](request(tmp_path))
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03" + bytes(4), bytes(range(200))])
def test_a_broken_idx_file_is_refused_in_one_line(tmp_path, monkeypatch, content):
    write_fashion(tmp_path)
    (tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte").write_bytes(content)
    without_network(monkeypatch)
    with pytest.raises(DataError, match="Fashion-MNIST") as error:
        LOADERS["fashion_mnist"](request(tmp_path))
    assert "\n" not in str(error.value)


def test_images_per_class_limits_an_own_test_split_as_well(tmp_path, monkeypatch):
    write_cifar(tmp_path / "in", "CIFAR10", monkeypatch)
    found = LOADERS["cifar10"](request(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    written = prepare(found, Cut(0, 0.9, 0.25, 4), tmp_path / "out", skip=False)
    assert written.counts == {"train": 30, "validation": 10, "test": 40}
