"""All paths of a frozen supernet on one mini-batch, every distinct value computed once.

On one mini-batch with weights that stand still, the value of an edge is determined by its cell, node, source and
operation and by the value it reads; that of a node by its two edges; that of a cell's input by the cell before. A
`PathPlan` numbers the distinct values of a list of genotypes (hash consing), in the order in which genotypes sorted by
their genes first need them, so that those with a common beginning follow one another, and says after each step which
values nobody reads any more. What is computed does not depend on who else is in the list.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Event
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bnas.data.batches import MiniBatches
from bnas.nn.network import Supernet
from bnas.scoring import kernels
from bnas.scoring.answers import Answers, answers_from
from bnas.scoring.fast_modules import Frozen, Map, Workbench, from_tensor, frozen
from bnas.space.genotype import CELL_INPUTS, Genotype
from bnas.space.layout import elements
from bnas.space.network_config import NetworkConfig
from bnas.space.operations import PARAMETER_FREE, SKIPS
from bnas.space.topology import CellTopology, Edge, Shape, topology

MEMORY = 256 * 2**20
"""Bytes that the maps of a plan may take at once; longer lists of genotypes are cut until they do, or hold one."""


Makes = Literal["stem", "module", "sum", "concat"]
"""What computes a value that others read."""


class PathStep(NamedTuple):
    """How one value is computed: by the stem, by the module `name` of the supernet, or from other values.

    `sources` and `made` number values; `genotype` is the first of the list that needs it. After the step nobody reads
    the values `done`. The step `head` makes the logits of all its `genotypes`, and no value that others read.
    """

    what: Makes | Literal["head"]
    name: str
    sources: tuple[int, ...]
    made: int
    genotype: int
    done: tuple[int, ...] = ()
    genotypes: tuple[int, ...] = ()


@dataclass(frozen=True)
class PathPlan:
    """Steps in the order they are taken. `peak` is the most floats for an image that maps take at once."""

    genotypes: tuple[Genotype, ...]
    steps: tuple[PathStep, ...]
    peak: int


class _Planner:
    """Numbers values by what determines them."""

    def __init__(self, config: NetworkConfig, stem: Shape) -> None:
        self.config, self.stem = config, stem
        self.numbers: dict[tuple[object, ...], int] = {}
        self.shapes: list[Shape] = []
        self.steps: list[PathStep] = []
        self.heads: dict[tuple[int, ...], list[int]] = {}
        self.genotype = 0

    def value(self, key: tuple[object, ...], shape: Shape, what: Makes, name: str, *of: int) -> int:
        """The number of a value, for which a step is added if it is new."""
        if key not in self.numbers:
            number = self.numbers[key] = len(self.shapes)
            self.shapes.append(shape)
            self.steps.append(PathStep(what, name, of, number, self.genotype))
        return self.numbers[key]

    def add(self, index: int, genotype: Genotype) -> None:
        """The path of a genotype, the `index`-th of the list."""
        self.genotype = index
        before: tuple[int, ...] = (self.value(("stem",), self.stem, "stem", "stem"),)
        last = before
        for cell in topology(self.config, genotype).cells:
            before, last = last, self.cell(cell, before, last)
        self.heads.setdefault(last, []).append(index)
        if len(self.heads[last]) == 1:
            self.steps.append(PathStep("head", "", last, -1, index))

    def cell(self, cell: CellTopology, s0: tuple[int, ...], s1: tuple[int, ...]) -> tuple[int, ...]:
        """The values of a cell's nodes, from the nodes (or the stem) that its two inputs are joined from."""
        states = [self.preprocessed(cell, which, parts) for which, parts in enumerate((s0, s1))]
        for node in cell.nodes:
            pair = tuple(sorted(self.edge(cell, edge, states[edge.source]) for edge in node))
            states.append(self.value(("sum", *pair), self.shapes[pair[0]], "sum", "", *pair))
        return tuple(states[CELL_INPUTS:])

    def preprocessed(self, cell: CellTopology, which: int, parts: tuple[int, ...]) -> int:
        """The value of a cell's state 0 or 1, from the values that the map which it reads is joined from."""
        shape = self.shapes[parts[0]]._replace(channels=cell.inputs[which].channels)
        joined = self.value(("concat", *parts), shape, "concat", "", *parts) if len(parts) > 1 else parts[0]
        name, made = cell.input_name(which), shape.halved(cell.channels, cell.inputs[which].stride)
        return self.value((name, joined), made, "module", name, joined)

    def edge(self, cell: CellTopology, edge: Edge, state: int) -> int:
        """The value of an edge that reads the value `state`."""
        if edge.op in SKIPS and edge.stride == 1:
            return state
        name, made = cell.module_name(edge), self.shapes[state].halved(cell.channels, edge.stride)
        # Operations without weights do the same wherever they stand.
        does = edge.op if edge.op in PARAMETER_FREE else name
        return self.value((does, edge.stride, state), made, "module", name, state)

    def finished(self, genotypes: Sequence[Genotype]) -> PathPlan:
        """The plan of all steps; after each of them the values that no later step reads are done."""
        last: dict[int, int] = {}
        for position, step in enumerate(self.steps):
            last.update(dict.fromkeys((*step.sources, *([step.made] if step.made >= 0 else ())), position))
        done: dict[int, list[int]] = {}
        for value, position in last.items():
            done.setdefault(position, []).append(value)
        steps, now, peak = [], 0, 0
        for position, step in enumerate(self.steps):
            over = tuple(done.get(position, ()))
            now += elements(self.shapes[step.made]) if step.made >= 0 else 0
            peak = max(peak, now)
            now -= sum(elements(self.shapes[value]) for value in over)
            everyone = tuple(self.heads[step.sources]) if step.what == "head" else ()
            steps.append(step._replace(done=over, genotypes=everyone))
        return PathPlan(tuple(genotypes), tuple(steps), peak)


class Paths:
    """The paths of a supernet on the CPU, whose weights must not change any more.

    `logits` may be called from several threads at once; torch should have one thread in each.
    """

    def __init__(self, supernet: Supernet, memory: int = MEMORY) -> None:
        self.supernet, self.memory = supernet, memory
        self._forms: dict[tuple[str, Shape], Frozen] = {}
        self._benches: SimpleQueue[Workbench] = SimpleQueue()

    def plans(self, genotypes: Sequence[Genotype], x: Tensor, parts: int = 1) -> list[PathPlan]:
        """Plans that together hold all genotypes, for mini-batches like x `[N, C, H, W]`.

        There are at least `parts` of them if there are as many genotypes, and more if memory demands it.
        """
        ordered = sorted(genotypes, key=lambda genotype: (genotype.normal, genotype.reduction))
        config = self.supernet.config
        stem = Shape(*x.shape[1:]).halved(config.channels, config.stem_stride)
        cuts = [len(ordered) * part // parts for part in range(parts + 1)]
        pieces = [ordered[start:end] for start, end in itertools.pairwise(cuts) if end > start]
        return [plan for piece in pieces for plan in self._cut(piece, stem, 4 * len(x))]

    def _cut(self, genotypes: Sequence[Genotype], stem: Shape, bytes_: int) -> list[PathPlan]:
        planner = _Planner(self.supernet.config, stem)
        for index, genotype in enumerate(genotypes):
            planner.add(index, genotype)
        plan = planner.finished(genotypes)
        if plan.peak * bytes_ <= self.memory or len(genotypes) == 1:
            return [plan]
        half = len(genotypes) // 2
        return [*self._cut(genotypes[:half], stem, bytes_), *self._cut(genotypes[half:], stem, bytes_)]

    def logits(self, plan: PathPlan, x: Tensor) -> Iterator[tuple[Genotype, Tensor]]:
        """Every genotype's logits `[N, classes]` for images x `[N, C, H, W]`, as soon as there are some.

        An error in a step is raised with the genotype that needed it first, as EvaluationError.
        """
        try:
            bench = self._benches.get_nowait()
        except Empty:
            bench = Workbench()
        values: dict[int, Map] = {}
        with torch.no_grad():
            for step in plan.steps:
                try:
                    made = self._take(step, values, x, bench)
                except Exception as error:
                    raise EvaluationError(plan.genotypes[step.genotype], error) from error
                if isinstance(made, Tensor):
                    for index in step.genotypes:
                        yield plan.genotypes[index], made
                else:
                    values[step.made] = made
                for value in step.done:
                    bench.give_back(values.pop(value))
        self._benches.put(bench)

    def _take(self, step: PathStep, values: dict[int, Map], x: Tensor, bench: Workbench) -> Map | Tensor:
        sources = [values[source] for source in step.sources]
        match step.what:
            case "module":
                return self._form(step.name, sources[0].shape)(sources[0], bench)
            case "sum":
                return _sum(sources[0], sources[1], bench)
            case "concat":
                return _concat(sources, bench)
            case "head":
                return self._head(sources)
            case "stem":
                return from_tensor(self.supernet.stem(x), bench)

    def _form(self, name: str, shape: Shape) -> Frozen:
        form = self._forms.get((name, shape))
        if form is None:
            form = self._forms[name, shape] = frozen(self.supernet.get_submodule(name), shape)
        return form

    def _head(self, nodes: Sequence[Map]) -> Tensor:
        channels, images = sum(node.shape.channels for node in nodes), nodes[0].images
        features, at = np.empty((channels, images), np.float32), 0
        for node in nodes:
            count = node.shape.channels
            kernels.means(node.values, count * images, node.pixels // images, features[at : at + count].reshape(-1))
            at += count
        logits: Tensor = self.supernet.classifier(self.supernet.norm(torch.from_numpy(features).T))
        return logits


def answers(
    paths: Paths, batches: MiniBatches, todo: Mapping[Genotype, range], workers: int
) -> Iterator[tuple[Genotype, int, Answers]]:
    """(genotype, mini-batch, answers to it) for everything in `todo`, in no fixed order.

    A unit of work is a plan on a mini-batch. Whole mini-batches go to the threads as long as each gets as many; the
    genotypes of the rest are shared out. Raises EvaluationError, after which nothing more comes.
    """
    done: SimpleQueue[tuple[Genotype, int, Answers] | Exception | None] = SimpleQueue()
    stop = Event()
    units = SimpleQueue[tuple[int, PathPlan]]()
    total = 0
    for index, plan in _units(paths, batches, todo, workers):
        units.put((index, plan))
        total += 1

    def work() -> None:
        torch.set_num_threads(1)
        try:
            while not stop.is_set():
                index, plan = units.get_nowait()
                x, y = batches[index]
                for genotype, logits in paths.logits(plan, x):
                    try:
                        done.put((genotype, index, answers_from(logits, y, batches.weights(index), index)))
                    except ValueError as error:
                        raise EvaluationError(genotype, error) from error
                    if stop.is_set():
                        return
        except Empty:
            pass
        except Exception as error:
            done.put(error)
        finally:
            done.put(None)

    with ThreadPoolExecutor(workers) as pool:
        running = min(workers, total)
        for _ in range(running):
            pool.submit(work)
        try:
            while running:
                item = done.get()
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    running -= 1
                else:
                    yield item
        finally:
            stop.set()


def _units(
    paths: Paths, batches: MiniBatches, todo: Mapping[Genotype, range], workers: int
) -> Iterator[tuple[int, PathPlan]]:
    """Mini-batches with the genotypes that have to be computed on them, cut as `answers` says."""
    wanted: dict[int, list[Genotype]] = {}
    for genotype, indices in todo.items():
        for index in indices:
            wanted.setdefault(index, []).append(genotype)
    whole = len(wanted) // workers * workers
    plans: dict[tuple[object, ...], list[PathPlan]] = {}
    for position, (index, genotypes) in enumerate(sorted(wanted.items())):
        parts = 1 if position < whole else workers
        size = batches.images(index + 1) - batches.images(index)
        key = (size, parts, *genotypes)
        if key not in plans:
            plans[key] = paths.plans(genotypes, batches[index][0], parts)
        yield from ((index, plan) for plan in plans[key])


class EvaluationError(ValueError):
    """A genotype cannot be scored; the message starts with its key."""

    def __init__(self, genotype: Genotype, error: Exception) -> None:
        super().__init__(f"genotype {genotype.key}: scoring failed: {type(error).__name__}: {error}")


def _sum(a: Map, b: Map, bench: Workbench) -> Map:
    made = bench.map(a.shape, a.images)
    made.moments = np.empty(a.shape.channels), np.empty(a.shape.channels)
    kernels.add(a.values, b.values, made.values, a.pixels, *made.moments)
    return made


def _concat(parts: Sequence[Map], bench: Workbench) -> Map:
    shape = parts[0].shape._replace(channels=sum(part.shape.channels for part in parts))
    made, at = bench.map(shape, parts[0].images), 0
    for part in parts:
        size = part.shape.channels * part.pixels
        made.values[at : at + size] = part.values[:size]
        at += size
    moments = [part.with_moments() for part in parts]
    made.moments = np.concatenate([m for m, _ in moments]), np.concatenate([v for _, v in moments])
    return made
