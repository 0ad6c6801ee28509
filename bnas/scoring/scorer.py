"""Errors of genotypes on shared mini-batches, each computed once and kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from bnas.data.batches import MiniBatches
from bnas.scoring.answer_store import AnswerStore
from bnas.scoring.answers import Answers, Way
from bnas.space.genotype import Genotype

Estimate = Callable[[float, float, float], float]
"""(wrong answers, those that were to be expected, images behind them), all by weight → the error on the whole split."""

Estimator = Callable[[Sequence[tuple[float, float, float]]], Estimate]
"""What everyone who was scored has answered, as an `Estimate` takes it → the estimate to be used from now on."""

OnImages = Callable[[int], None]
"""Told how many images more were scored."""

ALL_BATCHES = 2**31 - 1
"""More mini-batches than any split has: in a plan it means all there are."""


def ignore_images(images: int) -> None:
    """The `OnImages` of who need not be told."""


def counted_errors(everyone: Sequence[tuple[float, float, float]]) -> Estimate:
    """The share of wrong answers to what was seen, whatever the others answered."""
    return lambda wrong, expected, images: wrong / images


class Scorer:
    """Errors of genotypes on a fixed sequence of mini-batches, while the weights that are scored stand still.

    An error is what wrong answers weigh over what all images seen weigh (`MiniBatches.weights`): the share of wrong
    answers, or the mean over classes of the share within each, exactly on the whole split and nearly on a part of it.

    Everyone is scored on the same first mini-batches (common random numbers: differences lose the sampling noise that
    individuals share), and an answer once computed is kept in `store`, so that whoever is scored on more of the
    sequence later pays only for what is new. `way` computes what is new. Errors on a part of the split are what
    `estimator` makes of the answers; the estimate is fitted anew whenever `score` was asked for more. `images_spent`
    were passed through paths before, to prepare the mini-batches.
    """

    def __init__(
        self,
        batches: MiniBatches,
        way: Way,
        *,
        estimator: Estimator = counted_errors,
        images_spent: int = 0,
    ) -> None:
        self.batches, self.way = batches, way
        self.store = AnswerStore()
        self.images = [batches.images(count) for count in range(len(batches) + 1)]
        """Images in the first 0, 1, … mini-batches."""
        self._estimator, self._estimate = estimator, estimator(())
        self._unfitted = False
        self._images_besides = images_spent

    @property
    def image_evaluations(self) -> int:
        """Images passed through a path, calibration and preparation included.

        Remembered answers count like computed ones, and what paths share counts for each.
        """
        return self._images_besides + sum(self.images[self.known(genotype)] for genotype in self.store.genotypes())

    def remembered_images(self) -> int:
        """Images behind the answers that an interrupted run left."""
        return sum(self.images[len(answers)] for answers in self.store.remembered.values())

    def known(self, genotype: Genotype) -> int:
        """How many of the first mini-batches this genotype has been scored on."""
        return len(self.store.known(genotype))

    def score(self, genotypes: Sequence[Genotype], count: int, on_images: OnImages = ignore_images) -> None:
        """Score everyone on the first `count` mini-batches where that is missing."""
        missing = {genotype: count for genotype in genotypes if self.known(genotype) < count}
        if missing:
            self._score(missing, on_images)
            self._unfitted = True
            self.store.save()

    def extend(self, genotypes: Sequence[Genotype], on_images: OnImages = ignore_images) -> None:
        """Score each on one mini-batch more than it has been scored on; nobody may have been scored on all.

        These are small steps: answers are saved only when that is due, or by the store's `save`.
        """
        self._score({genotype: self.known(genotype) + 1 for genotype in genotypes}, on_images)

    def _score(self, missing: Mapping[Genotype, int], on_images: OnImages) -> None:
        """Score everyone on so many mini-batches, all of which have been scored on fewer."""
        self._images_besides += self.way.images_before * len(missing)
        questions = {genotype: self.store.missing(genotype, count) for genotype, count in missing.items()}
        questions = {genotype: indices for genotype, indices in questions.items() if indices}
        each = [after - before for before, after in itertools.pairwise(self.images)]
        for genotype, index, answers in self.way.answers(questions):
            self.store.add(genotype, index, answers)
            on_images(each[index] + (self.way.images_before if index == questions[genotype].start else 0))
            self.store.save_if_due()

    def wrong(self, genotype: Genotype, count: int) -> int:
        """Wrong answers on the first `count` mini-batches, computing what is not known yet."""
        return sum(answers.wrong for answers in self._answers(genotype, count))

    def error(self, genotype: Genotype, count: int) -> float:
        """The error on the first `count` mini-batches, in [0, 1], computing what is not known yet."""
        return math.fsum(answers.weight for answers in self._answers(genotype, count)) / self.batches.weight(count)

    def _answers(self, genotype: Genotype, count: int) -> Sequence[Answers]:
        if self.known(genotype) < count:
            self.score([genotype], count)
        return self.store.known(genotype)[:count]

    def best_known(self, genotype: Genotype) -> float:
        """Error estimated from all mini-batches this genotype has been scored on; it must have been on one."""
        if self._unfitted:
            self._estimate = self._estimator([self._seen(each) for each in self.store.genotypes()])
            self._unfitted = False
        return self._estimate(*self._seen(genotype))

    def _seen(self, genotype: Genotype) -> tuple[float, float, float]:
        """What wrong answers, those that were to be expected, and the images behind them weigh."""
        known = self.store.known(genotype)
        wrong, expected = math.fsum(each.weight for each in known), sum(each.expected for each in known)
        return wrong, expected, self.batches.weight(len(known))

    def scored(self) -> dict[Genotype, tuple[float, int]]:
        """(error, images behind it) of everyone scored so far, in the order of their first scores."""
        return {g: (self.best_known(g), self.images[self.known(g)]) for g in self.store.genotypes()}
