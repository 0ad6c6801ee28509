"""What the supernet tells apart: Kendall's tau-b of its scores with the errors of a table's networks trained in full.

A row for every way of training the supernet, each for the epochs of the default run, on the prepared images of the run
(`make run` of the table's data set comes first), under two seeds. Scores are of the whole validation split with the
statistics of its mini-batches. The table's networks were judged by images that the supernet learns from or is scored
on, but no training of theirs is seen by it.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pandas as pd
import torch
from torch.nn import functional as F

from bnas.data.batches import MiniBatches
from bnas.nn.network import Supernet
from bnas.search.coevolution_state import CoevolutionState
from bnas.space.genotype import Genotype
from bnas.storage.checkpoint import FROM_THE_START
from bnas.training.loop import adam
from bnas.training.ranks import ALONE
from pipeline import build, cache
from pipeline import supernet as stages
from pipeline.config import dataset
from pipeline.params import Params, load
from pipeline.stage import Stage
from tests.benchmarks.ranking import TABLES, Values, agreement, target
from tests.benchmarks.text import table as markdown

SEEDS = (0, 1)
TUNING_STEPS = 10
"""Of fine-tuning, on as many mini-batches of the train split, at the learning rate that stage 2 begins with."""

Change = Callable[[dict[str, Any], dict[str, Any]], None]
"""Changes the sections of both stages."""


def of_both(first: Mapping[str, Any], second: Mapping[str, Any] | None = None) -> Change:
    """Sets keys of stage 1 and stage 2; the same ones if no others are given."""

    def change(stage1: dict[str, Any], stage2: dict[str, Any]) -> None:
        stage1.update(first)
        stage2.update(first if second is None else second)

    return change


class Way(NamedTuple):
    """How a supernet is trained: the change of the default, the share of its paths that are drawn uniformly.

    `shared` says that an operation of a node has the same weights for all its sources, `fine_tuned` that networks are
    scored once more after some steps of training from the supernet's weights.
    """

    change: Change
    uniform: float = 0.0
    shared: bool = False
    fine_tuned: bool = False


_UNIFORM = of_both({"epochs": 13, "generations": 0}, {"epochs": 8, "generations": 0})
_BRED = {"variation": {"crossover": 0.5, "mutation_rate": 0.1, "random_share": 0.0}}

WAYS: Mapping[str, Way] = {
    "co-evolved: the default": Way(of_both({}), fine_tuned=True),
    "half of the paths uniform": Way(of_both({}), uniform=0.5),
    "nine epochs of warm-up, half of stage 1's generations": Way(of_both({"epochs": 9, "generations": 2}, {})),
    "uniform paths only": Way(_UNIFORM, fine_tuned=True),
    "weights shared by sources": Way(of_both({}), shared=True),
    "weights shared by sources, uniform paths only": Way(_UNIFORM, shared=True),
    "the best of every size survive": Way(of_both({"selection": "bins"})),
    "no path dropout": Way(of_both({}, {"path_dropout": {"mode": "none", "maximum": 0.0}})),
    "no random offspring": Way(of_both(_BRED)),
}


def supernet() -> list[dict[str, Any]]:
    """A row for each way of training and seed."""
    params = load("params.yaml")
    path = TABLES / f"{params.data.name}.csv"
    if not path.exists():
        raise SystemExit(f"supernet: expected {path}, found none: dvc repro pipeline/tabular/dvc.yaml")
    full = target(pd.read_csv(path))
    return [
        {"trained": name, "seed": seed} | measured(changed(params, way.change, seed), way, full)
        for name, way in WAYS.items()
        for seed in SEEDS
    ]


def changed(params: Params, change: Change, seed: int) -> Params:
    """The parameters of a way of training."""
    both = params.model_dump()
    change(both["stage1"], both["stage2"])
    both["stage1"]["seed"] = both["stage2"]["seed"] = seed
    return type(params).model_validate(both)


def measured(params: Params, way: Way, full: pd.DataFrame) -> dict[str, Any]:
    """What its scores agree with, and the time of its training."""
    start = time.perf_counter()
    trained = train(params, way)
    seconds = time.perf_counter() - start
    errors, losses = scores(trained, params, full)
    tuned = fine_tuned(trained, params, full) if way.fine_tuned else None
    return {
        "tau, all sizes, error (95 %)": agreement(full, errors, equal=False),
        "tau, equal size, error (95 %)": agreement(full, errors, equal=True),
        "tau, all sizes, loss (95 %)": agreement(full, losses, equal=False),
        "tau, equal size, loss (95 %)": agreement(full, losses, equal=True),
        "tau, equal size, loss after fine-tuning (95 %)": None if tuned is None else agreement(full, tuned, equal=True),
        "s of training": round(seconds),
    }


def train(params: Params, way: Way) -> Supernet:
    """Both stages as the pipeline runs them, from the start, but for what a way has beside its parameters."""
    problem = build.problem(params, dataset())
    net, population, generations = build.new_supernet(params, dataset(), problem.space, params.stage1.seed), [], 0
    if way.shared:
        share_by_source(net)
    with (
        tempfile.TemporaryDirectory() as folder,
        # A checkpoint would not know of the share.
        mock.patch.object(cache, "resumable", return_value=FROM_THE_START),
        uniform_paths(way.uniform, problem.space.sample, params.stage1.seed),
    ):
        for section, dropout in ((params.stage1, None), (params.stage2, params.stage2.path_dropout)):
            stage = Stage("stage2" if dropout else "stage1", params, Path(folder))
            stages.run(
                stage,
                section,
                net,
                problem,
                population,
                first_generation=generations + 1,
                ranks=ALONE,
                dropout=dropout,
            )
            stage.close()
            population = build.read_genotypes(stage.out / "population.json", problem.space)
            generations = section.generations
    return net.eval()


def share_by_source(net: Supernet) -> None:
    """From now on an operation of a node is one module for all sources of one stride."""
    for cell, layout in zip(net.cells, net.topology.cells, strict=True):
        for node in layout.nodes:
            first: dict[tuple[str, int], str] = {}
            for edge in node:
                cell.edges[edge.name] = cell.edges[first.setdefault((edge.op, edge.stride), edge.name)]


@contextmanager
def uniform_paths(share: float, sample: Callable[[random.Random], Genotype], seed: int) -> Iterator[None]:
    """Meanwhile this share of the paths of co-evolution is drawn uniformly."""
    rng, next_member = random.Random(seed), CoevolutionState.next_member

    def path(state: CoevolutionState) -> Genotype:
        return sample(rng) if rng.random() < share else next_member(state)

    with mock.patch.object(CoevolutionState, "next_member", path):
        yield


@torch.no_grad()
def scores(net: Supernet, params: Params, full: pd.DataFrame) -> tuple[Values, Values]:
    """Error and cross-entropy of the table's networks in the supernet."""
    seen = build.scoring_data(params, dataset(), build.normalise(dataset(), next(net.parameters()).device))
    batches = list(MiniBatches(seen.validation, params.search.evaluation.batch_size, seen.normalise, 0))
    errors, losses = [], []
    for genotype in map(Genotype.from_json, full["genotype"]):
        answers = [(net(x, genotype), labels) for x, labels in batches]
        errors.append(sum(int((logits.argmax(1) != labels).sum()) for logits, labels in answers))
        losses.append(sum(float(F.cross_entropy(logits, labels, reduction="sum")) for logits, labels in answers))
    return pd.Series(errors, full.index, dtype=float), pd.Series(losses, full.index)


def fine_tuned(net: Supernet, params: Params, full: pd.DataFrame) -> Values:
    """Cross-entropy of networks that go on from the supernet's weights for some steps, on mini-batches' statistics."""
    seen = build.scoring_data(params, dataset(), build.normalise(dataset(), next(net.parameters()).device))
    train = MiniBatches(seen.train, params.stage2.batch_size, seen.normalise, 0)
    validation = list(MiniBatches(seen.validation, params.search.evaluation.batch_size, seen.normalise, 0))
    steps, losses = [train[i % len(train)] for i in range(TUNING_STEPS)], []
    for genotype in map(Genotype.from_json, full["genotype"]):
        network = net.extract(genotype).train()
        optimizer = adam(network, 0.0)
        for group in optimizer.param_groups:
            group["lr"] = params.stage2.learning_rate
        for x, y in steps:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(sum(float(F.cross_entropy(network(x), y, reduction="sum")) for x, y in validation))
    return pd.Series(losses, full.index)


def text(found: Mapping[str, Any]) -> list[str]:
    """The section of the report."""
    paragraph = (__doc__ or "").split("\n\n")[1].replace("\n", " ")
    rows = [{k: "-" if v is None else v for k, v in row.items()} for row in found["supernet"]]
    return ["## What the supernet tells apart", paragraph, markdown(rows)]


MEASURES = {"supernet": supernet}
