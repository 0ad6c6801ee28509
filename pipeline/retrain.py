"""Stage `retrain`: members of the front and baselines trained from scratch under one recipe, tested once."""

from __future__ import annotations

import random
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bnas.nn.cost import CostTable, cost
from bnas.nn.network import Network
from bnas.packed.ties import shipped_off_ties
from bnas.records.dataset import DatasetDescription
from bnas.records.networks import NetworkTime, RetrainedNetwork, RetrainedNetworks, Role, read_rounded
from bnas.records.search import read_front
from bnas.records.training import EpochRecord, read_predictions
from bnas.scoring.scorer import ALL_BATCHES
from bnas.search.problem import SearchProblem
from bnas.space.baselines import hand_designed, size_matched, spread
from bnas.space.genotype import Genotype
from bnas.space.network_config import Architecture
from bnas.space.published import PUBLISHED
from bnas.storage.cache import MARK
from bnas.training import network_pool
from bnas.training.family import Recipe
from bnas.training.linear_baseline import train_linear
from bnas.training.ranks import ALONE, Ranks
from pipeline import build, networks
from pipeline.config import dataset
from pipeline.params import sections as schema
from pipeline.processes import main
from pipeline.stage import REPORTS, Stage, write_json
from pipeline.trial import finished_trial

TRIAL = Path("data/trial")
STAGE2 = Path("data/stage2")

NOT_OF_THE_RECIPE = set(schema.RetrainSection.model_fields) - set(schema.RecipeSection.model_fields)
"""Keys of `retrain` that say what is trained, not how."""

Error = Callable[[Genotype], float | None]
"""The validation error of a genotype with the supernet's weights; None where there is no supernet."""


@dataclass(frozen=True)
class Candidate:
    """A network to be trained: name, role, architecture, estimates of its error, the front member whose size it has."""

    name: str
    role: Role
    architecture: Architecture
    supernet_error: float | None
    matched: str | None = None
    trial_estimate: float | None = None


def run(stage: Stage, ranks: Ranks = ALONE) -> None:
    """Choose networks and train them."""
    description = dataset()
    problem = build.problem(stage.params, description)
    train(stage, candidates(stage, description, problem, ranks), description, ranks)


def train(
    stage: Stage,
    chosen: Sequence[Candidate],
    description: DatasetDescription,
    ranks: Ranks = ALONE,
) -> None:
    """Train candidates side by side (networks finished earlier are taken from the cache), and collect their results."""
    params, section = stage.params, stage.params.retrain
    device = build.device(params.runtime, ranks)
    build.require_bfloat16(section.mixed_precision, device)
    recipe = Recipe(**section.model_dump(exclude=NOT_OF_THE_RECIPE))
    trained = networks.family(params, description, recipe, device, ship=shipped_off_ties)
    together = trained_together(len(chosen), recipe, ranks)
    how = f"{ranks.size} processes, {params.runtime.threads} threads" if together else ""
    jobs = {c.name: networks.job(c.name, *c.architecture, trained, description, how) for c in chosen}
    if ranks.is_main:
        networks.start_over(jobs.values())
    waiting = [each for each in jobs.values() if ranks.is_main and not each.is_finished(section.epochs)]
    done = sum(each.unfinished().count for each in waiting)
    advance = stage.progress((len(waiting) + section.linear_baseline) * section.epochs, done)
    # Heaviest first, so that no long training is left to the end with one process idle.
    ordered = sorted(jobs.values(), key=lambda each: -weight(each.architecture, description.image.shape))

    def on_epoch(name: str, record: EpochRecord) -> None:
        advance(1, f"{name}, epoch {record.epoch}/{section.epochs}")

    if together:
        network_pool.train_together(ordered, trained, ranks=ranks, on_epoch=on_epoch)
    else:
        workers = params.runtime.workers
        network_pool.train_family(ordered, trained, workers=workers, on_epoch=on_epoch, ranks=ranks)
    if not ranks.is_main:
        return
    if section.linear_baseline:
        baseline = train_linear(trained, len(description.classes), partial(on_epoch, "linear baseline"))
        write_json(stage.out / "linear.json", baseline.to_dict())
    collect(stage, chosen, jobs, description, section.epochs)


def weight(architecture: Architecture, shape: tuple[int, int, int]) -> float:
    """The time of a training on images of this shape, up to a factor."""
    return cost(Network(*architecture), shape).ops


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
    finished_networks, times = [], []
    for candidate in chosen:
        finished, target = jobs[candidate.name], stage.out / candidate.name
        shutil.copytree(finished.folder, target, ignore=shutil.ignore_patterns("seconds.json", "rounded.json", MARK))
        times.append(NetworkTime(candidate.name, network_pool.read_seconds(finished.folder)).to_dict())
        finished_networks.append(result(candidate, finished, target, description, epochs))
    write_json(stage.out / "networks.json", RetrainedNetworks(tuple(finished_networks)).to_dict())
    write_json(REPORTS / "times" / "networks.json", times)


def candidates(
    stage: Stage, description: DatasetDescription, problem: SearchProblem, ranks: Ranks = ALONE
) -> list[Candidate]:
    """Members spread over the front, random architectures of their sizes, the hand-designed cell, published ones.

    Every one but a hand-designed one of another width has its supernet error, from the whole validation split, and what
    the trial lets expect of it.
    """
    params, front = stage.params, [member.genotype for member in read_front(TRIAL / "front.json").members]
    for genotype in front:
        problem.space.validate(genotype)
    build.split("test", description, params.runtime)  # only to know that it is whole before any time is spent
    scorer = build.frozen_scorer(stage, description, problem.space, STAGE2, ranks)
    chosen = of_front(front, params.retrain, problem.costs, partial(scorer.error, count=ALL_BATCHES))
    trial = finished_trial(problem, ranks)
    if trial is None:
        return chosen
    known = [each for each in chosen if each.supernet_error is not None]
    estimates = dict(zip(known, trial.final([each.architecture.genotype for each in known]), strict=True))
    return [replace(each, trial_estimate=estimates.get(each)) for each in chosen]


def of_front(
    front: Sequence[Genotype], section: schema.RetrainSection, costs: CostTable, error: Error
) -> list[Candidate]:
    """Members spread over the front, so many random architectures of the size of each, and the fixed ones."""
    if len(front) < section.count:
        warnings.warn(f"retrain.count: {section.count} asked for, the front has {len(front)}", stacklevel=1)

    def candidate(name: str, role: Role, genotype: Genotype, matched: str | None = None) -> Candidate:
        return Candidate(name, role, Architecture(costs.config, genotype), error(genotype), matched)

    members = [front[i] for i in spread([costs.size(genotype) for genotype in front], section.count)]
    chosen = [candidate(f"front-{i}", "front", genotype) for i, genotype in enumerate(members, 1)]
    rng, known = random.Random(section.seed), list(members)
    for further in range(section.random_per_front):
        genotypes = size_matched(members, costs.space, costs.size, rng, known)
        known += genotypes
        for i, genotype in enumerate(genotypes, 1):
            name = f"random-{i}" + (f"-{further + 1}" if further else "")
            chosen.append(candidate(name, "random", genotype, f"front-{i}"))
    return chosen + fixed(section, costs, error)


def fixed(section: schema.RetrainSection, costs: CostTable, error: Error) -> list[Candidate]:
    """Candidates that every search has: the hand-designed cell and published ones, each at some widths.

    Those of the space have their error in the supernet, at its width.
    """
    designs: list[tuple[str, Role, Genotype]] = []
    if section.hand_designed_channels:  # only then the space has to have what it needs
        designs.append(("hand", "hand", hand_designed(costs.space)))
    designs += [(name, "published", PUBLISHED[name]) for name in section.published]
    chosen = []
    for name, role, genotype in designs:
        for width in section.hand_designed_channels:
            architecture = Architecture(replace(costs.config, channels=width), genotype)
            scored = architecture.config == costs.config and genotype in costs.space
            chosen.append(Candidate(f"{name}-{width}", role, architecture, error(genotype) if scored else None))
    return chosen


def result(
    candidate: Candidate, finished: network_pool.Job, folder: Path, description: DatasetDescription, epochs: int
) -> RetrainedNetwork:
    """The record of a finished network: its cost, and errors counted from its per-image answers."""
    config, genotype = candidate.architecture
    whole = cost(Network(config, genotype), description.image.shape, config.shipped)
    answers = read_predictions(folder / "predictions.csv")
    return RetrainedNetwork(
        name=candidate.name,
        role=candidate.role,
        genotype=genotype,
        channels=config.channels,
        cells=config.cells,
        size_bytes=whole.size_bytes,
        params=whole.params,
        ops=whole.ops,
        supernet_error=candidate.supernet_error,
        trial_estimate=candidate.trial_estimate,
        wrong=int((~answers.correct).sum()),
        test_images=len(answers.labels),
        epochs=epochs,
        matched=candidate.matched,
        rounded=read_rounded(finished.folder / "rounded.json"),
        ram_bytes=whole.ram_bytes,
    )


if __name__ == "__main__":
    sys.exit(main("retrain", run))
