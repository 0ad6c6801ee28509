"""The result of a training predicted from those of other networks: Gaussian-process regression on what they are."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from bnas.space.genotype import CELL_INPUTS, Genotype
from bnas.space.operations import PARAMETER_FREE
from bnas.space.search_space import SearchSpace

Quantity = Callable[[Genotype], float]
"""A genotype's size, operations, or another positive quantity."""


@dataclass(frozen=True)
class Features:
    """What the regression sees of a genotype: counts over its cells, and the logarithms of some quantities.

    For each kind of cell: how often each operation occurs, how often each state is read, how many operations and how
    many operations with weights the longest path from an input has.
    """

    space: SearchSpace
    quantities: tuple[Quantity, ...]

    def __call__(self, genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
        """Rows `[U, F]`."""
        return np.array([self._row(genotype) for genotype in genotypes], dtype=np.float64)

    def _row(self, genotype: Genotype) -> list[float]:
        row = [math.log(quantity(genotype)) for quantity in self.quantities]
        for cell in (genotype.normal, genotype.reduction):
            genes = [gene for node in cell for gene in node]
            ops, sources = Counter(gene.op for gene in genes), Counter(gene.source for gene in genes)
            row += [ops[op] for op in self.space.ops]
            row += [sources[source] for source in range(CELL_INPUTS + self.space.nodes - 1)]
            long, heavy = [0] * CELL_INPUTS, [0] * CELL_INPUTS
            for node in cell:
                long.append(max(long[gene.source] for gene in node) + 1)
                heavy.append(max(heavy[gene.source] + (gene.op not in PARAMETER_FREE) for gene in node))
            row += [max(long), max(heavy)]
        return row


class NetworkRegression:
    """A Gaussian process over features, fitted to the results of trained networks [ours].

    What no feature tells counts as noise: the prediction for a trained network, too, is what networks like it came to.
    The kernel is a squared exponential over standardised features plus noise; its three parameters maximise the
    marginal likelihood (Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2006, chapters 2 and 5).
    """

    def __init__(self, rows: NDArray[np.float64], results: Sequence[float]) -> None:
        """Fit to features `[U, F]` and results `[U]`; raises ValueError for fewer than two."""
        if len(results) < 2 or len(rows) != len(results):
            raise ValueError(f"results: expected at least two, one for each row, found {len(results)}")
        self._mean, self._scale = rows.mean(0), rows.std(0)
        self._scale[self._scale == 0] = 1.0
        length = math.sqrt(rows.shape[1])
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(length, (length / 4, length * 8)) + WhiteKernel(0.3, (1e-3, 4))
        self._model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound is no fault
            self._model.fit(self._standard(rows), np.asarray(results, dtype=np.float64))

    def _standard(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        standard: NDArray[np.float64] = (rows - self._mean) / self._scale
        return standard

    def __call__(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predicted results `[U]` for features `[U, F]`."""
        # Rounded, so that the order of sums does not decide between equal ones.
        predicted: NDArray[np.float64] = np.round(self._model.predict(self._standard(rows)), 9)
        return predicted
