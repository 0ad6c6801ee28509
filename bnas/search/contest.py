"""The front of everything that a search has evaluated, scored further until it is known well enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bnas.scoring.scorer import OnImages, Scorer, ignore_images
from bnas.search import pareto
from bnas.space.genotype import Genotype


class Contest:
    """Everyone who was evaluated so far: their sizes, and by what errors on how many mini-batches they are known."""

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

    def confirm(self, count: int, on_images: OnImages = ignore_images, margin: float = 0.0) -> None:
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
            self.scorer.store.save()

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
        rows: list[int] = np.flatnonzero(pareto.nondominated(np.column_stack([errors, self._sizes]))).tolist()
        return rows


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
