"""What the supernet tells apart: Kendall's tau-b of its scores with the errors of a table's networks trained in full.

A row for every way of training the supernet, each for 21 epochs but the default (13), on the prepared images of the run
(`make run` of the table's data set comes first), under two seeds. Scores are of the whole validation split with the
statistics of its mini-batches; for two ways also with those of training images, and after some steps of fine-tuning.
Supernets are trained side by side, one to a core: times are upper bounds. The table's networks were judged by images
that the supernet learns from or is scored on, but no training of theirs is seen by it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from bnas.data.batches import MiniBatches
from bnas.nn.network import Supernet
from bnas.scoring.scorer import ALL_BATCHES
from bnas.scoring.supernet_scorer import supernet_scorer
from bnas.search.coevolution_state import CoevolutionState
from bnas.space.genotype import Genotype
from bnas.space.topology import edge_name
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
GENERATION_EPOCHS = 2
"""A generation, unless a way says otherwise; the default run had as many before this study, and has one since."""

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

    `shared` says that an operation of a node has the same weights for all its sources, `nested` that kernels of 3×3 are
    the middle of those of 5×5, `further` that networks are also scored with statistics of training images, and after
    some steps of training from the supernet's weights.
    """

    change: Change
    uniform: float = 0.0
    shared: bool = False
    nested: bool = False
    further: bool = False


_UNIFORM = of_both({"epochs": 13, "generations": 0}, {"epochs": 8, "generations": 0})
_BRED = {"variation": {"crossover": 0.5, "mutation_rate": 0.1, "random_share": 0.0}}

WAYS: Mapping[str, Way] = {
    "co-evolved: the default": Way(of_both({"epochs_per_generation": 1})),
    "co-evolved": Way(of_both({}), further=True),
    "half of the paths uniform": Way(of_both({}), uniform=0.5),
    "nine epochs of warm-up, half of stage 1's generations": Way(of_both({"epochs": 9, "generations": 2}, {})),
    "uniform paths only": Way(_UNIFORM, further=True),
    "weights shared by sources": Way(of_both({}), shared=True),
    "weights shared by sources, uniform paths only": Way(_UNIFORM, shared=True),
    "kernels cut from larger ones": Way(of_both({}), nested=True),
    "the best of every size survive": Way(of_both({"selection": "bins"})),
    "no path dropout": Way(of_both({}, {"path_dropout": {"mode": "none", "maximum": 0.0}})),
    "no random offspring": Way(of_both(_BRED)),
}


def supernet() -> list[dict[str, Any]]:
    """A row for each way of training and seed."""
    path = TABLES / f"{load('params.yaml').data.name}.csv"
    if not path.exists():
        raise SystemExit(f"supernet: expected {path}, found none: dvc repro pipeline/tabular/dvc.yaml")
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(row, *zip(*product(WAYS, SEEDS), strict=True)))


def row(name: str, seed: int) -> dict[str, Any]:
    """The row of a way of training under a seed."""
    torch.set_num_threads(1)
    params, way = load("params.yaml"), WAYS[name]
    full = target(pd.read_csv(TABLES / f"{params.data.name}.csv"))
    return {"trained": name, "seed": seed} | measured(changed(params, way.change, seed), way, full)


def changed(params: Params, change: Change, seed: int) -> Params:
    """The parameters of a way of training: the default's, with longer generations, as the way changes them."""
    both = params.model_dump()
    for section in (both["stage1"], both["stage2"]):
        section["epochs_per_generation"] = GENERATION_EPOCHS
    change(both["stage1"], both["stage2"])
    both["stage1"]["seed"] = both["stage2"]["seed"] = seed
    return type(params).model_validate(both)


def measured(params: Params, way: Way, full: pd.DataFrame) -> dict[str, Any]:
    """What its scores agree with, and the time of its training."""
    start = time.perf_counter()
    trained = train(params, way)
    seconds = time.perf_counter() - start
    errors, losses = scores(trained, params, full)
    of_further = {
        "error, statistics of training images": recalibrated(trained, params, full) if way.further else None,
        "loss after fine-tuning": fine_tuned(trained, params, full) if way.further else None,
    }
    return {
        "tau, all sizes, error (95 %)": agreement(full, errors, equal=False),
        "tau, equal size, error (95 %)": agreement(full, errors, equal=True),
        "tau, all sizes, loss (95 %)": agreement(full, losses, equal=False),
        "tau, equal size, loss (95 %)": agreement(full, losses, equal=True),
        **{
            f"tau, equal size, {name} (95 %)": None if values is None else agreement(full, values, equal=True)
            for name, values in of_further.items()
        },
        "s of training": round(seconds),
    }


def train(params: Params, way: Way) -> Supernet:
    """Both stages as the pipeline runs them, from the start, but for what a way has beside its parameters."""
    problem = build.problem(params, dataset())
    net, population, generations = build.new_supernet(params, dataset(), problem.space, params.stage1.seed), [], 0
    if way.shared:
        share_by_source(net)
    if way.nested:
        nest_kernels(net)
    with (
        tempfile.TemporaryDirectory() as folder,
        # A checkpoint would not know of the share.
        mock.patch.object(cache, "resumable", return_value=FROM_THE_START),
        # A file of weights cannot hold shared ones.
        mock.patch.object(stages, "save_weights"),
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


class Middle(nn.Module):
    """In the place of weights `[C', C, k - 2, k - 2]`: the middle of the weights of a larger kernel."""

    def __init__(self, larger: nn.Module) -> None:
        super().__init__()
        self.larger = (larger,)  # not a submodule: its weights are trained in their own place

    def forward(self, _: Tensor) -> Tensor:
        """The middle, whatever the weights in whose place it stands."""
        weight = self.larger[0].weight
        assert isinstance(weight, Tensor)
        return weight[:, :, 1:-1, 1:-1].contiguous(memory_format=torch.channels_last)


def nest_kernels(net: Supernet) -> None:
    """From now on a kernel of 3×3 is the middle of that of 5×5 on the same edge, dilated or not."""
    for cell, layout in zip(net.cells, net.topology.cells, strict=True):
        for edge in (edge for node in layout.nodes for edge in node if "conv_3x3" in edge.op):
            larger = cell.edges[edge_name(edge.node, edge.source, edge.op.replace("3x3", "5x5"))]
            parametrize.register_parametrization(cell.edges[edge.name].conv, "weight", Middle(larger.conv))


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


def recalibrated(net: Supernet, params: Params, full: pd.DataFrame) -> Values:
    """Errors of the table's networks, each with the statistics that it has on training images."""
    seen = build.scoring_data(params, dataset(), build.normalise(dataset(), next(net.parameters()).device))
    plan = replace(build.scoring(params, params.search.evaluation), batch_norm="recalibrated")
    genotypes = [Genotype.from_json(each) for each in full["genotype"]]
    return pd.Series(supernet_scorer(net, plan, seen, 0).errors(genotypes, count=ALL_BATCHES), full.index)


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
