"""Stage `retrain`: members of the front and baselines trained from scratch under one recipe, tested once."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import bnas
from bnas import baselines, family, pareto
from bnas.cache import CHECKPOINTS, NETWORKS
from bnas.cost import CostTable, cost
from bnas.evaluate import Problem
from bnas.linear import train_linear
from bnas.network import Network, NetworkConfig
from bnas.published import PUBLISHED
from bnas.results import (
    DatasetDescription,
    NetworkTime,
    RetrainedNetwork,
    RetrainedNetworks,
    Role,
    read_front,
    read_predictions,
)
from bnas.space import Genotype, SearchSpace
from pipeline import build, cache
from pipeline import params as schema
from pipeline.config import dataset, files_root, network_config
from pipeline.stage import PREPARED, REPORTS, Stage, cache_root, main, write_json

SEARCH = Path("data/search")
SUPERNET = Path("data/stage2/supernet.safetensors")

TRAINING_CODE = (
    "__init__",
    "arrays",
    "augment",
    "auxiliary",
    "binarize",
    "checkpoint",
    "compiled",
    "config",
    "convolutions",
    "data",
    "family",
    "files",
    "fused",
    "fused_kernels",
    "images",
    "indexed",
    "lock",
    "network",
    "ops",
    "results",
    "space",
    "stream",
    "train",
    "views",
    "weights",
)
"""The modules that `bnas.family` imports, directly or not, and itself: what a finished network depends on."""


NOT_OF_THE_RECIPE = {"count", "hand_designed_channels", "linear_baseline", "published"}
"""Keys of `retrain` that say what is trained, not how."""


@dataclass(frozen=True)
class Candidate:
    """A network to be trained: its name and role, its supernet error, the front member it was matched to."""

    name: str
    role: Role
    genotype: Genotype
    channels: int
    supernet_error: float | None
    matched: str | None = None


def run(stage: Stage) -> None:
    """Choose networks and train them."""
    description = dataset()
    problem = build.problem(stage.params, description)
    train(stage, candidates(stage, description, problem), description, problem.costs)


def train(stage: Stage, chosen: Sequence[Candidate], description: DatasetDescription, costs: CostTable) -> None:
    """Train candidates side by side (networks finished earlier are taken from the cache), and collect their results."""
    params, section = stage.params, stage.params.retrain
    device = build.device(params.runtime)
    build.require_bfloat16(section.mixed_precision, device, "retrain")
    recipe = family.Recipe(**section.model_dump(exclude=NOT_OF_THE_RECIPE))
    data = family.FamilyData(
        PREPARED,
        description.mean,
        description.std,
        build.augmentation(params),
        files_root(description, params.runtime),
        params.runtime.loader_workers,
    )
    jobs = {
        c.name: job(c, network_config(params, description, params.network.final), recipe, data, description, device)
        for c in chosen
    }
    if cache.no_resume():
        for each in jobs.values():
            shutil.rmtree(each.folder, ignore_errors=True)
            each.unfinished().remove()
    waiting = [each for each in jobs.values() if not each.is_finished(section.epochs)]
    done = sum(each.unfinished().count for each in waiting)
    advance = stage.progress((len(waiting) + section.linear_baseline) * section.epochs, done)
    # Heaviest first, so that no long training is left to the end with one process idle.
    weights = {c.name: costs(c.genotype).ops * c.channels**2 for c in chosen}
    family.train_family(
        sorted(jobs.values(), key=lambda each: -weights[each.name]),
        recipe,
        data,
        device=device,
        workers=params.runtime.workers,
        on_epoch=lambda name, record: advance(1, f"{name}, epoch {record.epoch}/{section.epochs}"),
    )
    networks, times = [], []
    for candidate in chosen:
        finished, target = jobs[candidate.name], stage.out / candidate.name
        shutil.copytree(finished.folder, target)
        seconds = family.read_seconds(target)
        (target / "seconds.json").unlink()
        times.append(NetworkTime(candidate.name, seconds).to_dict())
        networks.append(result(candidate, finished, target, description, section.epochs))
    if section.linear_baseline:
        baseline = train_linear(
            recipe,
            data,
            len(description.classes),
            device,
            lambda record: advance(1, f"linear baseline, epoch {record.epoch}/{section.epochs}"),
        )
        write_json(stage.out / "linear.json", baseline.to_dict())
    write_json(stage.out / "networks.json", RetrainedNetworks(tuple(networks)).to_dict())
    write_json(REPORTS / "times" / "networks.json", times)


def candidates(stage: Stage, description: DatasetDescription, problem: Problem) -> list[Candidate]:
    """Members spread over the front, random architectures of their sizes, the hand-designed cell, published ones.

    Every one but a hand-designed one of another width has its supernet error, from the whole validation split.
    """
    params = stage.params
    section, channels = params.retrain, params.network.final.channels
    front = read_front(SEARCH / "front.json").members
    for member in front:
        problem.space.validate(member.genotype)
    if len(front) < section.count:
        warnings.warn(f"retrain.count: {section.count} asked for, the front has {len(front)}", stacklevel=1)
    members = [front[i] for i in pareto.spread([m.size_bytes for m in front], section.count)]
    build.split("test", description, params.runtime)  # only to know that it is whole before any time is spent
    scorer = build.frozen_scorer(params, description, problem.space, SUPERNET)
    checkpoints = cache.checkpoints(stage, scorer.batches.normalise.device)
    scorer.keep(checkpoints.save, checkpoints.newest())
    full = len(scorer.batches)
    chosen = [Candidate(f"front-{i}", "front", m.genotype, channels, m.error) for i, m in enumerate(members, 1)]
    matches = baselines.size_matched(
        [m.genotype for m in members], problem.space, problem.costs.size, random.Random(section.seed)
    )
    chosen += [
        Candidate(f"random-{i}", "random", g, channels, scorer.error(g, full), f"front-{i}")
        for i, g in enumerate(matches, 1)
    ]
    return chosen + fixed(section, problem.space, channels, lambda genotype: scorer.error(genotype, full))


def fixed(
    section: schema.Retrain, space: SearchSpace, channels: int, error: Callable[[Genotype], float | None]
) -> list[Candidate]:
    """What is the same for every search: the hand-designed cell at some widths, and published architectures."""
    found = []
    for width in section.hand_designed_channels:
        hand = baselines.hand_designed(space)
        found.append(Candidate(f"hand-{width}", "hand", hand, width, error(hand) if width == channels else None))
    for name in section.published:
        genotype = PUBLISHED[name]
        space.validate(genotype)
        found.append(Candidate(f"published-{name}", "published", genotype, channels, error(genotype)))
    return found


def job(
    candidate: Candidate,
    final: NetworkConfig,
    recipe: family.Recipe,
    data: family.FamilyData,
    description: DatasetDescription,
    device: torch.device,
) -> family.Job:
    """The training of a candidate; its folder is named by everything that determines the result, code included."""
    config = NetworkConfig(**{**asdict(final), "channels": candidate.channels})
    code = hashlib.sha256()
    for module in TRAINING_CODE:
        code.update((Path(bnas.__path__[0]) / f"{module}.py").read_bytes())
    determines = {
        "genotype": candidate.genotype.to_dict(),
        "config": asdict(config),
        "recipe": asdict(recipe),
        "augmentation": asdict(data.augmentation),
        "data": description.hash,
        "code": code.hexdigest(),
        "machine": cache.machine(device),
    }
    key = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:32]
    finished, unfinished = cache_root() / NETWORKS / key, cache_root() / CHECKPOINTS / f"network-{key}"
    return family.Job(candidate.name, config, candidate.genotype, finished, unfinished)


def result(
    candidate: Candidate, finished: family.Job, folder: Path, description: DatasetDescription, epochs: int
) -> RetrainedNetwork:
    """What the report needs of a finished network: cost, and errors counted from its per-image answers."""
    image = description.image
    shape = (image.channels, image.height, image.width)
    weight = cost(Network(finished.config, finished.genotype), shape)
    answers = read_predictions(folder / "predictions.csv")
    return RetrainedNetwork(
        name=candidate.name,
        role=candidate.role,
        genotype=candidate.genotype,
        channels=candidate.channels,
        cells=finished.config.cells,
        size_bytes=weight.size_bytes,
        params=weight.params,
        ops=weight.ops,
        supernet_error=candidate.supernet_error,
        wrong=int((~answers.correct).sum()),
        test_images=len(answers.labels),
        epochs=epochs,
        matched=candidate.matched,
    )


if __name__ == "__main__":
    sys.exit(main("retrain", run))
