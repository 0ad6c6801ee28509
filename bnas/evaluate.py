"""Genotype → objectives: the search problem, and scores on shared mini-batches kept per (genotype, mini-batch)."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from bnas import pareto, population
from bnas.checkpoint import Save, State
from bnas.cost import CostTable
from bnas.data import MiniBatches
from bnas.distributed import ALONE, Ranks
from bnas.edges import EdgeTable
from bnas.estimate import Composite
from bnas.network import Supernet
from bnas.population import EvaluationError
from bnas.results import SpaceRange, parse
from bnas.space import Genotype, Sampler, SearchSpace, sample_stratified, sample_uniform
from bnas.train import Answers, answers_on, calibrate, doubts


@dataclass(frozen=True)
class Problem:
    """What is searched: a space, what its networks cost as they are shipped, and how they are drawn.

    `resource` is what the second objective minimises: `costs.size`, `costs.ops`, or a table of latencies [ours; the
    paper's is the size]. The indicators and the spread of sizes stay on the size whatever it is.
    `sampling`: `size_stratified` or `uniform`, how populations, random offspring and immigrants are drawn [ours].
    """

    space: SearchSpace
    costs: CostTable
    resource: EdgeTable
    margin: float
    sampling: str

    def __post_init__(self) -> None:
        if self.sampling not in ("size_stratified", "uniform"):
            raise ValueError(f"Problem.sampling: expected size_stratified or uniform, found {self.sampling!r}")
        if self.margin < 1:
            raise ValueError(f"Problem.margin: expected at least 1, found {self.margin}")

    @property
    def sampler(self) -> Sampler:
        """Draws distinct genotypes in the problem's way."""
        if self.sampling == "uniform":
            return partial(sample_uniform, self.space)
        return partial(sample_stratified, self.space, self.costs.size)

    def resources(self, genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
        """`f2` of each, `[U]`: the resource over the fixed bound `margin · most in the space` [ours]."""
        bound = self.margin * self.resource.range()[1]
        return np.array([self.resource(genotype) / bound for genotype in genotypes], dtype=np.float64)

    def objectives(self, genotypes: Sequence[Genotype], errors: Sequence[float]) -> NDArray[np.float64]:
        """`(f1, f2)` of each, `[U, 2]`, both minimised: validation error and relative resource."""
        return np.column_stack([np.asarray(errors, dtype=np.float64), self.resources(genotypes)])

    def range(self, classes: int) -> SpaceRange:
        """The fixed frame of the indicators: the sizes of the space, and the error of guessing."""
        low, high = self.costs.size_range()
        return SpaceRange(low, high, 1 - 1 / classes)

    def topped_up(self, population: Sequence[Genotype], count: int, rng: random.Random) -> list[Genotype]:
        """The population with newly drawn genotypes appended until it holds `count` (or the space no more)."""
        members = dict.fromkeys(population)
        while (missing := count - len(members)) > 0:
            before = len(members)
            members.update(dict.fromkeys(self.sampler(rng, missing)))
            if len(members) == before:
                # Those drawn are members already; as many more than missing as there are members hold all there is.
                drawn = self.sampler(rng, missing + before)
                members.update(dict.fromkeys([g for g in drawn if g not in members][:missing]))
                break
        return list(members)


SAVE_SECONDS = 60.0
"""The longest that answers wait to be saved while scoring goes on."""


GENOTYPES_BETWEEN = 64
"""Genotypes that each of several ranks scores before they tell each other."""


def _ignore(images: int) -> None:
    pass


class Scorer:
    """Errors of the paths of a supernet whose weights stand still, on a fixed sequence of mini-batches.

    Everyone is scored on the same first mini-batches (common random numbers: differences lose the sampling noise that
    individuals share), and an answer once computed is kept, so that whoever is scored on more of the sequence later
    pays only for what is new. `calibration` mini-batches (inputs only are used) switch from the mini-batch's own
    BatchNorm statistics to statistics recalibrated for each path on them. `workers` threads score side by side, each
    without further threads: small networks do not feed more. Answers depend neither on how many there are nor on who
    else is scored: `ranks` divide the individuals among them and tell each other, and have to ask for the same.
    Errors on a part of the split are counted or, with `composite`, estimated (`estimate.Composite`) with a correction
    that is fitted anew whenever `score` was asked for more.
    `image_evaluations` counts images passed through a path, calibration included, whether by this scorer or by the one
    whose answers it started from (`keep`); what paths share counts for each.
    """

    def __init__(
        self,
        supernet: Supernet,
        batches: MiniBatches,
        calibration: Sequence[torch.Tensor] = (),
        workers: int = 1,
        ranks: Ranks = ALONE,
        composite: bool = False,
    ) -> None:
        self.supernet, self.batches, self.calibration, self.workers = supernet, batches, calibration, workers
        self.ranks = ranks
        self.image_evaluations = 0
        self.images = [batches.images(count) for count in range(len(batches) + 1)]
        """Images in the first 0, 1, … mini-batches."""
        self._each = [after - before for before, after in itertools.pairwise(self.images)]
        self._answers: dict[Genotype, list[Answers]] = {}
        self._remembered: dict[Genotype, list[Answers]] = {}
        self._composite = Composite.fitted(self.images[-1], ()) if composite else None
        self._unfitted = False
        self._paths: population.Paths | None = None
        if isinstance(supernet, Supernet) and not calibration and batches.normalise.device.type == "cpu":
            self._paths = population.Paths(supernet)
        self._save: Save | None = None
        self._saved = time.monotonic()

    def keep(self, save: Save, state: State | None = None) -> None:
        """Save all answers whenever some were computed; start from those of an interrupted run, if there are any.

        A remembered answer is not known until it is asked for: whoever runs the same search again with it takes
        the same way, in less time.
        """
        self._save = save
        if state is not None:
            try:
                answers = [(Genotype.from_dict(value), each) for value, each in state.plain["answers"]]
            except (KeyError, TypeError) as error:
                raise ValueError(f"checkpoint: expected answers of a search, found {error}") from None
            self._remembered = {genotype: parse("checkpoint", each, list[Answers]) for genotype, each in answers}

    def remembered_images(self) -> int:
        """Images behind the answers that `keep` was given."""
        return sum(self.batches.images(len(answers)) for answers in self._remembered.values())

    def known(self, genotype: Genotype) -> int:
        """How many of the first mini-batches this genotype has been scored on."""
        return len(self._answers.get(genotype, ()))

    def score(self, genotypes: Sequence[Genotype], count: int, on_images: Callable[[int], None] = _ignore) -> None:
        """Score everyone on the first `count` mini-batches where that is missing; `on_images` is told of images."""
        missing = {genotype: count for genotype in genotypes if self.known(genotype) < count}
        if missing:
            self._score(missing, on_images)
            self._unfitted = True
            self.save()

    def extend(self, genotypes: Sequence[Genotype], on_images: Callable[[int], None] = _ignore) -> None:
        """Score each on one mini-batch more than it has been scored on; nobody may have been scored on all.

        Small steps: answers are saved only when that is due, or by `save`.
        """
        self._score({genotype: self.known(genotype) + 1 for genotype in genotypes}, on_images)

    def _score(self, missing: Mapping[Genotype, int], on_images: Callable[[int], None]) -> None:
        """Score everyone on so many mini-batches, all of which have been scored on fewer."""
        calibration = sum(len(x) for x in self.calibration)
        todo: dict[Genotype, range] = {}
        for genotype, count in missing.items():
            self.image_evaluations += calibration
            known = self._answers.setdefault(genotype, [])
            for answers in self._remembered.get(genotype, [])[len(known) : count]:
                self._keep_answers(known, answers)
            if len(known) < count:
                todo[genotype] = range(len(known), count)
        early: dict[Genotype, dict[int, Answers]] = {}
        for genotype, index, answers in self._all_answers(todo):
            known = self._answers[genotype]
            if index > len(known):
                early.setdefault(genotype, {})[index] = answers
            else:
                self._keep_answers(known, answers)
                while early and (waiting := early.get(genotype)) and len(known) in waiting:
                    self._keep_answers(known, waiting.pop(len(known)))
            first = index == todo[genotype].start
            on_images(self._each[index] + (calibration if first else 0))
            if time.monotonic() - self._saved >= SAVE_SECONDS:
                self.save()

    def _keep_answers(self, known: list[Answers], answers: Answers) -> None:
        """The answers to the next mini-batch, beside those to the ones before."""
        self.image_evaluations += self._each[len(known)]
        known.append(answers)

    def _all_answers(self, todo: Mapping[Genotype, range]) -> Iterator[tuple[Genotype, int, Answers]]:
        """`answers` of all ranks, each of which computes a share: neighbours by key, who have most in common.

        They meet after every `GENOTYPES_BETWEEN` genotypes a rank, so that what all know is saved now and then.
        """
        if self.ranks.size == 1:
            yield from self.answers(todo)
            return
        ordered = sorted(todo, key=lambda genotype: genotype.key)
        self.ranks.agree("genotypes to score", *(f"{genotype.key} {todo[genotype]}" for genotype in ordered))
        for start in range(0, len(ordered), GENOTYPES_BETWEEN * self.ranks.size):
            these = ordered[start : start + GENOTYPES_BETWEEN * self.ranks.size]
            share = self.ranks.share(len(these))
            number = {genotype: share.start + i for i, genotype in enumerate(these[share])}
            mine = self.answers({genotype: todo[genotype] for genotype in number}) if number else ()
            for found in self.ranks.gather([[number[genotype], index, *answers] for genotype, index, answers in mine]):
                yield from ((these[i], index, Answers(*answers)) for i, index, *answers in found)

    def answers(self, todo: Mapping[Genotype, range]) -> Iterator[tuple[Genotype, int, Answers]]:
        """(genotype, mini-batch, answers to it) for all that is asked for, in any order, as soon as it is known.

        Here is the one choice between paths computed together and each by itself: together on the CPU in a supernet,
        each by itself where statistics are recalibrated, on other devices, and for whatever else is called like a
        supernet. Raises EvaluationError.
        """
        if self._paths is not None:
            return population.answers(self._paths, self.batches, todo, self.workers)
        return self._one_by_one(todo)

    def _one_by_one(self, todo: Mapping[Genotype, range]) -> Iterator[tuple[Genotype, int, Answers]]:
        """Individuals side by side, each on a thread of its own."""
        with ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found = pool.map(self._alone, todo.keys(), todo.values())
            for (genotype, indices), each in zip(todo.items(), found, strict=True):
                yield from ((genotype, index, answers) for index, answers in zip(indices, each, strict=True))

    def _alone(self, genotype: Genotype, indices: range) -> list[Answers]:
        """Answers of one individual to some mini-batches: a faster way has to equal it but for rounding."""
        try:
            with torch.no_grad(), self._model(genotype) as model:
                return [answers_on(model, self.batches, index) for index in indices]
        except Exception as error:
            raise EvaluationError(genotype, error) from error

    def save(self) -> None:
        """Hand all answers to what `keep` was given, if it was."""
        if self._save is None:
            return
        everything = self._remembered | {
            genotype: max(known, self._remembered.get(genotype, []), key=len)
            for genotype, known in self._answers.items()
            if known
        }
        self._save(State({}, {"answers": [[genotype.to_dict(), each] for genotype, each in everything.items()]}))
        self._saved = time.monotonic()

    def wrong(self, genotype: Genotype, count: int) -> int:
        """Wrong answers on the first `count` mini-batches, computing what is not known yet."""
        if self.known(genotype) < count:
            self.score([genotype], count)
        return sum(answers.wrong for answers in self._answers[genotype][:count])

    def error(self, genotype: Genotype, count: int) -> float:
        """Share of wrong answers on the first `count` mini-batches, in [0, 1]."""
        return self.wrong(genotype, count) / self.batches.images(count)

    def best_known(self, genotype: Genotype) -> float:
        """Error by all mini-batches this genotype has been scored on; it must have been on one."""
        wrong, expected, images = self._seen(genotype)
        return self._estimate(wrong, expected, images) if self._composite else wrong / images

    def _seen(self, genotype: Genotype) -> tuple[int, float, int]:
        """Wrong answers, those that were to be expected, and images behind them."""
        known = self._answers[genotype]
        return sum(each.wrong for each in known), sum(each.expected for each in known), self.images[len(known)]

    def _estimate(self, wrong: int, expected: float, images: int) -> float:
        """The composite estimate, fitted first if there is something new to fit it to."""
        assert self._composite
        if self._unfitted:
            fitted = Composite.fitted(self.images[-1], [self._seen(genotype) for genotype in self._scored()])
            # All ranks have to correct alike, whatever their rounding.
            b0, b1, b2 = self.ranks.main_value(list(fitted.correction))
            self._composite, self._unfitted = replace(fitted, correction=(b0, b1, b2)), False
        return self._composite(wrong, expected, images)

    def _scored(self) -> list[Genotype]:
        return [genotype for genotype, known in self._answers.items() if known]

    def scored(self) -> dict[Genotype, tuple[float, int]]:
        """(error, images behind it) of everyone scored so far, in the order of their first scores."""
        return {g: (self.best_known(g), self.images[self.known(g)]) for g in self._scored()}

    @contextmanager
    def _model(self, genotype: Genotype) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
        if not self.calibration:
            yield lambda x: self.supernet(x, genotype)
            return
        network = self.supernet.extract(genotype)
        calibrate(network, torch.cat(list(self.calibration)))
        yield network


class Contest:
    """Everything evaluated so far, with the errors and numbers of mini-batches it is known by, and sizes."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.genotypes: list[Genotype] = []
        self._rows: dict[Genotype, int] = {}
        self._errors, self._known, self._sizes = np.zeros(0), np.zeros(0, np.int64), np.zeros(0)
        self._images = np.array(scorer.images)

    def enter(self, genotypes: Sequence[Genotype], sizes: NDArray[np.float64]) -> None:
        """Add those that are new, with their sizes `[n]`, and look up what is known of all by now."""
        for genotype in genotypes:
            self._rows.setdefault(genotype, len(self._rows))
        rows, more = [self._rows[genotype] for genotype in genotypes], len(self._rows) - len(self.genotypes)
        self.genotypes = list(self._rows)
        self._errors, self._sizes = (np.append(values, np.zeros(more)) for values in (self._errors, self._sizes))
        self._known = np.append(self._known, np.zeros(more, np.int64))
        self._sizes[rows] = sizes
        self._look_up(range(len(self.genotypes)))

    def _look_up(self, rows: Sequence[int]) -> None:
        self._errors[rows] = [self.scorer.best_known(self.genotypes[row]) for row in rows]
        self._known[rows] = [self.scorer.known(self.genotypes[row]) for row in rows]

    def confirm(self, count: int, on_images: Callable[[int], None] = _ignore, margin: float = 0.0) -> None:
        """Score further until everyone who may be on the front has been scored on `count` mini-batches.

        Each pass scores those of the current front that lack mini-batches on one more: a lucky one costs no more than
        it takes to fall behind. A score that moves may let others in, so it is repeated until nobody is left. The front
        is that by errors lowered by `margin` standard errors `√(e · (1 − e) / n · (1 − n / N))` of e on n of N images:
        an unlucky one gets a second look, too, and whoever is known on all images stands by its error [ours].
        """
        moved = False
        while unsure := [row for row in self._front(self._hopes(margin)) if self._known[row] < count]:
            self.scorer.extend([self.genotypes[row] for row in unsure], on_images)
            self._look_up(unsure)
            moved = True
        if moved:
            self.scorer.save()

    def front(self) -> list[Genotype]:
        """The non-dominated ones by their best-known errors, smallest first; of several equal ones all."""
        front = [(self._sizes[row], self.genotypes[row]) for row in self._front(self._errors)]
        return [genotype for _, genotype in sorted(front, key=lambda each: (each[0], each[1].key))]

    def _hopes(self, margin: float) -> NDArray[np.float64]:
        """Errors `margin` standard errors below those known, `[U]`, at least 0."""
        seen, total = self._images[self._known], self._images[-1]
        # No mistake yet is no proof of none.
        error = np.maximum(self._errors, 1 / seen)
        deviation = np.sqrt(error * (1 - error) / seen * (1 - seen / total))
        hopes: NDArray[np.float64] = np.maximum(self._errors - margin * deviation, 0)
        return hopes

    def _front(self, errors: NDArray[np.float64]) -> list[int]:
        found: list[int] = np.flatnonzero(pareto.nondominated(np.column_stack([errors, self._sizes]))).tolist()
        return found


def confirm_front(
    genotypes: Sequence[Genotype], sizes: NDArray[np.float64], scorer: Scorer, margin: float = 0.0
) -> list[Genotype]:
    """The non-dominated ones of everything evaluated, all of them scored on every mini-batch, smallest first.

    `sizes` `[U]`; `margin` as for `Contest.confirm`. Of several with equal objectives all are kept.
    """
    contest = Contest(scorer)
    contest.enter(genotypes, sizes)
    contest.confirm(len(scorer.batches), margin=margin)
    return contest.front()


def difficulty(supernet: Supernet, batches: MiniBatches, genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
    """How hard each image of the split is, `[N]`: how many of some genotypes' paths are expected to be wrong [ours].

    The sum of 1 − p over the paths, where p is a path's probability of the image's class.
    """
    found = np.zeros(len(batches.split))
    with torch.no_grad():
        for index in range(len(batches)):
            x, y = batches[index]
            for genotype in genotypes:
                found[batches.rows(index)] += doubts(supernet(x, genotype), y).cpu().numpy()
    return found
