"""The training step against its bare convolutions; gradients are compared first, then times."""

from __future__ import annotations

import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function

from bnas.data.batches import Augmentation, TrainingFeed
from bnas.data.split import Normalise, Split
from bnas.kernels import passes
from bnas.nn import fused_block
from bnas.nn.binarize import BinaryConv2d
from bnas.nn.network import Network, NetworkConfig, Supernet
from bnas.packed.machine import available_cores
from bnas.space.genotype import Genotype
from bnas.space.search_space import SearchSpace
from bnas.training.loop import adam
from tests.benchmarks.measure import spread
from tests.benchmarks.plain import plain
from tests.benchmarks.text import table, transposed

BATCH, GENOTYPES = 64, 12

FEW = 3
"""Genotypes that show which memory format is the better one; as many, spread, have their peak memory taken, and are
timed in plain layers."""

COMPARED = 16
"""Images of the mini-batch on which gradients are compared."""

TOLERANCE = 1e-5
"""Relative norm of the difference of two gradients that count as equal."""

DEMANDED = 1.5
"""Most that a step may take, in floors."""

MOST_MEMORY = 0.6
"""Most memory that a step may take, in plain ones."""


@dataclass(frozen=True)
class Setting:
    """A supernet, its images, the threads it trains on, and how often each of its genotypes is timed."""

    name: str
    config: NetworkConfig
    nodes: int
    side: int
    threads: int
    rounds: int

    @property
    def space(self) -> SearchSpace:
        """All seven operations."""
        return SearchSpace(nodes=self.nodes)

    def genotypes(self) -> list[Genotype]:
        """The same ones every time."""
        rng = random.Random(0)
        return [self.space.sample(rng) for _ in range(GENOTYPES)]

    def batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a mini-batch."""
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(BATCH, self.config.in_channels, self.side, self.side, generator=rng)
        labels = torch.randint(0, self.config.classes, (BATCH,), generator=rng)
        return x.contiguous(memory_format=torch.channels_last), labels


REFERENCE = Setting("reference: 16 channels, 5 cells, 32x32", NetworkConfig(3, 10, 16, 5, 1), 4, 32, 2, 1)
DEFAULT = Setting("default: 8 channels, 3 cells, 28x28", NetworkConfig(1, 10, 8, 3, 2), 3, 28, 1, 3)
SETTINGS = {"reference": REFERENCE, "default": DEFAULT}


class Trainer:
    """A supernet and its optimiser, as `bnas.search.coevolution` trains them."""

    def __init__(self, setting: Setting) -> None:
        torch.manual_seed(0)
        self.supernet = Supernet(setting.config, setting.space).to(memory_format=torch.channels_last)
        self.optimizer = adam(self.supernet, 0.0)
        self.x, self.labels = setting.batch()

    def step(self, genotype: Genotype) -> None:
        """Forward, loss, backward, optimiser."""
        loss = F.cross_entropy(self.supernet(self.x, genotype), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def gradients(self, genotype: Genotype) -> Tensor:
        """Of all parameters on the path, in one vector, on `COMPARED` images."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.supernet(self.x[:COMPARED], genotype), self.labels[:COMPARED])
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in self.supernet.parameters() if p.grad is not None])


@contextmanager
def named_passes() -> Iterator[None]:
    """A profiler sees our convolutions under a name of their own."""
    names = {getattr(passes, kind): kind for kind in ("CONVOLVE", "GRADIENTS", "GATHER")}
    run_pass = fused_block.run_pass

    def run(kind: int, *arguments: Any, **options: Any) -> None:
        with record_function(f"convolution {names[kind]}") if kind in names else nullcontext():
            run_pass(kind, *arguments, **options)

    with patch.object(fused_block, "run_pass", run):
        yield


Shape = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def convolutions(trainer: Trainer, genotype: Genotype, lowered: bool) -> list[Shape]:
    """Input, weights, stride, padding and dilation of every convolution of a path; `lowered` as they are computed."""
    found: list[Shape] = []
    images = len(trainer.x)

    def look(layer: nn.Conv2d, args: tuple[Tensor], _: Tensor) -> None:
        shape, stride, padding, dilation = tuple(args[0].shape), layer.stride, layer.padding, layer.dilation
        if lowered and isinstance(layer, BinaryConv2d):
            step, stride, padding, dilation = layer.geometry
            shape = (*shape[:2], *(-(-side // by) for side, by in zip(shape[2:], step, strict=True)))
        found.append(((images, *shape[1:]), tuple(layer.weight.shape), stride, padding, dilation))

    hooks = [m.register_forward_hook(look) for m in trainer.supernet.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad(), plain():
        trainer.supernet(trainer.x[:2], genotype)  # shows the shapes for any number of images
    for hook in hooks:
        hook.remove()
    return found


class Floor:
    """The convolutions alone, forward and backward, in one memory format; operands are there beforehand."""

    def __init__(self, shapes: set[Shape], layout: torch.memory_format) -> None:
        self.operands: dict[Shape, tuple[Tensor, Tensor, Tensor]] = {}
        for shape in shapes:
            # The images themselves get no gradient.
            x = torch.randn(shape[0]).contiguous(memory_format=layout).requires_grad_(shape[0][1] > 3)
            weight = torch.randn(shape[1]).contiguous(memory_format=layout).requires_grad_()
            with torch.no_grad():
                upstream = torch.randn_like(F.conv2d(x, weight, None, *shape[2:]))
            self.operands[shape] = (x, weight, upstream)

    def __call__(self, path: list[Shape]) -> None:
        """All convolutions of a path."""
        for shape in path:
            x, weight, upstream = self.operands[shape]
            wanted = [x, weight] if x.requires_grad else [weight]
            torch.autograd.grad(F.conv2d(x, weight, None, *shape[2:]), wanted, upstream)


def steps() -> list[dict[str, Any]]:
    """Steps and floors, taken in turn for every genotype; a ratio is that of two neighbours in time.

    The floors' memory format is the better one on a few genotypes, taken as they are.
    """
    return [against_floor(setting) for setting in SETTINGS.values()]


def against_floor(setting: Setting) -> dict[str, Any]:
    """One row of `steps`."""
    torch.set_num_threads(setting.threads)
    trainer, genotypes = Trainer(setting), setting.genotypes()
    apart = 0.0
    for genotype in genotypes:
        found = trainer.gradients(genotype)
        with plain():
            expected = trainer.gradients(genotype)
        apart = max(apart, float((found - expected).norm() / expected.norm()))
    assert apart < TOLERANCE, f"{setting.name}: gradients differ by {apart:.2g} of their norm"
    paths = {low: {g: convolutions(trainer, g, low) for g in genotypes} for low in (False, True)}
    calls: dict[str, Callable[[Genotype], None]] = {"fused": trainer.step}

    def layers(genotype: Genotype) -> None:
        with plain():
            trainer.step(genotype)

    calls["plain"] = layers
    layout = better_layout(paths[False], genotypes[:FEW])
    for low, name in ((False, "floor"), (True, "lowered floor")):
        floor = Floor({shape for path in paths[low].values() for shape in path}, layout)
        calls[name] = lambda genotype, floor=floor, low=low: floor(paths[low][genotype])
    apart_by = GENOTYPES // FEW
    times = in_turn(calls, genotypes, setting.rounds, {"plain": apart_by})
    beside_plain = {name: times[name][::apart_by] for name in ("floor", "fused")}
    with ThreadPoolExecutor(2) as pool:  # processes of their own, whose memory knows nothing of each other
        peaks = dict(zip(("fused", "plain"), pool.map(partial(peak, setting), ("fused", "plain")), strict=True))
    return {
        "network": setting.name,
        "threads": setting.threads,
        **demands(setting, ratio(times["fused"], times["floor"]), peaks["fused"] / peaks["plain"]),
        "gradients differ by": f"{apart:.1e}",
        **{f"{name} ms": spread(times[name]) for name in ("floor", "plain", "fused", "lowered floor")},
        "plain / floor": ratio(times["plain"], beside_plain["floor"]),
        "fused / floor": ratio(times["fused"], times["floor"]),
        "plain / fused": ratio(times["plain"], beside_plain["fused"]),
        "lowered floor / floor": ratio(times["lowered floor"], times["floor"]),
        **{f"{name} peak MiB": round(value, 1) for name, value in peaks.items()},
        "fused / plain peak": round(peaks["fused"] / peaks["plain"], 3),
    }


def better_layout(paths: Mapping[Genotype, list[Shape]], genotypes: Sequence[Genotype]) -> torch.memory_format:
    """The memory format in which the convolutions of some genotypes take less time."""
    shapes = {shape for genotype in genotypes for shape in paths[genotype]}
    layouts = {str(layout): layout for layout in (torch.contiguous_format, torch.channels_last)}
    floors = {name: Floor(shapes, layout) for name, layout in layouts.items()}
    ways = {name: lambda genotype, floor=floor: floor(paths[genotype]) for name, floor in floors.items()}
    found = in_turn(ways, genotypes, 1)
    return layouts[min(found, key=lambda name: statistics.median(found[name]))]


def in_turn(
    calls: Mapping[str, Callable[[Genotype], None]],
    genotypes: Sequence[Genotype],
    rounds: int,
    every: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, list[float]]:
    """Milliseconds of each call for every genotype, in rounds that alternate, after one to warm up.

    A call named in `every` is made for each so many-th genotype only.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(genotypes[0])
    for _ in range(rounds):
        for number, genotype in enumerate(genotypes):
            for name, call in calls.items():
                if number % every.get(name, 1):
                    continue
                start = time.perf_counter()
                call(genotype)
                times[name].append(1000 * (time.perf_counter() - start))
    return times


def demands(setting: Setting, floors: Mapping[str, float], memory: float) -> dict[str, str]:
    """Whether the reference keeps within what is demanded of it; nothing is of others."""
    if setting != REFERENCE:
        return {}
    met = {
        f"at most {DEMANDED} floors": floors["median"] <= DEMANDED,
        f"at most {MOST_MEMORY} of plain peak memory": memory <= MOST_MEMORY,
    }
    return {demand: "met" if kept else "missed" for demand, kept in met.items()}


def ratio(one: list[float], other: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of neighbours."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def peak(setting: Setting, kind: str) -> float:
    """MiB that a step takes at most above what is there before it, the most of a few genotypes, in a fresh process.

    The resident set's high-water mark, which Linux lets a process put back.
    """
    name = next(key for key, value in SETTINGS.items() if value == setting)
    code = f"from tests.benchmarks import training; training.print_peak({name!r}, {kind!r})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout))


def print_peak(name: str, kind: str) -> None:
    """What `peak` runs."""
    setting = SETTINGS[name]
    torch.set_num_threads(setting.threads)
    trainer = Trainer(setting)
    x, labels = trainer.x, trainer.labels
    most = 0.0

    def measured() -> None:
        nonlocal most
        for genotype in setting.genotypes()[:: GENOTYPES // FEW]:
            trainer.x, trainer.labels = x[:2], labels[:2]  # code, threads and moments are there, and no large map
            trainer.step(genotype)
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.x, trainer.labels = x, labels
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            before = _memory("VmRSS")
            trainer.step(genotype)
            most = max(most, _memory("VmHWM") - before)

    if kind == "plain":
        with plain():
            measured()
    else:
        measured()
    print(json.dumps(most))


def _memory(field: str) -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(field))


PARTS = {
    "convolutions, with what is fused into ours": ("convolution",),
    "block, apart from convolutions": ("_Block",),
    "BatchNorm": ("batch_norm",),
    "sign": ("ApproxSign", "SteSign", "copysign", "abs", "clamp"),
    "PReLU": ("prelu",),
    "pooling": ("pool", "_Pool"),
    "sums and products": ("add", "mul", "sum", "sub", "div"),
    "copies, new and filled memory": ("copy", "fill", "empty", "cat", "zeros", "zero_"),
    "optimiser": ("dam",),
}
"""Part of a step → what the names of its operators contain; the first that fits counts."""


def shares() -> list[dict[str, Any]]:
    """Where a step of the reference spends its time, by operator, in percent."""
    setting = REFERENCE
    torch.set_num_threads(setting.threads)
    trainer, genotypes = Trainer(setting), setting.genotypes()[:2]
    columns: dict[str, dict[str, float]] = {}
    for name in ("plain", "fused"):
        for genotype in genotypes:
            trainer.step(genotype)
        with named_passes(), profile(activities=[ProfilerActivity.CPU]) as profiler:
            for genotype in genotypes:
                if name == "plain":
                    with plain():
                        trainer.step(genotype)
                else:
                    trainer.step(genotype)
        found = dict.fromkeys((*PARTS, "everything else"), 0.0)
        for event in profiler.key_averages():
            part = next((p for p, names in PARTS.items() if any(n in event.key for n in names)), "everything else")
            found[part] += event.self_cpu_time_total / 1000 / len(genotypes)
        columns[name] = found
    return [
        {"part": part}
        | {f"{name} {unit}": value for name in columns for unit, value in _share(columns[name], part).items()}
        for part in (*PARTS, "everything else")
    ]


def _share(found: Mapping[str, float], part: str) -> dict[str, float]:
    return {"ms": round(found[part], 2), "%": round(100 * found[part] / sum(found.values()), 1)}


def growth() -> list[dict[str, Any]]:
    """Milliseconds per step against width and depth."""
    rows = []
    for channels, cells in ((4, 5), (8, 5), (16, 5), (32, 5), (16, 3), (16, 8)):
        setting = replace(REFERENCE, config=NetworkConfig(3, 10, channels, cells, 1))
        torch.set_num_threads(setting.threads)
        trainer, genotypes = Trainer(setting), setting.genotypes()[:3]
        trainer.step(genotypes[0])
        times, macs = [], []
        for genotype in genotypes:
            start = time.perf_counter()
            trainer.step(genotype)
            times.append(1000 * (time.perf_counter() - start))
        for genotype in genotypes:
            for shape, weight, stride, _, _ in convolutions(trainer, genotype, False):
                macs.append(
                    3 * shape[0] * shape[2] * shape[3] // stride[0] ** 2 * int(np.prod(weight)) / len(genotypes)
                )
        found = spread(times)
        rows.append(
            {
                "channels": channels,
                "cells": cells,
                "ms": found,
                "µs per channel and cell": round(1000 * found["median"] / channels / cells),
                "Gop/s": round(2 * sum(macs) / found["median"] / 1e6),
            }
        )
    return rows


NETWORKS, STEPS = 4, 6


def _train(text: str, setting: Setting, threads: int, count: int) -> float:
    """Seconds for so many steps of one stand-alone network."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = Network(setting.config, Genotype.from_json(text)).to(memory_format=torch.channels_last)
    optimizer, (x, labels) = adam(network, 0.0), setting.batch()
    start = time.perf_counter()
    for _ in range(count):
        loss = F.cross_entropy(network(x), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - start


def layouts() -> list[dict[str, Any]]:
    """Steps per second of `NETWORKS` stand-alone networks, laid over the cores in several ways, in turn."""
    cores = available_cores()
    names = {(1, cores): "one after another, all threads", (cores, 1): "one a core, one thread each"}
    names[cores, cores] = "one a core, all threads each"
    context = multiprocessing.get_context("spawn")
    pools = {count: ProcessPoolExecutor(count, context) for count in {1, cores}}
    rows = []
    # More threads than cores only lose; shown on the small networks, of which there is time for more steps.
    for setting, count, turns, ways in ((DEFAULT, STEPS, 3, list(names)), (REFERENCE, 1, 2, list(names)[:2])):
        texts = [genotype.to_json() for genotype in setting.genotypes()[:NETWORKS]]
        times: dict[tuple[int, int], list[float]] = {way: [] for way in ways}
        for step in range(-1, turns):
            for way in ways:
                start = time.perf_counter()
                # More threads than cores take turns so badly that few steps show it.
                steps = 1 if step < 0 or way == (cores, cores) else count
                list(pools[way[0]].map(partial(_train, setting=setting, threads=way[1], count=steps), texts))
                if step >= 0:
                    times[way].append(NETWORKS * steps / (time.perf_counter() - start))
        for way in ways:
            rows.append(
                {
                    "network": setting.name,
                    "layout": names[way],
                    "steps/s": spread(times[way]),
                    "against one after another": ratio(times[way], times[(1, cores)]),
                }
            )
    for pool in pools.values():
        pool.shutdown()
    return rows


def feeding() -> list[dict[str, Any]]:
    """A mini-batch drawn, augmented and normalised from images in memory, against the step it feeds; one thread."""
    rows = []
    for setting in (DEFAULT, REFERENCE):
        torch.set_num_threads(1)
        rng = np.random.default_rng(0)
        shape = (12 * BATCH, setting.side, setting.side, setting.config.in_channels)
        split = Split(rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, len(range(shape[0]))))
        normalise = Normalise(
            (0.5,) * setting.config.in_channels, (0.25,) * setting.config.in_channels, torch.device("cpu")
        )
        colour = setting.config.in_channels == 3
        augmentation = Augmentation(4 if colour else 2, colour, 8 if colour else 0)
        feed = TrainingFeed(split, BATCH, normalise, augmentation)
        trainer, genotypes, generator = Trainer(setting), setting.genotypes(), torch.Generator()
        loading, training = [], []
        for i, ready in enumerate(feed.rows(generator)):
            start = time.perf_counter()
            trainer.x, trainer.labels = feed.load(ready, generator)
            middle = time.perf_counter()
            trainer.step(genotypes[i % GENOTYPES])
            if i >= 2:
                loading.append(1000 * (middle - start))
                training.append(1000 * (time.perf_counter() - middle))
        rows.append(
            {
                "network": setting.name,
                "augmentation": "shift, flip, cutout" if colour else "shift",
                "mini-batch ms": spread(loading),
                "step ms": spread(training),
                "share of a step": f"{statistics.median(loading) / statistics.median(training):.2%}",
            }
        )
    return rows


MEASURES: Mapping[str, Callable[[], Any]] = {
    "steps": steps,
    "shares": shares,
    "growth": growth,
    "layouts": layouts,
    "feeding": feeding,
}
"""Name of the figures → what measures them."""


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures of training."""
    return [
        "## Training step",
        f"Forward, loss, backward and optimiser on {BATCH} images and {GENOTYPES} paths of a "
        f"supernet ({FEW} of them in plain layers). The floor is the same convolutions, forward and backward, as bare "
        "calls of PyTorch in the better memory format; the lowered floor is such calls where strides are taken before "
        "the convolution. Plain: PyTorch alone, the blocks' layers one by one. Fused: as we train, with convolutions "
        "of our own, which count bits forward. Demanded of the reference: fused / floor at most "
        f"{DEMANDED}, peak memory at most {MOST_MEMORY} of plain. Gradients are compared on {COMPARED} images. Peaks: "
        "high-water mark of the resident set over a step, above what was there before it, in a process of its own. "
        "Ratios are medians over neighbours in time.",
        *(transposed(row) for row in found["steps"]),
        "Where the reference's time goes, by operator, from a profile:",
        table(found["shares"]),
        "Growth: milliseconds per step of the reference with other widths and depths, and multiplications and "
        "additions of its convolutions a second; cost is linear where the next to last column stands still. It does "
        "not at few channels, where the fixed cost of each call is most of it (operations a second fall with the "
        "width), nor at many, where a convolution's work grows with their square. In depth cost falls a little below "
        "linear: later cells have fewer values, and the stem is paid for once.",
        table(found["growth"]),
        f"Retraining: {NETWORKS} stand-alone networks laid over the cores.",
        table(found["layouts"]),
        "Data in memory: drawing, augmenting and normalising a mini-batch against the step it feeds, one thread.",
        table(found["feeding"]),
    ]
