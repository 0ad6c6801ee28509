"""Training on pictures that are read from their files meanwhile, against the same step on tensors; equality first."""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bnas.data.augmentation import Augmentation
from bnas.data.batches import TrainingFeed
from bnas.data.datasets import LOADERS
from bnas.data.file_images import FileImages
from bnas.data.labelled_images import Request
from bnas.data.picture import opened_image
from bnas.data.prepare import prepare
from bnas.data.reader_processes import Pictures
from bnas.data.split import Normalise, Split
from bnas.data.split_rows import Cut
from bnas.nn.auxiliary_head import WithAuxiliary
from bnas.nn.network import Network, NetworkConfig
from bnas.records.search import read_front
from bnas.training.loop import adam
from bnas.training.ranks import Ranks
from tests.benchmarks.measure import spread
from tests.benchmarks.text import table
from tests.bnas.ranks import together
from tests.imports import ROOT

SIDE, BATCH, CLASSES, A_CLASS = 224, 8, 4, 60
"""Of images and a mini-batch; classes of the generated tree and files in each, enough for one pass without repeats."""

FILE_SIZE, QUALITY = (500, 375), 98
"""Width and height of a typical file of ImageNet, and the quality at which it has such a file's 110 KiB."""

AUGMENTATION = Augmentation(0, True, 0, True, 0.4)
"""That of the preset imagenet-transfer."""

CONFIG = NetworkConfig(3, 1000, 48, 14, 8)
"""Networks of that preset."""

WAYS = (("preloaded", 1), ("0", 1), ("2", 1), ("preloaded", 2), ("2", 2))
"""`loader_workers` of each network, and networks that are trained side by side, one thread each."""

NETWORKS = {"smallest": (0.0, 4, WAYS), "middle": (0.5, 2, tuple(way for way in WAYS if way[0] in ("preloaded", "2")))}
"""Members of the transfer's front: place in it by size, rounds, and ways that are measured."""

DEMANDED = 0.9
"""Of the speed on preloaded tensors."""

PARTS_OF = 48
"""Files that the cost of one picture is measured on."""

LARGE = 256
"""Mini-batch of the preset, whose normalisation the training process pays for."""


def tree(root: Path) -> None:
    """ImageNet's layout, of random parts of the two photographs that scikit-learn holds, no two files equal."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = np.random.default_rng(0)
    for split, count in (("train", A_CLASS), ("val", 1)):
        for label in range(CLASSES):
            folder = root / split / f"n{label:08}"
            folder.mkdir(parents=True)
            for i in range(count):
                photograph = photographs[i % 2]
                height = photograph.height * rng.uniform(0.8, 1)
                width = height * FILE_SIZE[0] / FILE_SIZE[1]
                left, top = rng.uniform(0, photograph.width - width), rng.uniform(0, photograph.height - height)
                box = (left, top, left + width, top + height)
                picture = photograph.resize(FILE_SIZE, Image.Resampling.BICUBIC, box)
                picture.save(folder / f"{label}_{i}.JPEG", quality=QUALITY)


def prepared(folder: Path) -> Path:
    """The index of a tree, made as the stage makes it, beside the files in `raw`."""
    root, out = folder / "raw", folder / "prepared"
    tree(root)
    out.mkdir()
    prepare(LOADERS["imagenet"](Request(root, SIDE, 0, 0, 2)), Cut(0, 0.5, 1 / A_CLASS, 0), out, skip=False)
    return out


def feed(folder: Path, workers: int) -> TrainingFeed:
    """Training mini-batches read by so many processes."""
    split = Split.open(folder / "prepared/train", folder / "raw", workers)
    normalise = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), torch.device("cpu"))
    return TrainingFeed(split, BATCH, normalise, AUGMENTATION)


def streaming() -> list[dict[str, Any]]:
    """Images a second of every way, in rounds that alternate step by step, and ratios within a round."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        prepared(Path(name))
        parts = together(2, all_rounds, Path(name), context=multiprocessing.get_context("spawn"))
    assert all(isinstance(each, dict) for each in parts), parts
    for network, (_, _, ways) in NETWORKS.items():
        found = [each[network] for each in parts]
        for way in ways:
            workers, networks = way
            speeds = [value for each in found for value in each[way]]
            pairs = [a / b for each in found for a, b in zip(each[way], each["preloaded", networks], strict=True)]
            rows.append(
                {
                    "network": f"{network} of the front",
                    "networks side by side": networks,
                    "loader_workers": workers,
                    "images/s of one": spread(speeds),
                    "ratio": spread(pairs),
                }
            )
    return rows


Speeds = dict[tuple[str, int], list[float]]
"""Way → images a second of each round."""


def all_rounds(ranks: Ranks, folder: Path) -> dict[str, Speeds]:
    """Of every network."""
    torch.set_num_threads(1)
    return {network: rounds(ranks, folder, network) for network in NETWORKS}


def rounds(ranks: Ranks, folder: Path, network: str) -> Speeds:
    """Images a second of this rank, a step of each way in turn; ranks beside a network that is alone wait.

    A step counts from asking for its mini-batch. Whatever its workers read ahead is one mini-batch for each that is
    taken, so they have as much to do as in a long training; they have done it before the next way's turn.
    """
    share, count, ways = NETWORKS[network]
    step = Step(share)
    feeds: dict[str, Iterator[tuple[Tensor, Tensor]]] = {}
    first: dict[str, Tensor] = {}
    for workers in ("0", "2"):
        feeds[workers] = feed(folder, int(workers)).epoch(torch.Generator().manual_seed(0))
        images, labels = next(feeds[workers])
        first[workers] = images
    assert all(torch.equal(first["0"], each) for each in first.values()), "the same mini-batch, whoever reads it"
    del first
    feeds["preloaded"] = iter([(images, labels)] * 2 * (count + 1))
    found: Speeds = {way: [] for way in ways}
    for number in range(-1, count):
        for way in ways:
            workers, networks = way
            ranks.wait()
            if ranks.is_main or networks == 2:
                start = time.perf_counter()
                step(*next(feeds[workers]))
                if number >= 0:
                    found[way].append(BATCH / (time.perf_counter() - start))
            ranks.wait()
            time.sleep(0.05)  # what was read ahead has arrived
    return found


class Step:
    """A network of the front as the preset builds it, and one training step of it with the preset's losses."""

    def __init__(self, share: float) -> None:
        members = sorted(read_front(ROOT / "pipeline/transfer/front.json").members, key=lambda m: m.size_bytes)
        torch.manual_seed(0)
        genotype = members[round(share * (len(members) - 1))].genotype
        self.model = WithAuxiliary(Network(CONFIG, genotype)).to(memory_format=torch.channels_last)
        self.optimizer = adam(self.model, 0.0)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Forward, loss, backward, optimiser."""
        logits, auxiliary = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        loss = loss + 0.4 * F.cross_entropy(auxiliary, labels, label_smoothing=0.1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def reading() -> list[dict[str, Any]]:
    """What one picture costs one core, part by part, and what one worker process delivers if nobody trains."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(folder)
        files = Split.open(folder / "prepared/train", folder / "raw", 0).images
        assert isinstance(files, FileImages)
        kib = statistics.mean((files.root / path).stat().st_size for path in files.paths) / 2**10
        plain = Pictures((files,), Augmentation(0, False, 0, True, 0.0))
        whole = Pictures((files,), AUGMENTATION)
        jobs: dict[str, Callable[[int], object]] = {
            "decoded": lambda row: decoded(files, row),
            "+ cropped and scaled": lambda row: plain[row, row],
            "+ mirrored, colours changed": lambda row: whole[row, row],
        }
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for row in range(-1, PARTS_OF):
            for name, job in jobs.items():
                start = time.perf_counter()
                job(max(row, 0))
                if row >= 0:
                    times[name].append(1000 * (time.perf_counter() - start))
        normalise = feed(folder, 0).normalise
        pixels = torch.zeros(LARGE, SIDE, SIDE, 3, dtype=torch.uint8)
        times[f"normalised by the training process, {LARGE} at a time"] = normalised = []
        times[f"read and delivered by a worker, {BATCH} at a time"] = delivered = []
        for _ in range(5):
            start = time.perf_counter()
            normalise(pixels)
            normalised.append(1000 * (time.perf_counter() - start) / LARGE)
            batches = feed(folder, 1).epoch(torch.Generator().manual_seed(0))
            next(batches)
            start = time.perf_counter()
            count = sum(len(labels) for _, labels in batches)
            delivered.append(1000 * (time.perf_counter() - start) / count)
    return [
        {
            "a picture is": name,
            "ms": spread(values),
            "images/s": round(1000 / statistics.median(values)),
            "KiB of a file": round(kib),
        }
        for name, values in times.items()
    ]


def decoded(files: FileImages, row: int) -> None:
    """Open a picture and throw it away."""
    with opened_image(files.root / files.paths[row], files.channels):
        pass


def verdict(found: Mapping[str, Any]) -> list[str]:
    """Whether what is demanded is met, and what bounds it: computed from the figures."""
    rate = found["reading"][-1]["images/s"]
    sentences = []
    for row in found["streaming"]:
        if row["loader_workers"] != "2":
            continue
        side_by_side = row["networks side by side"]
        (tensors,) = (
            other["images/s of one"]["median"]
            for other in found["streaming"]
            if (other["network"], other["networks side by side"], other["loader_workers"])
            == (row["network"], side_by_side, "preloaded")
        )
        ratio = row["ratio"]["median"]
        where = "a core is free for reading" if side_by_side == 1 else "a network trains on each core"
        sentences.append(
            f"- {row['network']}, {where}: {ratio:.1%}, {'met' if ratio >= DEMANDED else 'missed'}. It trains on "
            f"{tensors:.3g} images/s, for which {tensors / rate:.2f} of a core has to read"
            + ("." if side_by_side == 1 else f"; sharing its own core, that leaves {rate / (rate + tensors):.1%}.")
        )
    return sentences


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown."""
    rate = found["reading"][-1]["images/s"]
    last = found["reading"][-1]
    return [
        "## Pictures read while training",
        f"JPEG files of {FILE_SIZE[0]}x{FILE_SIZE[1]} and {last['KiB of a file']} KiB in ImageNet's layout (parts of "
        f"photographs), random resized crops to {SIDE}x{SIDE}, mirrored, colours changed by 0.4; networks of "
        f"{CONFIG.cells} cells and {CONFIG.channels} channels with the stem of stride {CONFIG.stem_stride} and the "
        f"auxiliary head, as the preset imagenet-transfer builds them, mini-batches of {BATCH}, one thread each. Ways "
        "alternate step by step; ratios are to the step on preloaded tensors in the same round. Mini-batches were "
        "equal whoever read them.",
        table(found["streaming"]),
        "What a picture costs one core:",
        table([{name: value for name, value in row.items() if name != "KiB of a file"} for row in found["reading"]]),
        f"Demanded with the default of 2 loader workers: at least {DEMANDED:.0%} of the speed on preloaded tensors.",
        "\n".join(verdict(found)),
        f"So what bounds it is cores, not the way to the training process: each core beyond those that train reads "
        f"{rate} images/s, which is {DEMANDED:.0%} hidden up to {rate / DEMANDED:.0f} images/s of training; on a core "
        f"that trains, too, {DEMANDED:.0%} are met by networks that train on at most {rate * (1 / DEMANDED - 1):.0f} "
        f"images/s there. A GPU that trains on 1,000 images/s needs {DEMANDED * 1000 / rate:.1f} cores, and as many "
        "`runtime.loader_workers`.",
    ]


MEASURES: Mapping[str, Callable[[], Any]] = {"streaming": streaming, "reading": reading}
