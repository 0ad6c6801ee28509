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
from bnas.packed import fold
from bnas.records.dataset import DatasetDescription
from bnas.records.networks import NetworkTime, RetrainedNetwork, RetrainedNetworks, Role, read_rounded
from bnas.records.search import read_front
from bnas.records.training import EpochRecord, read_predictions
from bnas.scoring.scorer import ALL_BATCHES
from bnas.search.problem import SearchProblem
from bnas.space.baselines import hand_designed, size_matched, spread
from bnas.space.genotype import Genotype
from bnas.space.published import PUBLISHED
from bnas.space.search_space import SearchSpace
from bnas.storage.cache import MARK
from bnas.training import network_pool
from bnas.training.family import Recipe
from bnas.training.linear_baseline import train_linear
from bnas.training.ranks import ALONE, Ranks
from pipeline import build, networks
from pipeline.config import dataset, network_config
from pipeline.params import sections as schema
from pipeline.processes import main
from pipeline.stage import REPORTS, Stage, write_json
from pipeline.trial import finished_trial

TRIAL = Path("data/trial")
STAGE2 = Path("data/stage2")

NOT_OF_THE_RECIPE = set(schema.RetrainSection.model_fields) - set(schema.RecipeSection.model_fields)
"""Keys of `retrain` that say what is trained, not how."""


@dataclass(frozen=True)
class Candidate:
    """A network to be trained: its name and role, what its error was estimated by, the front member it matches."""

    name: str
    role: Role
    genotype: Genotype
    channels: int
    supernet_error: float | None
    matched: str | None = None
    trial_estimate: float | None = None


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
    trained = networks.family(params, description, recipe, device, ship=fold.shipped)
    together = trained_together(len(chosen), recipe, ranks)
    how = f"{ranks.size} processes, {params.runtime.threads} threads" if together else ""
    final = network_config(params, description, params.network.final)
    jobs = {
        c.name: networks.job(c.name, replace(final, channels=c.channels), c.genotype, trained, description, how)
        for c in chosen
    }
    if ranks.is_main:
        networks.start_over(jobs.values())
    waiting = [each for each in jobs.values() if ranks.is_main and not each.is_finished(section.epochs)]
    done = sum(each.unfinished().count for each in waiting)
    advance = stage.progress((len(waiting) + section.linear_baseline) * section.epochs, done)
    # Heaviest first, so that no long training is left to the end with one process idle.
    weights = {c.name: costs(c.genotype).ops * c.channels**2 for c in chosen}
    ordered = sorted(jobs.values(), key=lambda each: -weights[each.name])

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
    params = stage.params
    section, channels = params.retrain, params.network.final.channels
    front = read_front(TRIAL / "front.json").members
    for member in front:
        problem.space.validate(member.genotype)
    if len(front) < section.count:
        warnings.warn(f"retrain.count: {section.count} asked for, the front has {len(front)}", stacklevel=1)
    members = [front[i] for i in spread([m.size_bytes for m in front], section.count)]
    build.split("test", description, params.runtime)  # only to know that it is whole before any time is spent
    scorer = build.frozen_scorer(stage, description, problem.space, STAGE2, ranks)
    error = partial(scorer.error, count=ALL_BATCHES)
    genotypes = [member.genotype for member in members]
    chosen = [Candidate(f"front-{i}", "front", g, channels, error(g)) for i, g in enumerate(genotypes, 1)]
    chosen += matched(genotypes, section, problem.costs, channels, error)
    chosen += fixed(section, problem.space, channels, error)
    score = partial(scorer.errors, count=build.scored_batches(params.search.evaluation))
    trial = finished_trial(problem, score, ranks)
    if trial is None:
        return chosen
    return [
        replace(each, trial_estimate=trial.final([each.genotype])[0]) if each.channels == channels else each
        for each in chosen
    ]


def matched(
    front: Sequence[Genotype],
    section: schema.RetrainSection,
    costs: CostTable,
    channels: int,
    error: Callable[[Genotype], float | None],
) -> list[Candidate]:
    """Random architectures of the sizes of the front's, so many for each; further ones have a number of their own."""
    found = []
    rng, known = random.Random(section.seed), list(front)
    for further in range(section.random_per_front):
        genotypes = size_matched(front, costs.space, costs.size, rng, known)
        known += genotypes
        for i, genotype in enumerate(genotypes, 1):
            name = f"random-{i}" + (f"-{further + 1}" if further else "")
            found.append(Candidate(name, "random", genotype, channels, error(genotype), f"front-{i}"))
    return found


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
        trial_estimate=candidate.trial_estimate,
        wrong=int((~answers.correct).sum()),
        test_images=len(answers.labels),
        epochs=epochs,
        matched=candidate.matched,
        rounded=read_rounded(finished.folder / "rounded.json"),
        ram_bytes=weight.ram_bytes,
    )


if __name__ == "__main__":
    sys.exit(main("retrain", run))
