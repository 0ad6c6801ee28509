"""Packed networks to export: random ones of all forms, and a trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bnas.data.augmentation import Augmentation
from bnas.data.batches import TrainingFeed
from bnas.data.datasets import LOADERS
from bnas.data.split import Normalise, Split
from bnas.nn.network import Network
from bnas.packed.content import PackedContent
from bnas.packed.file import read, to_bytes
from bnas.packed.fold import packed, shipped
from bnas.packed.network import PackedNetwork
from bnas.packed.parameters import Parameters, joined
from bnas.packed.reference import run
from bnas.space.network_config import NetworkConfig
from bnas.space.shipped import SHIPPED
from bnas.training.loop import CosineRate, fit, new_training
from tests.bnas.packed import builders
from tests.bnas.packed.builders import Floats

MEAN, STD = builders.MEAN[:1], builders.STD[:1]


def random_content(folder: Path, seed: int) -> PackedContent:
    """A network whose configuration, genotype, image and numbers all follow from the seed."""
    rng = np.random.default_rng(seed)
    space = ("bnas", "darts")[seed % 2]
    config = NetworkConfig(
        in_channels=int(rng.integers(1, 4)),
        classes=int(rng.integers(2, 12)),
        channels=int(rng.choice([1, 2, 3, 5, 8, 11, 17])),
        cells=int(rng.integers(3, 6)),
        stem_stride=(1, 2, 4, 8)[seed // 2 % 4],
        shipped=list(SHIPPED)[seed % 3],
    )
    scale = config.stem_stride
    height, width = (int(side) for side in rng.integers(3 * scale, 9 * scale, 2))
    model = builders.network(config, int(rng.integers(1, 5)), seed, space)
    card = builders.card(model, (height, width))
    kind = ("normal", "grid", "tiny")[seed // 3 % 3]
    values = [parameters(rng, builders.parameters(rng, step), kind) for step in card.steps()]
    path = folder / f"{seed}.bnn"
    path.write_bytes(to_bytes(card, *joined(values)))
    return read(path)


def parameters(rng: np.random.Generator, drawn: Parameters, kind: str) -> Parameters:
    """The same kind of parameters: as they are; of few values, so that many sums are equal; or too small for float16's
    usual form."""
    if drawn is None or kind == "normal":
        return drawn

    def other(value: Any) -> Any:
        if value.dtype != np.float32:
            return value
        return builders.single(rng.choice(builders.GRID, value.shape)) if kind == "grid" else value * np.float32(1e-5)

    return type(drawn)(*map(other, drawn))


def expected(content: PackedContent, images: np.ndarray[Any, np.dtype[np.uint8]]) -> Floats:
    """What the slow reference computes, float32 `[N, classes]`."""
    network = PackedNetwork(content, 1)
    return run(network.steps, network.parameters, network.inputs(images))


def digits(path: Path) -> tuple[PackedContent, Split]:
    """A network of the default's form that was trained for a few seconds, and 1,000 images that it has not seen."""
    labelled = LOADERS["mnist5k"](None)  # type: ignore[arg-type]  # a set that is installed asks for nothing
    order = np.random.default_rng(0).permutation(len(labelled.labels))
    images, labels = labelled.images[order], labelled.labels[order]
    config = NetworkConfig(1, 10, 8, 3, stem_stride=2, shipped="int8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Network(config, builders.genotype(3, 3))
    normalise = Normalise(MEAN, STD, torch.device("cpu"))
    feed = TrainingFeed(Split(images[:1500], labels[:1500]), 50, normalise, Augmentation(0, False))
    fit(lambda x, *_: model(x), new_training(model, 0.0, 0), feed, CosineRate(0.01, 0.0, 6 * feed.steps), 6)
    model = shipped(model.eval())
    path.write_bytes(packed(model, builders.card(model, (28, 28))))
    return read(path), Split(images[-1000:], labels[-1000:])
