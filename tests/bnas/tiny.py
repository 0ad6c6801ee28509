"""The smallest things that still work: 8×8 images of four classes, a three-cell supernet, its problem."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import torch

from bnas.data.batches import Augmentation, MiniBatches, TrainingFeed
from bnas.data.split import Normalise, Split
from bnas.nn.cost import CostTable
from bnas.nn.network import Network, NetworkConfig, Supernet
from bnas.scoring.scorer import Scorer
from bnas.scoring.supernet_scorer import ScoringData, ScoringPlan, supernet_scorer
from bnas.scoring.ways import way_of
from bnas.search.coevolution import SupernetData, SupernetPlan
from bnas.search.frozen_search import SearchPlan
from bnas.search.generation import VariationRates
from bnas.search.problem import SearchProblem
from bnas.space.genotype import Gene, Genotype
from bnas.space.search_space import SearchSpace
from bnas.training.loop import CosineRate, fit, new_training
from bnas.training.ranks import ALONE, Ranks

CLASSES = 4
SPACE = SearchSpace(("skip_connect", "max_pool_3x3", "bin_conv_3x3"), nodes=2)
CONFIG = NetworkConfig(in_channels=1, classes=CLASSES, channels=4, cells=3)
SHAPE = (1, 8, 8)
MEAN, STD = (0.5,), (0.25,)
NORMALISE = Normalise(MEAN, STD, torch.device("cpu"))
PLAIN = Augmentation(0, False)
VARIATION = VariationRates(crossover=0.5, mutation_rate=0.1, random_share=0.25)


def split(count: int, seed: int = 0) -> Split:
    """Noise with one bright quadrant, which is the class; classes come in turn."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    images = rng.integers(0, 160, (count, 8, 8, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 90
    return Split(images, labels)


def numbered(count: int, first: int = 0) -> Split:
    """Images of one grey value each: their number, from `first` to at most 255; modulo 4, the class."""
    numbers = np.arange(first, first + count)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 1)).astype(np.uint8)
    return Split(images, numbers.astype(np.int64) % CLASSES)


def numbers(x: torch.Tensor) -> tuple[int, ...]:
    """The numbers of normalised images `[N, C, H, W]` of `numbered`."""
    grey = (x[:, 0, 0, 0] * STD[0] + MEAN[0]) * 255
    return tuple(round(value) for value in grey.tolist())


def write_split(folder: Path, part: Split) -> None:
    """A prepared split as the pipeline lays it out."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", part.images)
    np.save(folder / "labels.npy", part.labels)


def feed(part: Split, batch_size: int = 8, augmentation: Augmentation = PLAIN) -> TrainingFeed:
    return TrainingFeed(part, batch_size, NORMALISE, augmentation)


def batches(part: Split, batch_size: int = 8, seed: int = 0) -> MiniBatches:
    return MiniBatches(part, batch_size, NORMALISE, seed)


def supernet(seed: int = 0, config: NetworkConfig = CONFIG) -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Supernet(config, SPACE)


def network(genotype: Genotype, seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(CONFIG, genotype)


def trained_supernet(epochs: int = 8) -> Supernet:
    """A supernet that has learnt something on uniformly sampled paths."""
    net, rng = supernet(), random.Random(0)
    part = feed(split(64))
    rate = CosineRate(0.01, 0.0, epochs * part.steps)
    fit(lambda x, *_: net(x, SPACE.sample(rng)), new_training(net, 0.0, 0), part, rate, epochs)
    return net


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Whether all parameters and buffers are equal, bit for bit."""
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@functools.cache
def costs(space: SearchSpace) -> CostTable:
    return CostTable(CONFIG, space, SHAPE)


def problem(space: SearchSpace = SPACE, margin: float = 1.25, sampling: str = "size_stratified") -> SearchProblem:
    table = costs(space)
    return SearchProblem(space, table, table.size, margin, sampling)


def genotypes(count: int, seed: int = 0, space: SearchSpace = SPACE) -> list[Genotype]:
    """Distinct random genotypes of all sizes."""
    rng, found = random.Random(seed), dict[Genotype, None]()
    while len(found) < count:
        found.setdefault(space.sample_mixed(rng))
    return list(found)


def everywhere(op: str, nodes: int = SPACE.nodes) -> Genotype:
    """One operation on every edge, both cell inputs into every node."""
    cell = ((Gene(0, op), Gene(1, op)),) * nodes
    return Genotype(cell, cell)


def scorer(net, part: MiniBatches, calibration=(), workers: int = 1) -> Scorer:
    """A scorer of whatever is called like a supernet."""
    return Scorer(part, way_of(net, part, calibration, workers))


def scoring(**changes) -> ScoringPlan:
    values = {"batch_size": 8, "batch_norm": "batch", "calibration_batches": 2, "workers": 1}
    return ScoringPlan(**(values | changes))


def plan(**changes) -> SupernetPlan:
    values = {
        "stage": "stage1",
        "seed": 0,
        "population": 4,
        "epochs": 1,
        "generations": 2,
        "epochs_per_generation": 1,
        "learning_rate": 0.01,
        "final_learning_rate": 0.001,
        "weight_decay": 0.0,
        "selection": "auxiliary",
        "variation": VARIATION,
        "batches": 2,
    }
    return SupernetPlan(**(values | changes))


def data(train: Split, validation: Split, batch_size: int = 8, ranks: Ranks = ALONE, **changes) -> SupernetData:
    """What a stage trains on and scores with, by `scoring` with some changes."""
    seen, by = ScoringData(train, validation, NORMALISE), scoring(**changes)
    return SupernetData(feed(train, batch_size), lambda net, seed: supernet_scorer(net, by, seen, seed, ranks))


def search_plan(**changes) -> SearchPlan:
    values = {
        "seed": 0,
        "population": 4,
        "generations": 3,
        "selection": "alternate",
        "immigrants": 2,
        "variation": VARIATION,
        "batches": 2,
    }
    return SearchPlan(**(values | changes))
