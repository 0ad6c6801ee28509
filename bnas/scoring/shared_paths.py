"""All paths of a frozen supernet on one mini-batch, every distinct value computed once.

On one mini-batch with weights that stand still, the value of an edge is determined by its cell, node, source and
operation and by the value it reads; that of a node by its two edges; that of a cell's input by the cell before. A
`Plan` numbers the distinct values of a list of genotypes (hash consing), in the order in which genotypes sorted by
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
from torch import Tensor, nn

from bnas.data.batches import MiniBatches
from bnas.nn.network import Cell, Supernet, edge_name
from bnas.nn.operations import SkipConnect
from bnas.packed.layout import Shape, elements
from bnas.scoring import kernels
from bnas.scoring.answers import Answers, answers_from
from bnas.scoring.fast_modules import Frozen, Map, Workbench, from_tensor, frozen, is_parameter_free
from bnas.space.genotype import CELL_INPUTS, Genotype, Node

MEMORY = 256 * 2**20
"""Bytes that the maps of a plan may take at once; longer lists of genotypes are cut until they do, or hold one."""


class Step(NamedTuple):
    """How one value is computed: by the stem, by the module `name` of the supernet, or from other values.

    `sources` and `made` number values; `genotype` is the first of the list that needs it. After the step nobody reads
    the values `done`. The step `head` makes the logits of all its `genotypes`, and no value that others read.
    """

    what: Literal["stem", "module", "sum", "concat", "head"]
    name: str
    sources: tuple[int, ...]
    made: int
    genotype: int
    done: tuple[int, ...] = ()
    genotypes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Steps in the order they are taken. `peak` floats an image are the most that maps take at once."""

    genotypes: tuple[Genotype, ...]
    steps: tuple[Step, ...]
    peak: int


class _Planner:
    """Numbers values by what determines them."""

    def __init__(self, supernet: Supernet, stem: Shape) -> None:
        self.supernet, self.stem = supernet, stem
        self.numbers: dict[tuple[object, ...], int] = {}
        self.shapes: list[Shape] = []
        self.steps: list[Step] = []
        self.heads: dict[tuple[int, ...], list[int]] = {}
        self.genotype = 0
        self.free: dict[nn.Module, bool] = {}

    def value(
        self,
        key: tuple[object, ...],
        shape: Shape,
        what: Literal["stem", "module", "sum", "concat"],
        name: str,
        *of: int,
    ) -> int:
        """The number of a value, for which a step is added if it is new."""
        found = self.numbers.get(key)
        if found is None:
            found = self.numbers[key] = len(self.shapes)
            self.shapes.append(shape)
            self.steps.append(Step(what, name, of, found, self.genotype))
        return found

    def add(self, index: int, genotype: Genotype) -> None:
        """The path of a genotype, the `index`-th of the list."""
        self.genotype = index
        before: tuple[int, ...] = (self.value(("stem",), self.stem, "stem", "stem"),)
        last = before
        for number, cell in enumerate(self.supernet.cells):
            assert isinstance(cell, Cell)
            nodes = genotype.reduction if cell.reduction else genotype.normal
            before, last = last, self.cell(number, cell, before, last, nodes)
        self.heads.setdefault(last, []).append(index)
        if len(self.heads[last]) == 1:
            self.steps.append(Step("head", "", last, -1, index))

    def cell(
        self, number: int, cell: Cell, s0: tuple[int, ...], s1: tuple[int, ...], nodes: Sequence[Node]
    ) -> tuple[int, ...]:
        """The values of a cell's nodes, from the nodes (or the stem) that its two inputs are joined from."""
        states = [self.preprocessed(number, cell, i, source) for i, source in enumerate((s0, s1))]
        for i, node in enumerate(nodes):
            first, second = (self.edge(number, cell, i, gene.source, gene.op, states) for gene in node)
            pair = (min(first, second), max(first, second))
            states.append(self.value(("sum", *pair), self.shapes[first], "sum", "", *pair))
        return tuple(states[CELL_INPUTS:])

    def preprocessed(self, number: int, cell: Cell, which: int, parts: tuple[int, ...]) -> int:
        shape = self.shapes[parts[0]]
        joined = parts[0]
        if len(parts) > 1:
            shape = shape._replace(channels=sum(self.shapes[part].channels for part in parts))
            joined = self.value(("concat", *parts), shape, "concat", "", *parts)
        stride = getattr(cell.preprocess[which], "stride", 1)
        made = Shape(cell.channels, -(-shape.height // stride), -(-shape.width // stride))
        name = f"cells.{number}.preprocess.{which}"
        return self.value((name, joined), made, "module", name, joined)

    def edge(self, number: int, cell: Cell, node: int, source: int, op: str, states: Sequence[int]) -> int:
        name, state = edge_name(node, source, op), states[source]
        stride = 2 if cell.reduction and source < CELL_INPUTS else 1
        module = cell.edges[name]
        if isinstance(module, SkipConnect) and module.stride == 1:
            return state
        _, height, width = self.shapes[state]
        made = Shape(cell.channels, -(-height // stride), -(-width // stride))
        full = f"cells.{number}.edges.{name}"
        # Operations without parameters do the same wherever they stand.
        if module not in self.free:
            self.free[module] = is_parameter_free(module)
        return self.value((op if self.free[module] else full, stride, state), made, "module", full, state)

    def finished(self, genotypes: Sequence[Genotype]) -> Plan:
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
        return Plan(tuple(genotypes), tuple(steps), peak)


class Paths:
    """The paths of a supernet on the CPU, whose weights must not change any more.

    `logits` may be called from several threads at once; torch should have one thread in each.
    """

    def __init__(self, supernet: Supernet, memory: int = MEMORY) -> None:
        self.supernet, self.memory = supernet, memory
        self._forms: dict[tuple[str, Shape], Frozen] = {}
        self._benches: SimpleQueue[Workbench] = SimpleQueue()

    def plans(self, genotypes: Sequence[Genotype], x: Tensor, parts: int = 1) -> list[Plan]:
        """At least so many plans (if there are as many genotypes), all genotypes in them, for mini-batches like x."""
        ordered = sorted(genotypes, key=lambda genotype: (genotype.normal, genotype.reduction))
        with torch.no_grad():
            stem = Shape(*self.supernet.stem(x[:2]).shape[1:])
        cuts = [len(ordered) * part // parts for part in range(parts + 1)]
        pieces = [ordered[start:end] for start, end in itertools.pairwise(cuts) if end > start]
        return [plan for piece in pieces for plan in self._cut(piece, stem, 4 * len(x))]

    def _cut(self, genotypes: Sequence[Genotype], stem: Shape, bytes_: int) -> list[Plan]:
        planner = _Planner(self.supernet, stem)
        for index, genotype in enumerate(genotypes):
            planner.add(index, genotype)
        plan = planner.finished(genotypes)
        if plan.peak * bytes_ <= self.memory or len(genotypes) == 1:
            return [plan]
        half = len(genotypes) // 2
        return [*self._cut(genotypes[:half], stem, bytes_), *self._cut(genotypes[half:], stem, bytes_)]

    def logits(self, plan: Plan, x: Tensor) -> Iterator[tuple[Genotype, Tensor]]:
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

    def _take(self, step: Step, values: dict[int, Map], x: Tensor, bench: Workbench) -> Map | Tensor:
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
        found = self._forms.get((name, shape))
        if found is None:
            found = self._forms[name, shape] = frozen(self.supernet.get_submodule(name), shape)
        return found

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
    found: SimpleQueue[tuple[Genotype, int, Answers] | Exception | None] = SimpleQueue()
    stop = Event()
    units = SimpleQueue[tuple[int, Plan]]()
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
                        found.put((genotype, index, answers_from(logits, y, index)))
                    except ValueError as error:
                        raise EvaluationError(genotype, error) from error
                    if stop.is_set():
                        return
        except Empty:
            pass
        except Exception as error:
            found.put(error)
        finally:
            found.put(None)

    with ThreadPoolExecutor(workers) as pool:
        running = min(workers, total)
        for _ in range(running):
            pool.submit(work)
        try:
            while running:
                item = found.get()
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
) -> Iterator[tuple[int, Plan]]:
    """Mini-batches with the genotypes that have to be computed on them, cut as `answers` says."""
    wanted: dict[int, list[Genotype]] = {}
    for genotype, indices in todo.items():
        for index in indices:
            wanted.setdefault(index, []).append(genotype)
    whole = len(wanted) // workers * workers
    plans: dict[tuple[object, ...], list[Plan]] = {}
    for position, (index, genotypes) in enumerate(sorted(wanted.items())):
        parts = 1 if position < whole else workers
        size = batches.images(index + 1) - batches.images(index)
        key = (size, parts, *genotypes)
        if key not in plans:
            plans[key] = paths.plans(genotypes, batches[index][0], parts)
        yield from ((index, plan) for plan in plans[key])


class EvaluationError(ValueError):
    """A genotype that cannot be scored; the message starts with its key."""

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
