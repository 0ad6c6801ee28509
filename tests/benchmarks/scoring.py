"""Scoring a population against plain PyTorch that scores each individual by itself; equality first, then times.

Reference: 64 genotypes, 16 channels, 1,000 validation images. `converged` is the recorded end of a search
(`tests.benchmarks.evolved`), `random` is drawn uniformly.
"""

from __future__ import annotations

import functools
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F

from bnas.data.batches import MiniBatches
from bnas.nn.cost import CostTable
from bnas.nn.network import Supernet
from bnas.nn.operations import BinaryBlock
from bnas.packed.machine import available_cores
from bnas.scoring import fast_modules, shared_paths, ways
from bnas.scoring.answers import Answered, Questions, Way
from bnas.scoring.scorer import ALL_BATCHES, Scorer
from bnas.scoring.shared_paths import PathPlan, Paths
from bnas.search import selection
from bnas.search.frozen_search import Searched, SearchPlan, confirm_front, search
from bnas.search.problem import SearchProblem
from bnas.space.genotype import Genotype
from bnas.space.layout import Shape
from bnas.space.operations import Convolution
from bnas.space.search_space import SearchSpace
from pipeline.params import load
from tests.benchmarks.evolved import VARIATION, Digits, converged, new_supernet, warmed
from tests.benchmarks.measure import compared, spread
from tests.benchmarks.plain import plain
from tests.benchmarks.text import table
from tests.imports import ROOT

SPACE = SearchSpace(nodes=3)
DEFAULT = load(ROOT / "pipeline/presets/mnist5k.yaml").search.evaluation
BATCH_SIZES = (50, 100, 250)
ROUNDS = 2


@functools.cache
def trained() -> tuple[Digits, Supernet]:
    """28×28 digits and a supernet that has seen them for an epoch."""
    digits = Digits()
    return digits, warmed(new_supernet(digits.config(16, 3, 2), SPACE), digits, 1).eval()


def drawn(count: int, seed: int = 0) -> list[Genotype]:
    """Distinct random genotypes."""
    rng, found = random.Random(seed), dict[Genotype, None]()
    while len(found) < count:
        found.setdefault(SPACE.sample(rng))
    return list(found)


def rounds(
    calls: Mapping[str, Callable[[], object]], count: int = ROUNDS, warm_up: int = 1
) -> dict[str, dict[str, float]]:
    """Seconds of each call in so many alternating rounds, after some to warm up: median and quartiles."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(warm_up + count):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if index >= warm_up:
                found[name].append(time.perf_counter() - start)
    return {name: spread(values * 2 if count == 1 else values) for name, values in found.items()}


def together(net: Supernet, batches: MiniBatches, genotypes: Sequence[Genotype], count: int, workers: int) -> Scorer:
    """A fresh scorer that has scored everyone."""
    scorer = Scorer(batches, ways.together(net, batches, workers))
    scorer.score(genotypes, count)
    return scorer


@plain()
def alone(net: Supernet, batches: MiniBatches, genotypes: Sequence[Genotype], count: int, workers: int) -> Scorer:
    """The same by the path that calls the supernet itself, individuals side by side on a thread each."""
    scorer = Scorer(batches, ways.one_by_one(lambda genotype: lambda x: net(x, genotype), batches, workers))
    scorer.score(genotypes, count)
    return scorer


@plain()
def one_after_another(net: Supernet, batches: MiniBatches, genotypes: Sequence[Genotype], count: int) -> None:
    """Plain PyTorch with all threads inside each operation."""
    torch.set_num_threads(available_cores())
    with torch.no_grad():
        for genotype in genotypes:
            for index in range(count):
                net(batches[index][0], genotype)
    torch.set_num_threads(1)


def populations() -> list[dict[str, Any]]:
    """Both populations on all cores, in the rival's best layout and mini-batch size."""
    digits = Digits()
    net = new_supernet(digits.config(16, 3, 2), SPACE).eval()
    return [
        {"population": name, "images": "28x28"} | compare(net, digits, genotypes)
        for name, genotypes in (("converged", converged()), ("random", drawn(64)))
    ]


def compare(net: Supernet, digits: Digits, genotypes: Sequence[Genotype]) -> dict[str, Any]:
    """One row of `populations`."""
    cores = available_cores()
    torch.set_num_threads(1)
    few = genotypes[:: len(genotypes) // 4]
    rivals = {
        f"side by side, {size} images": partial(alone, net, digits.batches(size), few, 250 // size, cores)
        for size in BATCH_SIZES
    } | {
        f"one after another, {size} images": partial(one_after_another, net, digits.batches(size), few, 250 // size)
        for size in BATCH_SIZES[1:]
    }
    best = min((times := rounds(rivals, 1, 0)), key=lambda name: times[name]["median"])
    size = int(best.split()[-2])
    batches, count = digits.batches(size), max(1, 250 // size)
    rival = alone if best.startswith("side") else one_after_another
    theirs = partial(rival, net, batches, genotypes, count, *([cores] if rival is alone else []))
    ours = partial(together, net, batches, genotypes, count, cores)
    ours()  # The rival is warm from the choice of its best way.
    found = rounds({"plain": theirs, "ours": ours}, warm_up=0)
    images = batches.images(count)
    ratio = found["plain"]["median"] / found["ours"]["median"]
    return {
        "plain": best,
        "plain s": found["plain"],
        "ours s": found["ours"],
        "ratio": round(ratio, 2),
        "architectures/s (1,000 images each)": round(len(genotypes) / found["ours"]["median"] * images / 1000, 1),
    }


def equality() -> list[dict[str, Any]]:
    """Predicted classes on 500 images: ours against PyTorch's, and both against PyTorch's in float64.

    Statistics are sums in another order, and a value within rounding of zero may get the other sign, in PyTorch with
    another number of threads, too; float64 says who is nearer.
    """
    torch.set_num_threads(1)
    digits, net = trained()
    exact = new_supernet(net.config, SPACE).double()
    exact.load_state_dict({name: value.double() for name, value in net.state_dict().items()})
    rows = []
    for name, genotypes in (("converged", converged()), ("random", drawn(64))):
        few = genotypes[::16]
        counts: dict[str, int] = {}
        different = 0
        for index in range(5):
            x = digits.batches(100)[index][0]
            paths = Paths(net)
            with torch.no_grad(), plain():
                answers: dict[str, dict[Genotype, torch.Tensor]] = {
                    "ours": {g: y.argmax(1) for plan in paths.plans(few, x) for g, y in paths.logits(plan, x)},
                    "torch": {g: net(x, g).argmax(1) for g in few},
                    "float64": {g: exact(x.double(), g).argmax(1) for g in few},
                }
                torch.set_num_threads(2)
                answers["torch, 2 threads"] = {g: net(x, g).argmax(1) for g in few}
                torch.set_num_threads(1)
            for a, b in (
                ("ours", "torch"),
                ("torch, 2 threads", "torch"),
                ("ours", "float64"),
                ("torch", "float64"),
            ):
                between = sum(int((answers[a][g] != answers[b][g]).sum()) for g in few)
                counts[f"{a} / {b}"] = counts.get(f"{a} / {b}", 0) + between
            different += sum(
                int((answers["ours"][g] == digits.batches(100)[index][1]).sum())
                != int((answers["torch"][g] == digits.batches(100)[index][1]).sum())
                for g in few
            )
        total = len(few) * 500
        assert counts["ours / torch"] < 0.03 * total, f"{counts['ours / torch']} of {total} predictions differ"
        assert counts["ours / float64"] <= 1.2 * counts["torch / float64"] + 5, counts
        rows.append(
            {"population": name, "predictions": total}
            | {f"differ: {pair}": value for pair, value in counts.items()}
            | {"scores on a mini-batch that differ": f"{different} of {5 * len(few)}"}
        )
    return rows


def measured_costs(paths: Paths, plan: PathPlan, x: torch.Tensor) -> list[float]:
    """Seconds of each step: the least of three runs."""
    found = [float("inf")] * len(plan.steps)
    order = {step: i for i, step in enumerate(plan.steps)}
    take = paths._take

    def timed(step: shared_paths.Step, *rest: Any) -> Any:
        start = time.perf_counter()
        made = take(step, *rest)
        found[order[step]] = min(found[order[step]], time.perf_counter() - start)
        return made

    with mock.patch.object(paths, "_take", timed):
        for _ in range(4):
            for _ in paths.logits(plan, x):
                pass
    return found


def shares(plan: PathPlan, costs: Sequence[float]) -> tuple[float, float]:
    """Cost of all distinct values, and of the values that the genotypes need, each by itself."""
    makers = {step.made: i for i, step in enumerate(plan.steps) if step.made >= 0}
    total = 0.0
    for i, step in enumerate(plan.steps):
        if step.what != "head":
            continue
        needed, waiting = {i}, list(step.sources)
        while waiting:
            at = makers[waiting.pop()]
            if at not in needed:
                needed.add(at)
                waiting.extend(plan.steps[at].sources)
        total += len(step.genotypes) * sum(costs[at] for at in needed)
    return sum(costs), total


def sharing() -> list[dict[str, Any]]:
    """What sharing can save (from the measured cost of every distinct value) and what it does save; one thread."""
    torch.set_num_threads(1)
    digits = Digits()
    net = new_supernet(digits.config(16, 3, 2), SPACE).eval()
    x = digits.batches(100)[0][0]
    rows = []
    for name, genotypes in (("converged", converged()), ("random", drawn(64))):
        paths = Paths(net)
        (plan,) = paths.plans(genotypes, x)
        singles = [plan for genotype in genotypes for plan in paths.plans([genotype], x)]
        distinct, total = shares(plan, measured_costs(paths, plan, x))

        def run(plans: Sequence[PathPlan], paths: Paths = paths) -> None:
            for each in plans:
                for _ in paths.logits(each, x):
                    pass

        found = rounds({"alone": partial(run, singles), "together": partial(run, [plan])})
        possible = 1 - distinct / total
        saved = 1 - found["together"]["median"] / found["alone"]["median"]
        rows.append(
            {
                "population": name,
                "values": sum(len(single.steps) for single in singles),
                "distinct": len(plan.steps),
                "MiB of maps": round(plan.peak * 4 * len(x) / 2**20, 1),
                "alone s": found["alone"],
                "together s": found["together"],
                "can save": f"{possible:.1%}",
                "saved": f"{saved:.1%}",
                "of the bound": f"{saved / possible:.0%}",
            }
        )
    return rows


def ablation() -> list[dict[str, Any]]:
    """What sharing, arithmetic and layout contribute on 100 images, one after another, factors on the first."""
    torch.set_num_threads(1)
    digits, cores, genotypes = Digits(), available_cores(), converged()
    net = new_supernet(digits.config(16, 3, 2), SPACE).eval()
    batches = digits.batches(50)
    called = mock.patch.object(shared_paths, "frozen", lambda module, shape: fast_modules._Called(module))

    def torch_together(genotypes: Sequence[Genotype] = genotypes) -> None:
        with called, plain():
            together(net, batches, genotypes, 2, 1)

    def ours_alone(genotypes: Sequence[Genotype] = genotypes) -> None:
        paths = Paths(net)
        for genotype in genotypes:
            for index in range(2):
                x = batches[index][0]
                for plan in paths.plans([genotype], x):
                    list(paths.logits(plan, x))

    torch_together(genotypes[:4])  # The others are warm from the rounds before, or need no more than this.
    ours_alone(genotypes[:4])
    found = rounds(
        {
            "plain, 1 thread": partial(alone, net, batches, genotypes, 2, 1),
            "shared, PyTorch's modules, 1 thread": torch_together,
            "fused and binary, not shared, 1 thread": ours_alone,
            "fused, binary and shared, 1 thread": partial(together, net, batches, genotypes, 2, 1),
            f"fused, binary and shared, {cores} threads": partial(together, net, batches, genotypes, 2, cores),
        },
        warm_up=0,
    )
    first = found["plain, 1 thread"]["median"]
    return [
        {"way": way, "s": seconds, "times faster": round(first / seconds["median"], 2)}
        for way, seconds in found.items()
    ]


def blocks() -> list[dict[str, Any]]:
    """One block of a mini-batch of 100, one thread: what BatchNorm, signs and the rest cost besides the convolution."""
    torch.set_num_threads(1)
    rows = []
    for channels, side in ((16, 14), (32, 7), (64, 4)):
        for kernel, dilation in ((3, 1), (5, 2)):
            block = BinaryBlock(
                channels, channels, Convolution(kernel, 1, dilation), sign=torch.sign, running_stats=False
            )
            block = block.to(memory_format=torch.channels_last)
            x = torch.randn(100, channels, side, side).contiguous(memory_format=torch.channels_last)
            shape = Shape(channels, side, side)
            bench, form = fast_modules.Workbench(), fast_modules.frozen(block, shape)
            source = fast_modules.from_tensor(x, bench)
            weight, padding = block.conv.weight.detach(), block.conv.padding

            def ours(form: Any = form, bench: Any = bench, source: Any = source) -> None:
                bench.give_back(form(source, bench))

            with torch.no_grad():
                found = compared(
                    {
                        "bare convolution": partial(F.conv2d, x, weight, None, 1, padding, dilation),
                        "PyTorch": partial(block, x),
                        "ours": ours,
                    }
                )
            rows.append(
                {"channels": channels, "side": side, "kernel": f"{kernel}x{kernel}, dilation {dilation}"}
                | {f"{name} ms": value for name, value in found.items()}
                | {"PyTorch / ours": round(found["PyTorch"]["median"] / found["ours"]["median"], 1)}
            )
    return rows


def growth() -> list[dict[str, Any]]:
    """Evaluated architectures a second (100 images each, all cores, random populations), against size."""
    torch.set_num_threads(1)
    digits, rows = Digits(), []
    cases = [(8, 3, 64), (16, 3, 64), (32, 3, 64), (16, 5, 64), (16, 8, 64), (16, 3, 16), (16, 3, 256)]
    for channels, cells, count in cases:
        net = new_supernet(digits.config(channels, cells, 2), SPACE).eval()
        call = partial(together, net, digits.batches(50), drawn(count), 2, available_cores())
        together(net, digits.batches(50), drawn(8), 2, available_cores())  # warm
        found = rounds({"s": call}, 2, 0)["s"]
        rows.append(
            {"channels": channels, "cells": cells, "population": count}
            | {"s": found, "architectures/s": round(count / found["median"], 1)}
        )
    return rows


def timed(way: Way, seconds: list[float]) -> Way:
    """The way, which notes how long it was at work, from each question to its last answer."""

    def answers(questions: Questions) -> Iterator[Answered]:
        start = time.perf_counter()
        yield from way.answers(questions)
        seconds.append(time.perf_counter() - start)

    return Way(answers)


def sorting() -> dict[str, Any]:
    """Sorting alone, and what searches at population 128 do while nothing is scored."""
    torch.set_num_threads(1)
    objectives = np.random.default_rng(0).random((1000, 2))
    return {
        "sorting 1,000 individuals ms": compared({"sort": lambda: selection.fronts(objectives)})["sort"]["median"],
        "searches": [
            {"scores": "all images", **besides_scoring(100, ALL_BATCHES, 1)},
            {"scores": "the default's", **besides_scoring(DEFAULT.batch_size, DEFAULT.batches, 2)},
        ],
    }


def besides_scoring(batch_size: int, count: int, generations: int) -> dict[str, Any]:
    """What two whole searches at population 128 do while nothing is scored, on `count` mini-batches each."""
    digits = Digits()
    net = new_supernet(digits.config(16, 3, 2), SPACE).eval()
    costs = CostTable(net.config, SPACE, digits.shape)
    problem = SearchProblem(SPACE, costs, costs.size, 1.25, "size_stratified")

    def searched(scorer: Scorer, count: int, generations: int) -> Searched:
        plan = SearchPlan(0, 128, generations, "nsga2", 0, VARIATION, count)
        done = search(scorer, problem, plan, converged())
        confirm_front(done.evaluated, problem.resources(done.evaluated), scorer, count)
        return done

    gc.freeze()  # as every stage
    few = Digits(validation=200).batches(100)
    searched(Scorer(few, ways.together(net, few, available_cores())), 1, 1)  # warm
    whole, own = [], []
    for _ in range(2):
        seconds: list[float] = []
        batches = digits.batches(batch_size)
        scorer = Scorer(batches, timed(ways.together(net, batches, available_cores()), seconds))
        start = time.perf_counter()
        done = searched(scorer, count, generations)
        whole.append(time.perf_counter() - start)
        own.append(whole[-1] - sum(seconds))
    return {
        "generations": generations,
        "architectures": len(done.evaluated),
        "images each": round(scorer.image_evaluations / len(done.evaluated)),
        "search s": spread(whole),
        "besides scoring s": spread(own),
        "besides scoring %": spread([100 * mine / all_of_it for mine, all_of_it in zip(own, whole, strict=True)]),
    }


MEASURES: Mapping[str, Callable[[], Any]] = {
    "scoring equality": equality,
    "scoring populations": populations,
    "scoring sharing": sharing,
    "scoring ablation": ablation,
    "scoring blocks": blocks,
    "scoring growth": growth,
    "selection": sorting,
}
"""Name of the figures → what measures them."""


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as paragraphs of Markdown."""
    return [
        "## Scoring a population",
        "64 genotypes (the end of a search, or random ones), 16 channels, 3 cells, 3 nodes, all cores. Plain PyTorch "
        "scores each individual by itself without gradients, channels last, in the best of five layouts and batch "
        "sizes; both score the same mini-batches of 250 images in all.",
        table(found["scoring populations"]),
        "Predicted classes on 500 images of every sixteenth genotype in a supernet trained for an epoch. Sums of "
        "BatchNorm's statistics come in another order than PyTorch's, and a value within rounding of zero may get the "
        "other sign; the same happens in PyTorch with other threads. PyTorch in float64 says who is nearer.",
        table(found["scoring equality"]),
        "What sharing equal values can save on a mini-batch, from the measured cost of each, and what it saves:",
        table(found["scoring sharing"]),
        "What each part contributes, on 100 images and the converged population:",
        table(found["scoring ablation"]),
        "Where the arithmetic gains: one block on a mini-batch of 100, one thread.",
        table(found["scoring blocks"]),
        "How cost grows: architectures a second, each on 100 images, in random populations. Twice the channels cost "
        "about twice the time (BatchNorm, sums and signs grow with the channels; bits with their square, but many to "
        "an instruction). Depth is about linear. A population costs less for each member the larger it is, since more "
        "is shared, until sharing is exhausted; a small one leaves cores waiting at its end.",
        table(found["scoring growth"]),
        "Selection, variation, handling of genotypes: what searches at population 128 do while nothing is scored, on "
        "1,000 images, 16 channels, all cores. The default scores architectures on fewer images, so what is done for "
        "each of them weighs more. Sorting 1,000 individuals takes "
        f"{found['selection']['sorting 1,000 individuals ms']:.1f} ms.",
        table(found["selection"]["searches"]),
    ]
