"""Errors of architectures that were not scored, predicted from those that were: ridge regression on their genes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bnas.space.genotype import CELL_INPUTS, Gene, Genotype
from bnas.space.search_space import SearchSpace

PRIOR_IMAGES = 50
"""Images' worth of evidence that holds each effect to 0: genes that were seen rarely get small effects."""


class Surrogate:
    """Predicts errors as if each gene added its effect, whatever the others are (Hoerl and Kennard, 1970) [ours].

    The error of a genotype with indicators x `[F]` of its genes (one for each cell, node, source and operation) is
    e = m + x · b, where b minimises Σ n (e − m − x · b)² + λ b · b over all scored ones, n being the images behind an
    error, m the error on all images together and λ `PRIOR_IMAGES`. What it recommends has to be scored.
    """

    def __init__(self, space: SearchSpace) -> None:
        count = itertools.count()
        self._columns: tuple[list[dict[Gene, int]], ...] = tuple(
            [
                {Gene(source, op): next(count) for source in range(CELL_INPUTS + i) for op in space.ops}
                for i in range(space.nodes)
            ]
            for _ in ("normal", "reduction")
        )
        self.features = next(count)

    def _rows(self, genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
        """Indicators `[U, F]`."""
        normal, reduction = self._columns
        columns = [
            known[gene]
            for genotype in genotypes
            for cell, nodes in ((normal, genotype.normal), (reduction, genotype.reduction))
            for known, node in zip(cell, nodes, strict=True)
            for gene in node
        ]
        rows = np.zeros((len(genotypes), self.features))
        if columns:
            np.put_along_axis(rows, np.array(columns).reshape(len(genotypes), -1), 1.0, axis=1)
        return rows

    def errors(
        self, scored: Mapping[Genotype, tuple[float, int]], genotypes: Sequence[Genotype]
    ) -> NDArray[np.float64]:
        """Predicted errors `[U]` of genotypes, at least 0, from the (error, images behind it) of those scored.

        Raises ValueError if nothing was scored.
        """
        if not scored:
            raise ValueError("scored: expected at least one genotype, found none")
        errors, images = np.array(list(scored.values()), dtype=np.float64).T
        rows, wrong = self._rows(list(scored)), errors * images
        mean = wrong.sum() / images.sum()
        evidence = rows.T @ (rows * images[:, None]) + PRIOR_IMAGES * np.eye(self.features)
        effects = np.linalg.solve(evidence, rows.T @ wrong - mean * (rows.T @ images))
        # Rounding makes it the same in whatever order the same scores are added.
        predicted: NDArray[np.float64] = np.maximum(np.round(mean + self._rows(genotypes) @ effects, 9), 0.0)
        return predicted
