"""Errors of genotypes on shared mini-batches, each computed once and kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from bnas.data.batches import MiniBatches
from bnas.scoring.answer_store import AnswerStore
from bnas.scoring.answers import Answers, Way
from bnas.space.genotype import Genotype

OnImages = Callable[[int], None]
"""Told how many images more were scored."""

ALL_BATCHES = 2**31 - 1
"""More mini-batches than any split has: it means all there are."""


def ignore_images(images: int) -> None:
    """The `OnImages` of who need not be told."""


class Scorer:
    """Errors of genotypes on a fixed sequence of mini-batches, while the weights that are scored stand still.

    An error is what wrong answers weigh over what all images seen weigh (`MiniBatches.weights`): the share of wrong
    answers, or the mean over classes of the share within each, exactly on the whole split and nearly on a part of it.

    Everyone is scored on the same first mini-batches (common random numbers: differences lose the sampling noise that
    individuals share), on all of them where there are fewer than asked for. An answer once computed is kept in `store`,
    so that whoever is scored on more of the sequence later pays only for what is new. `way` computes what is new.
    """

    def __init__(self, batches: MiniBatches, way: Way) -> None:
        self.batches, self.way = batches, way
        self.store = AnswerStore()
        self.images = [batches.images(count) for count in range(len(batches) + 1)]
        """Images in the first 0, 1, … mini-batches."""
        self._images_besides = 0

    @property
    def image_evaluations(self) -> int:
        """Images passed through a path, calibration included.

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
        count = min(count, len(self.batches))
        missing = [genotype for genotype in dict.fromkeys(genotypes) if self.known(genotype) < count]
        if not missing:
            return
        self._images_besides += self.way.images_before * len(missing)
        questions = {genotype: self.store.missing(genotype, count) for genotype in missing}
        questions = {genotype: indices for genotype, indices in questions.items() if indices}
        each = [after - before for before, after in itertools.pairwise(self.images)]
        for genotype, index, answers in self.way.answers(questions):
            self.store.add(genotype, index, answers)
            on_images(each[index] + (self.way.images_before if index == questions[genotype].start else 0))
            self.store.save_if_due()
        self.store.save()

    def wrong(self, genotype: Genotype, count: int) -> int:
        """Wrong answers on the first `count` mini-batches, computing what is not known yet."""
        return sum(answers.wrong for answers in self._answers(genotype, count))

    def error(self, genotype: Genotype, count: int) -> float:
        """The error on the first `count` mini-batches, in [0, 1], computing what is not known yet."""
        return math.fsum(answers.weight for answers in self._answers(genotype, count)) / self.batches.weight(count)

    def errors(self, genotypes: Sequence[Genotype], count: int, on_images: OnImages = ignore_images) -> list[float]:
        """`error` of everyone, scored together where that is missing."""
        self.score(genotypes, count, on_images)
        return [self.error(genotype, count) for genotype in genotypes]

    def _answers(self, genotype: Genotype, count: int) -> Sequence[Answers]:
        self.score([genotype], count)
        return self.store.known(genotype)[:count]
