"""Errors on a whole split, estimated from answers to a part of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bnas.scoring.scorer import Estimator
from bnas.training.ranks import ALONE, Ranks

PRIOR_IMAGES = 50
"""Images' worth of evidence that holds the correction of expected errors to 0."""


@dataclass(frozen=True)
class Composite:
    """A composite estimate, as in small-area estimation (Rao and Molina, 2015): direct where much was seen [ours].

    Of n images out of the N of the split w were answered wrong, where v were to be expected, each image counted by its
    weight (`answers.Answers`):

        e = (n/N) · w/n + (1 − n/N) · (s + b₀ + b₁ s + b₂ s²),   s = v/n,   at least 0.

    Expected errors scatter less than counted ones, since an image counts by how sure its answer was, but networks are
    more or less sure of themselves than they ought to be: b is what corrects that on average. On all images e is the
    counted error.
    """

    total: float
    """N, the images of the split."""
    correction: tuple[float, float, float]
    """b₀, b₁ and b₂."""

    @classmethod
    def fitted(cls, total: float, answered: Sequence[tuple[float, float, float]]) -> Composite:
        """The correction that fits (w, v, n) of several networks best; 0 where there are none.

        It minimises Σ n (w/n − s − b₀ − b₁ s − b₂ s²)² + `PRIOR_IMAGES` · |b|².
        """
        wrong, expected, images = np.array(answered, dtype=np.float64).reshape(-1, 3).T
        share = expected / images
        terms = np.column_stack([np.ones_like(share), share, share**2])
        evidence = terms.T @ (terms * images[:, None]) + PRIOR_IMAGES * np.eye(3)
        b0, b1, b2 = np.linalg.solve(evidence, terms.T @ (wrong - expected)).tolist()
        return cls(total, (b0, b1, b2))

    def __call__(self, wrong: float, expected: float, images: float) -> float:
        """The estimate e for a network with these w, v and n."""
        share, seen = expected / images, images / self.total
        b0, b1, b2 = self.correction
        return max(seen * wrong / images + (1 - seen) * (share + b0 + b1 * share + b2 * share**2), 0.0)


def composite_errors(total: float, ranks: Ranks = ALONE) -> Estimator:
    """Estimates by a `Composite`, corrected alike on all ranks, whatever their rounding."""

    def fitted(everyone: Sequence[tuple[float, float, float]]) -> Composite:
        composite = Composite.fitted(total, everyone)
        if not everyone:
            return composite
        b0, b1, b2 = ranks.main_value(list(composite.correction))
        return Composite(total, (b0, b1, b2))

    return fitted
