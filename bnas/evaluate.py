"""Genotype → objectives: the search problem, and scores on shared mini-batches kept per (genotype, mini-batch)."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
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
from bnas.network import Supernet
from bnas.population import EvaluationError
from bnas.results import SpaceRange, parse
from bnas.space import Genotype, Sampler, SearchSpace, sample_stratified, sample_uniform
from bnas.train import calibrate, count_wrong


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
    ) -> None:
        self.supernet, self.batches, self.calibration, self.workers = supernet, batches, calibration, workers
        self.ranks = ranks
        self.image_evaluations = 0
        self.images = [batches.images(count) for count in range(len(batches) + 1)]
        """Images in the first 0, 1, … mini-batches."""
        self._each = [after - before for before, after in itertools.pairwise(self.images)]
        self._wrong: dict[Genotype, list[int]] = {}
        self._remembered: dict[Genotype, list[int]] = {}
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
                answers = [(Genotype.from_dict(value), wrong) for value, wrong in state.plain["answers"]]
            except (KeyError, TypeError) as error:
                raise ValueError(f"checkpoint: expected answers of a search, found {error}") from None
            self._remembered = {genotype: parse("checkpoint", wrong, list[int]) for genotype, wrong in answers}

    def remembered_images(self) -> int:
        """Images behind the answers that `keep` was given."""
        return sum(self.batches.images(len(answers)) for answers in self._remembered.values())

    def known(self, genotype: Genotype) -> int:
        """How many of the first mini-batches this genotype has been scored on."""
        return len(self._wrong.get(genotype, ()))

    def score(self, genotypes: Sequence[Genotype], count: int, on_images: Callable[[int], None] = _ignore) -> None:
        """Score everyone on the first `count` mini-batches where that is missing; `on_images` is told of images."""
        missing = {genotype: count for genotype in genotypes if self.known(genotype) < count}
        if missing:
            self._score(missing, on_images)
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
            answers = self._wrong.setdefault(genotype, [])
            for wrong in self._remembered.get(genotype, [])[len(answers) : count]:
                self._keep_answer(answers, wrong)
            if len(answers) < count:
                todo[genotype] = range(len(answers), count)
        early: dict[Genotype, dict[int, int]] = {}
        for genotype, index, wrong in self._all_answers(todo):
            answers = self._wrong[genotype]
            if index > len(answers):
                early.setdefault(genotype, {})[index] = wrong
            else:
                self._keep_answer(answers, wrong)
                while early and (waiting := early.get(genotype)) and len(answers) in waiting:
                    self._keep_answer(answers, waiting.pop(len(answers)))
            first = index == todo[genotype].start
            on_images(self._each[index] + (calibration if first else 0))
            if time.monotonic() - self._saved >= SAVE_SECONDS:
                self.save()

    def _keep_answer(self, answers: list[int], wrong: int) -> None:
        """The number of wrong answers on the next mini-batch, beside those on the ones before."""
        self.image_evaluations += self._each[len(answers)]
        answers.append(wrong)

    def _all_answers(self, todo: Mapping[Genotype, range]) -> Iterator[tuple[Genotype, int, int]]:
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
            for found in self.ranks.gather([[number[genotype], index, wrong] for genotype, index, wrong in mine]):
                yield from ((these[i], index, wrong) for i, index, wrong in found)

    def answers(self, todo: Mapping[Genotype, range]) -> Iterator[tuple[Genotype, int, int]]:
        """(genotype, mini-batch, wrong answers on it) for all that is asked for, in any order, as soon as it is known.

        Here is the one choice between paths computed together and each by itself: together on the CPU in a supernet,
        each by itself where statistics are recalibrated, on other devices, and for whatever else is called like a
        supernet. Raises EvaluationError.
        """
        if self._paths is not None:
            return population.answers(self._paths, self.batches, todo, self.workers)
        return self._one_by_one(todo)

    def _one_by_one(self, todo: Mapping[Genotype, range]) -> Iterator[tuple[Genotype, int, int]]:
        """Individuals side by side, each on a thread of its own."""
        with ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found = pool.map(self._alone, todo.keys(), todo.values())
            for (genotype, indices), wrong in zip(todo.items(), found, strict=True):
                yield from ((genotype, index, value) for index, value in zip(indices, wrong, strict=True))

    def _alone(self, genotype: Genotype, indices: range) -> list[int]:
        """Wrong answers of one individual on some mini-batches: a faster way has to equal it but for rounding."""
        try:
            with torch.no_grad(), self._model(genotype) as model:
                return [count_wrong(model, self.batches, index) for index in indices]
        except Exception as error:
            raise EvaluationError(genotype, error) from error

    def save(self) -> None:
        """Hand all answers to what `keep` was given, if it was."""
        if self._save is None:
            return
        everything = self._remembered | {
            genotype: max(wrong, self._remembered.get(genotype, []), key=len)
            for genotype, wrong in self._wrong.items()
            if wrong
        }
        self._save(State({}, {"answers": [[genotype.to_dict(), wrong] for genotype, wrong in everything.items()]}))
        self._saved = time.monotonic()

    def wrong(self, genotype: Genotype, count: int) -> int:
        """Wrong answers on the first `count` mini-batches, computing what is not known yet."""
        if self.known(genotype) < count:
            self.score([genotype], count)
        return sum(self._wrong[genotype][:count])

    def error(self, genotype: Genotype, count: int) -> float:
        """Share of wrong answers on the first `count` mini-batches, in [0, 1]."""
        return self.wrong(genotype, count) / self.batches.images(count)

    def best_known(self, genotype: Genotype) -> float:
        """Error on all mini-batches this genotype has been scored on; it must have been on one."""
        answers = self._wrong[genotype]
        return sum(answers) / self.images[len(answers)]

    def scored(self) -> dict[Genotype, tuple[int, int]]:
        """(wrong answers, images behind them) of everyone scored so far, in the order of their first scores."""
        return {
            genotype: (sum(answers), self.images[len(answers)]) for genotype, answers in self._wrong.items() if answers
        }

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
        """Add those that are new, with their sizes `[n]`, and look up what is known of the others."""
        for genotype in genotypes:
            self._rows.setdefault(genotype, len(self._rows))
        rows, more = [self._rows[genotype] for genotype in genotypes], len(self._rows) - len(self.genotypes)
        self.genotypes = list(self._rows)
        self._errors, self._sizes = (np.append(values, np.zeros(more)) for values in (self._errors, self._sizes))
        self._known = np.append(self._known, np.zeros(more, np.int64))
        self._sizes[rows] = sizes
        self._look_up(rows)

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
                right = supernet(x, genotype).double().softmax(1).gather(1, y[:, None])
                found[batches.rows(index)] += 1 - right[:, 0].cpu().numpy()
    return found
