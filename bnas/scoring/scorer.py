"""Errors of paths of a supernet on shared mini-batches, each computed once and kept."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import torch

from bnas.data.batches import MiniBatches
from bnas.nn.network import Supernet
from bnas.records.base import parse
from bnas.scoring import shared_paths
from bnas.scoring.answers import Answers, answers_on
from bnas.scoring.composite_error import Composite
from bnas.scoring.shared_paths import EvaluationError
from bnas.space.genotype import Genotype
from bnas.storage.checkpoint import Save, State
from bnas.training.loop import calibrate
from bnas.training.ranks import ALONE, Ranks

SAVE_SECONDS = 60.0
"""The longest that answers wait to be saved while scoring goes on."""

GENOTYPES_BETWEEN = 64
"""Genotypes that each of several ranks scores before they tell each other."""


def ignore_images(images: int) -> None:
    """For whoever need not be told how many images were scored."""


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
        self._paths: shared_paths.Paths | None = None
        if isinstance(supernet, Supernet) and not calibration and batches.normalise.device.type == "cpu":
            self._paths = shared_paths.Paths(supernet)
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

    def score(
        self, genotypes: Sequence[Genotype], count: int, on_images: Callable[[int], None] = ignore_images
    ) -> None:
        """Score everyone on the first `count` mini-batches where that is missing; `on_images` is told of images."""
        missing = {genotype: count for genotype in genotypes if self.known(genotype) < count}
        if missing:
            self._score(missing, on_images)
            self._unfitted = True
            self.save()

    def extend(self, genotypes: Sequence[Genotype], on_images: Callable[[int], None] = ignore_images) -> None:
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
            return shared_paths.answers(self._paths, self.batches, todo, self.workers)
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
