"""The order in which a network is computed in little memory, one image at a time, and where each map lies.

Beside the plain order of `bnas.space.layout`:

- a sum is no step: the second of its edges adds to what the first has written;
- a shuffle is no step: who reads it finds the channels;
- a layer of stride 1 may write over the map that it reads, if nobody reads that any more;
- what a later cell reads of a cell's output is computed as soon as that is there, if it is smaller.

No sum of floats changes by that but for its first and second term, so results stay the same bit for bit.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bnas.space.layout import Block, Classifier, Concat, Pool, Shuffle, Stem, Step, Sum, elements
from bnas.space.places import Span, arranged

BEAM = 12
"""Sets of finished layers that are followed up at once in the search for an order."""

TIES = 12
"""How many maps that are written over others are tried elsewhere."""

SEARCHED = 1000
"""Most layers for which an order is searched for, which takes as long as their number squared."""

WORD = 4
"""Bytes of a word: of a float32, and of 32 signs."""

Layer = Stem | Block | Pool | Classifier


@dataclass(frozen=True)
class Operation:
    """A layer with places: it reads the map at word `source`, and writes its own at word `out`, or adds it to that.

    `index` is the number of its step in the layout. The channels of what it reads lie shuffled in so many groups
    (1: they do not). At word `spare` are `spare_words` of its own.
    """

    index: int
    step: Layer
    source: int
    out: int
    add: bool
    shuffle: int
    spare: int


@dataclass(frozen=True)
class Schedule:
    """All operations in order, and the words that they work in."""

    operations: tuple[Operation, ...]
    words: int

    @property
    def bytes(self) -> int:
        """Bytes of memory for one image, beside the program, its stack, the image itself and the logits."""
        return WORD * self.words


def spare_words(step: Layer) -> int:
    """Words that a layer needs beside its maps.

    A stem: what one pixel sees. A block: what the shortcut adds to one pixel; what one group of outputs sees there, and
    which bits of that are real; unless it is a 1×1, the signs of the whole map. A 3×3 pool: two rows.
    """
    channels, height, width = step.shape
    match step:
        case Stem():
            return channels * step.kernel**2
        case Block():
            seen = _words(channels // step.groups * step.kernel**2)
            signs = 0 if step.kernel == step.groups == 1 else _words(channels * height * width)
            return channels + 2 * seen + signs
        case Pool() if step.kind in ("max", "avg") and step.stride == 1:
            return 2 * width
        case _:
            return 0


def schedule(steps: Sequence[Step]) -> Schedule:
    """The operations of a whole network.

    Those of more than `SEARCHED` layers run in the order of the layout, and nothing is written over what was read.
    To write over what was read ties places to each other: if they do not fit into as little as is in use at one time,
    it is tried without all such ties, and without one after another of the largest.
    """
    tasks = _tasks(steps)
    if len(tasks) > SEARCHED:
        return _planned(tasks, [])
    best, order, tied, least = None, tasks, [], 0
    for path in (_narrow(tasks), _path(tasks, range(len(tasks)))):
        ordered = [tasks[k] for k in path.order]
        every = [k for k, task in enumerate(ordered) if task.overwrites]
        for ties in (every, []):
            found = _planned(ordered, ties)
            if best is None or found.words < best.words:
                best, order, tied, least = found, ordered, ties, path.most
    assert best is not None
    for k in sorted(tied, key=lambda k: -order[k].size)[:TIES]:
        if best.words <= least:
            break
        fewer = [other for other in tied if other != k]
        found = _planned(order, fewer)
        if found.words < best.words:
            best, tied = found, fewer
    return best


class _Task(NamedTuple):
    """A layer, its number in the layout, the maps that it reads one after another, and the one that it makes.

    `needs` and `rivals` are sets of tasks, as bits: those that have to be done before, and all that make its map.
    """

    number: int
    step: Layer
    sources: tuple[int, ...]
    shuffle: int
    out: int
    needs: int = 0
    rivals: int = 0

    @property
    def size(self) -> int:
        """Words of its map; the logits lie elsewhere."""
        return 0 if isinstance(self.step, Classifier) else elements(self.step.out)

    @property
    def overwrites(self) -> bool:
        """Whether it may write over what it reads: it never reads where it has written."""
        step = self.step
        if isinstance(step, Pool):
            return step.stride == 1 and self.shuffle == 1 and step.kind != "none"
        return isinstance(step, Block) and step.stride == 1


def _tasks(steps: Sequence[Step]) -> list[_Task]:
    """The layers of a network in the order of its layout."""
    into = {source: index + 1 for index, step in enumerate(steps) if isinstance(step, Sum) for source in _sources(step)}
    parts: dict[int, tuple[tuple[int, ...], int]] = {0: ((), 1)}  # map → where it lies, groups in which it is shuffled
    found: list[_Task] = []
    for index, step in enumerate(steps):
        made = index + 1
        match step:
            case Sum():
                parts[made] = (made,), 1
            case Concat():
                parts[made] = tuple(part for source in step.sources for part in parts[source][0]), 1
            case Shuffle():
                parts[made] = parts[step.source][0], step.groups
            case _:
                parts[made] = (into.get(made, made),), 1
                sources, shuffle = parts[step.source]
                nothing = isinstance(step, Pool) and step.kind == "none"
                found.append(_Task(index, step, () if nothing else sources, shuffle, parts[made][0][0]))
    makers = {task.out: sum(1 << k for k, other in enumerate(found) if other.out == task.out) for task in found}
    return [
        task._replace(
            needs=functools.reduce(operator.or_, (makers[source] for source in task.sources), 0),
            rivals=makers[task.out],
        )
        for task in found
    ]


class _Path(NamedTuple):
    """A way to a set of tasks, `done` as bits: the most words on it, those in use at its end, the tasks in order."""

    most: int
    live: int
    order: tuple[int, ...]
    done: int


_START = _Path(0, 0, (), 0)


def _path(tasks: Sequence[_Task], order: Iterable[int]) -> _Path:
    """What it takes to do the tasks in that order."""
    path, steps = _START, _Steps(tasks)
    for k in order:
        path = steps.after(path, k)
    return path


def _narrow(tasks: Sequence[_Task]) -> _Path:
    """An order in which few words are in use at once: a beam search, `BEAM` sets of finished tasks wide."""
    steps, beam = _Steps(tasks), [_START]
    for _ in tasks:
        following: dict[int, _Path] = {}
        for path in beam:
            for k, task in enumerate(tasks):
                if not path.done >> k & 1 and not task.needs & ~path.done:
                    found = steps.after(path, k)
                    if found.done not in following or found < following[found.done]:
                        following[found.done] = found
        beam = sorted(following.values())[:BEAM]
    return beam[0]


class _Steps:
    """Tasks, and which of them read each map."""

    def __init__(self, tasks: Sequence[_Task]) -> None:
        self.tasks = tasks
        self.sizes = {task.out: task.size for task in tasks}
        self.readers = {out: sum(1 << k for k, task in enumerate(tasks) if out in task.sources) for out in self.sizes}

    def after(self, path: _Path, k: int) -> _Path:
        """The path with one more task."""
        task, done = self.tasks[k], path.done | 1 << k
        new = 0 if task.rivals & path.done else task.size
        dying = [self.sizes[source] for source in task.sources if not self.readers[source] & ~done]
        saved = min(new, sum(dying)) if task.overwrites and len(dying) == len(task.sources) else 0
        most = max(path.most, path.live + new - saved + spare_words(task.step))
        return _Path(most, path.live + new - sum(dying), (*path.order, k), done)


def _sources(step: Step) -> tuple[int, ...]:
    match step:
        case Concat():
            return step.sources
        case Sum():
            return (step.source, step.other)
        case _:
            return (step.source,)


def _planned(tasks: Sequence[_Task], tied: Sequence[int]) -> Schedule:
    """Where everything lies, if the `tied` tasks write over what they read where they can.

    Task k takes the moments 2k and 2k + 1, so that a map may follow another within it.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for k, task in enumerate(tasks):
        if task.size:
            first.setdefault(task.out, 2 * k)
            last[task.out] = 2 * k + 1
        last |= dict.fromkeys(task.sources, 2 * k + 1)
    adds = [task.size > 0 and first[task.out] < 2 * k for k, task in enumerate(tasks)]
    units = _Units(first, last, {task.out: task.size for task in tasks})
    for task in tasks:
        units.join(task.sources)
    for k in tied:
        if not adds[k] and all(last[source] == 2 * k + 1 for source in tasks[k].sources):
            units.overwrite(tasks[k].sources, tasks[k].out, 2 * k)
    members = units.members()
    spare = {k: words for k, task in enumerate(tasks) if (words := spare_words(task.step))}
    spans = [[units.span(one) for one in unit] for unit in members]
    packing = arranged([*spans, *([Span(0, size, 2 * k, 2 * k + 1)] for k, size in spare.items())])
    starts, of_spare = packing.starts[: len(members)], dict(zip(spare, packing.starts[len(members) :], strict=True))
    place = {one: start + units.offset[one] for unit, start in zip(members, starts, strict=True) for one in unit}
    operations = (
        Operation(
            task.number,
            task.step,
            source=place[task.sources[0]] if task.sources else 0,
            out=place.get(task.out, 0),
            add=adds[k],
            shuffle=task.shuffle,
            spare=of_spare.get(k, 0),
        )
        for k, task in enumerate(tasks)
    )
    return Schedule(tuple(operations), packing.total)


class _Units:
    """Maps that keep their distances from each other, each with the moments in which it is in use."""

    def __init__(self, first: dict[int, int], last: dict[int, int], sizes: dict[int, int]) -> None:
        self.first, self.last, self.sizes = dict(first), dict(last), sizes
        self.offset = dict.fromkeys(first, 0)
        self.unit = {one: one for one in first}

    def span(self, one: int) -> Span:
        return Span(self.offset[one], self.sizes[one], self.first[one], self.last[one])

    def members(self) -> list[list[int]]:
        """The maps of every unit."""
        found: dict[int, list[int]] = {}
        for one, unit in self.unit.items():
            found.setdefault(unit, []).append(one)
        return list(found.values())

    def join(self, parts: Sequence[int]) -> None:
        """Lay maps one after another."""
        for before, one in itertools.pairwise(parts):
            if self.unit[before] != self.unit[one]:
                self._move(one, self.offset[before] + self.sizes[before], self.unit[before])

    def overwrite(self, sources: Sequence[int], out: int, moment: int) -> None:
        """Lay a map over the ones that it is made from, whose time ends with this moment, if nothing is in the way."""
        kept = dict(self.first), dict(self.last), dict(self.offset), dict(self.unit)
        self.first[out] = moment + 1
        for source in sources:
            self.last[source] = moment
        at, unit = self.offset[sources[0]], self.unit[sources[0]]
        if self.unit[out] != unit:
            self._move(out, at, unit)
        if self.offset[out] != at or self._clash(unit):
            self.first, self.last, self.offset, self.unit = kept

    def _move(self, one: int, offset: int, unit: int) -> None:
        """Add a map's unit to another one, such that the map lies at that offset there."""
        by, old = offset - self.offset[one], self.unit[one]
        for other, its in self.unit.items():
            if its == old:
                self.offset[other] += by
                self.unit[other] = unit

    def _clash(self, unit: int) -> bool:
        spans = [self.span(one) for one, its in self.unit.items() if its == unit]
        return any(a.meets(b) and a.overlaps(b) for a, b in itertools.combinations(spans, 2))


def _words(bits: int) -> int:
    return -(-bits // (8 * WORD))
