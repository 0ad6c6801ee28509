"""One process with two threads against two processes with one thread each, over gloo on loopback; equality first."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from bnas.data.batches import Augmentation, MiniBatches, TrainingFeed
from bnas.data.split import Normalise, Split
from bnas.nn.network import Supernet
from bnas.scoring.scorer import Scorer
from bnas.scoring.ways import way_of
from bnas.space.network_config import NetworkConfig
from bnas.space.search_space import SearchSpace
from bnas.training.loop import CosineRate, Sharing, fit, new_training
from bnas.training.ranks import ALONE, Ranks
from tests.benchmarks.measure import spread
from tests.benchmarks.text import table
from tests.bnas.ranks import together

SCALES = {
    "default: 8 channels, 3 cells, 28x28": (NetworkConfig(1, 10, 8, 3, 2), 28, 24, 64),
    "16 channels, 8 cells, 32x32 in colour": (NetworkConfig(3, 10, 16, 8, 2), 32, 2, 8),
}
"""Supernet, side of an image, training steps and genotypes that are timed together."""

ROUNDS, BATCH, GROUP, SCORED = 3, 64, 32, 100
LAYOUTS = ("1 process x 2 threads", "2 processes x 1 thread")


def processes() -> list[dict[str, Any]]:
    """Images trained on, and architectures scored on 100 images, in a second: median and quartiles of both layouts."""
    rows = []
    found = together(2, all_rounds, context=multiprocessing.get_context("spawn"))
    assert all(isinstance(each, dict) for each in found), found
    for scale, main in found[0].items():
        for name in ("images/s", "architectures/s"):
            spreads = {layout: spread(main[name][layout]) for layout in LAYOUTS}
            ratio = spreads[LAYOUTS[1]]["median"] / spreads[LAYOUTS[0]]["median"]
            rows.append({"supernet": scale, "figure": name, **spreads, "ratio": round(ratio, 2)})
    return rows


def all_rounds(ranks: Ranks) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Of every scale."""
    return {scale: rounds(ranks, scale) for scale in SCALES}


def rounds(ranks: Ranks, scale: str) -> dict[str, dict[str, list[float]]]:
    """The figures of alternating rounds, the first of which is not counted; those of rank 0 are complete."""
    config, side, steps, count = SCALES[scale]
    images = np.random.default_rng(0).integers(0, 256, (BATCH * steps, side, side, config.in_channels)).astype(np.uint8)
    labels = np.arange(len(images)) % config.classes
    normalise = Normalise((0.5,) * config.in_channels, (0.25,) * config.in_channels, torch.device("cpu"))
    feed = TrainingFeed(Split(images, labels), BATCH, normalise, Augmentation(2, False))
    batches = MiniBatches(Split(images[:SCORED], labels[:SCORED]), SCORED, normalise, 0)
    space, rng = SearchSpace(nodes=3), random.Random(0)
    genotypes = [space.sample(rng) for _ in range(count)]
    torch.manual_seed(0)
    nets = {layout: Supernet(config, space).to(memory_format=torch.channels_last) for layout in LAYOUTS}
    nets[LAYOUTS[1]].load_state_dict(nets[LAYOUTS[0]].state_dict())
    found: dict[str, dict[str, list[float]]] = {n: {x: [] for x in LAYOUTS} for n in ("images/s", "architectures/s")}
    errors = []
    for number in range(-1, ROUNDS):
        for layout, group, threads in ((LAYOUTS[0], ALONE, 2), (LAYOUTS[1], ranks, 1)):
            torch.set_num_threads(threads)
            ranks.wait()
            if group.size > 1 or ranks.is_main:
                scorer = Scorer(batches, way_of(nets[layout], batches, workers=threads, ranks=group))
                if number < 0:
                    scorer.score(genotypes, 1)
                    errors.append([scorer.error(genotype, 1) for genotype in genotypes])
                    scorer = Scorer(batches, way_of(nets[layout], batches, workers=threads, ranks=group))
                seconds = timed(lambda scorer=scorer: scorer.score(genotypes, 1))
                trained = timed(lambda layout=layout, group=group: train(nets[layout], space, feed, group))
                if number >= 0:
                    found["architectures/s"][layout].append(count / seconds)
                    found["images/s"][layout].append(BATCH * steps / trained)
            ranks.wait()
    assert len({str(each) for each in errors}) == 1, "both layouts give the same answers"
    return found


def train(net: Supernet, space: SearchSpace, feed: TrainingFeed, ranks: Ranks) -> None:
    """An epoch on uniformly sampled paths."""
    rng = random.Random(0)
    paths = [space.sample(rng) for _ in range(feed.steps)]
    fit(
        lambda x, step, rows: net(x, paths[step]),
        new_training(net, 0.0, 0),
        feed,
        CosineRate(0.001, 0.001, feed.steps),
        1,
        sharing=Sharing(ranks, GROUP),
    )


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown."""
    return [
        "## Processes",
        f"A supernet trained on mini-batches of {BATCH} in BatchNorm groups of {GROUP}, and paths of it scored on "
        f"{SCORED} images, over gloo on one machine's two cores.",
        table(found["processes"]),
    ]


MEASURES: Mapping[str, Callable[[], Any]] = {"processes": processes}
