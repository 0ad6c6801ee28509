"""Stage `retrain`: members of the front and baselines trained from scratch under one recipe, tested once."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from bnas.nn.cost import CostTable, cost
from bnas.nn.network import Network, NetworkConfig
from bnas.packed import fold
from bnas.records.dataset import DatasetDescription
from bnas.records.networks import NetworkTime, RetrainedNetwork, RetrainedNetworks, Role, read_rounded
from bnas.records.search import read_front
from bnas.records.training import EpochRecord, read_predictions
from bnas.search.problem import SearchProblem
from bnas.space.baselines import hand_designed, size_matched, spread
from bnas.space.genotype import Genotype
from bnas.space.published import PUBLISHED
from bnas.space.search_space import SearchSpace
from bnas.storage.cache import CHECKPOINTS, NETWORKS
from bnas.storage.source_code import source_hash
from bnas.training import network_pool
from bnas.training.family import Family, FamilyData, Recipe
from bnas.training.linear_baseline import train_linear
from bnas.training.ranks import ALONE, Ranks
from pipeline import build, cache
from pipeline.config import dataset, files_root, network_config
from pipeline.params import sections as schema
from pipeline.processes import main
from pipeline.stage import PREPARED, REPORTS, Stage, cache_root, write_json

SEARCH = Path("data/search")
STAGE2 = Path("data/stage2")

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


def run(stage: Stage, ranks: Ranks = ALONE) -> None:
    """Choose networks and train them."""
    description = dataset()
    problem = build.problem(stage.params, description)
    train(stage, candidates(stage, description, problem, ranks), description, problem.costs, ranks)


def train(
    stage: Stage,
    chosen: Sequence[Candidate],
    description: DatasetDescription,
    costs: CostTable,
    ranks: Ranks = ALONE,
) -> None:
    """Train candidates side by side (networks finished earlier are taken from the cache), and collect their results."""
    params, section = stage.params, stage.params.retrain
    device = build.device(params.runtime, ranks)
    build.require_bfloat16(section.mixed_precision, device)
    recipe = Recipe(**section.model_dump(exclude=NOT_OF_THE_RECIPE))
    data = FamilyData(
        PREPARED,
        description.mean,
        description.std,
        build.augmentation(params),
        files_root(description, params.runtime),
        params.runtime.loader_workers,
    )
    family = Family(recipe, data, device, fold.shipped)
    together = trained_together(len(chosen), recipe, ranks)
    how = f"{ranks.size} processes, {params.runtime.threads} threads" if together else ""
    final = network_config(params, description, params.network.final)
    jobs = {c.name: job(c, final, family, description, how) for c in chosen}
    if ranks.is_main and cache.no_resume():
        for each in jobs.values():
            shutil.rmtree(each.folder, ignore_errors=True)
            each.unfinished().remove()
    waiting = [each for each in jobs.values() if ranks.is_main and not each.is_finished(section.epochs)]
    done = sum(each.unfinished().count for each in waiting)
    advance = stage.progress((len(waiting) + section.linear_baseline) * section.epochs, done)
    # Heaviest first, so that no long training is left to the end with one process idle.
    weights = {c.name: costs(c.genotype).ops * c.channels**2 for c in chosen}
    ordered = sorted(jobs.values(), key=lambda each: -weights[each.name])

    def on_epoch(name: str, record: EpochRecord) -> None:
        advance(1, f"{name}, epoch {record.epoch}/{section.epochs}")

    if together:
        network_pool.train_together(ordered, family, ranks=ranks, on_epoch=on_epoch)
    else:
        workers = params.runtime.workers
        network_pool.train_family(ordered, family, workers=workers, on_epoch=on_epoch, ranks=ranks)
    if not ranks.is_main:
        return
    if section.linear_baseline:
        baseline = train_linear(family, len(description.classes), partial(on_epoch, "linear baseline"))
        write_json(stage.out / "linear.json", baseline.to_dict())
    collect(stage, chosen, jobs, description, section.epochs)


def trained_together(networks: int, recipe: Recipe, ranks: Ranks) -> bool:
    """Whether all ranks train each network together: where there are fewer networks than ranks.

    Not if the recipe's BatchNorm normalises more images together than a rank would have; a warning says so.
    """
    if networks >= ranks.size:
        return False
    groups = recipe.sharing().groups(recipe.batch_size)
    if groups < ranks.size:
        warnings.warn(
            f"retrain.batch_norm_group: expected at most {recipe.batch_size // ranks.size} for {ranks.size} processes "
            f"to train a network together, found {recipe.batch_norm_group}; {ranks.size - networks} have nothing to do",
            stacklevel=1,
        )
    return groups >= ranks.size


def collect(
    stage: Stage,
    chosen: Sequence[Candidate],
    jobs: Mapping[str, network_pool.Job],
    description: DatasetDescription,
    epochs: int,
) -> None:
    """Write what the finished networks' folders hold to the outputs."""
    networks, times = [], []
    for candidate in chosen:
        finished, target = jobs[candidate.name], stage.out / candidate.name
        shutil.copytree(finished.folder, target)
        seconds = network_pool.read_seconds(target)
        for told in ("seconds.json", "rounded.json"):  # what other files say
            (target / told).unlink()
        times.append(NetworkTime(candidate.name, seconds).to_dict())
        networks.append(result(candidate, finished, target, description, epochs))
    write_json(stage.out / "networks.json", RetrainedNetworks(tuple(networks)).to_dict())
    write_json(REPORTS / "times" / "networks.json", times)


def candidates(
    stage: Stage, description: DatasetDescription, problem: SearchProblem, ranks: Ranks = ALONE
) -> list[Candidate]:
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
    members = [front[i] for i in spread([m.size_bytes for m in front], section.count)]
    build.split("test", description, params.runtime)  # only to know that it is whole before any time is spent
    scorer = build.frozen_scorer(stage, description, problem.space, STAGE2, ranks)
    full = len(scorer.batches)
    chosen = [Candidate(f"front-{i}", "front", m.genotype, channels, m.error) for i, m in enumerate(members, 1)]
    matches = size_matched(
        [m.genotype for m in members], problem.space, problem.costs.size, random.Random(section.seed)
    )
    chosen += [
        Candidate(f"random-{i}", "random", g, channels, scorer.error(g, full), f"front-{i}")
        for i, g in enumerate(matches, 1)
    ]
    return chosen + fixed(section, problem.space, channels, lambda genotype: scorer.error(genotype, full))


def fixed(
    section: schema.RetrainSection, space: SearchSpace, channels: int, error: Callable[[Genotype], float | None]
) -> list[Candidate]:
    """What is the same for every search: the hand-designed cell at some widths, and published architectures."""
    chosen = []
    for width in section.hand_designed_channels:
        hand = hand_designed(space)
        chosen.append(Candidate(f"hand-{width}", "hand", hand, width, error(hand) if width == channels else None))
    for name in section.published:
        genotype = PUBLISHED[name]
        space.validate(genotype)
        chosen.append(Candidate(f"published-{name}", "published", genotype, channels, error(genotype)))
    return chosen


def job(
    candidate: Candidate,
    final: NetworkConfig,
    family: Family,
    description: DatasetDescription,
    how: str = "",
) -> network_pool.Job:
    """The training of a candidate; its folder is named by everything that determines the result, code included.

    `how` tells processes and threads where the rounding depends on them.
    """
    config = NetworkConfig(**{**asdict(final), "channels": candidate.channels})
    determines = {
        "genotype": candidate.genotype.to_dict(),
        "config": asdict(config),
        "recipe": asdict(family.recipe),
        "augmentation": asdict(family.data.augmentation),
        "data": description.hash,
        "code": [source_hash(module.__name__) for module in (network_pool, fold)],
        "machine": f"{cache.machine(family.device)} {how}".strip(),
    }
    key = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:32]
    finished, unfinished = cache_root() / NETWORKS / key, cache_root() / CHECKPOINTS / f"network-{key}"
    return network_pool.Job(candidate.name, config, candidate.genotype, finished, unfinished)


def result(
    candidate: Candidate, finished: network_pool.Job, folder: Path, description: DatasetDescription, epochs: int
) -> RetrainedNetwork:
    """What the report needs of a finished network: cost, and errors counted from its per-image answers."""
    image = description.image
    shape = (image.channels, image.height, image.width)
    weight = cost(Network(finished.config, finished.genotype), shape, finished.config.shipped)
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
        rounded=read_rounded(finished.folder / "rounded.json"),
    )


if __name__ == "__main__":
    sys.exit(main("retrain", run))
