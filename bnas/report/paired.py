"""Front and random networks on the same test split: paired image by image, with bootstrap intervals [ours]."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy
from numpy.typing import NDArray

from bnas.data.split_rows import balancing
from bnas.records.networks import RetrainedNetwork
from bnas.report.indicators import hypervolume
from bnas.report.results import Retrained

RESAMPLES = 1000
"""Bootstrap samples of the test split."""

Errors = NDArray[np.float64]
"""A test error for each network, on a sample of the test split."""


@dataclass(frozen=True)
class PairedTest:
    """Two networks tested on the same images: how often only one of them was wrong; McNemar's exact test."""

    first: str
    second: str
    only_first_wrong: int
    only_second_wrong: int
    images: int

    @property
    def difference(self) -> float:
        """Test error of the first minus that of the second, in [−1, 1]."""
        return (self.only_first_wrong - self.only_second_wrong) / self.images

    @property
    def p_value(self) -> float:
        """Two-sided probability of so uneven a split of the discordant images, errors being equal."""
        discordant = self.only_first_wrong + self.only_second_wrong
        if not discordant:
            return 1.0
        return float(scipy.stats.binomtest(self.only_first_wrong, discordant, 0.5).pvalue)


def paired_test(run: Retrained, first: str, second: str) -> PairedTest:
    """The comparison of two networks of the run, by name."""
    one, other = run.predictions[first].correct, run.predictions[second].correct
    return PairedTest(first, second, int((~one & other).sum()), int((one & ~other).sum()), len(one))


@dataclass(frozen=True)
class Interval:
    """A value, and its bootstrap median with the limits between which 95 % of the resampled values lie."""

    observed: float
    low: float
    median: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the limits."""
        return self.low > 0 or self.high < 0


def hypervolume_difference(run: Retrained, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """Hypervolume of the matched front networks minus the mean of `Retrained.random_fronts`; None without any.

    All have equal counts. Test images are resampled with replacement, the same for all networks, so the interval holds
    the test split's uncertainty and no other: not that of training or searching again.
    """
    fronts = [tuple(first for first, _ in run.matched), *run.random_fronts]
    if len(fronts) == 1:
        return None
    networks = [network for front in fronts for network in front]
    sizes = [[network.size_bytes for network in front] for front in fronts]

    def difference(errors: Errors) -> float:
        rows = zip(errors.reshape(len(fronts), -1), sizes, strict=True)
        first, *others = (hypervolume(row, of_row, run.space) for row, of_row in rows)
        return first - statistics.fmean(others)

    return _resampled(run, networks, difference, seed, resamples)


def error_difference(run: Retrained, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """Mean over the front of a network's test error minus the mean of its random networks'; None without such.

    Resampled as `hypervolume_difference`, and holding the same uncertainty.
    """
    groups = run.matched
    if not groups:
        return None
    networks = [network for first, others in groups for network in (first, *others)]
    starts = np.cumsum([0] + [1 + len(others) for _, others in groups])

    def difference(errors: Errors) -> float:
        each = [errors[start] - errors[start + 1 : end].mean() for start, end in pairwise(starts.tolist())]
        return float(np.mean(each))

    return _resampled(run, networks, difference, seed, resamples)


def relative_improvement(run: Retrained) -> float:
    """`100 · (accuracy − random accuracy) / random accuracy`, both means as in `error_difference`.

    The measure by which searches are compared in the literature (Yang et al. 2020, *NAS evaluation is frustratingly
    hard*). nan without random networks, and where they are always wrong.
    """
    if not run.matched:
        return math.nan
    front = 1 - statistics.fmean([run.error_of(first) for first, _ in run.matched])
    other = 1 - statistics.fmean([statistics.fmean([run.error_of(n) for n in others]) for _, others in run.matched])
    return 100 * (front - other) / other if other else math.nan


def _resampled(
    run: Retrained,
    networks: Sequence[RetrainedNetwork],
    statistic: Callable[[Errors], float],
    seed: int,
    resamples: int,
) -> Interval:
    """A statistic of the networks' errors, and its interval over resampled test images."""
    wrong = np.stack([~run.predictions[network.name].correct for network in networks])  # [networks, images]
    weights = balancing(run.labels) if run.error == "balanced" else np.ones(len(run.labels))

    def value(sample: NDArray[np.int64]) -> float:
        return statistic(np.average(wrong[:, sample], axis=1, weights=weights[sample]))

    rng, every = np.random.default_rng(seed), np.arange(wrong.shape[1])
    values = [value(rng.choice(every, len(every))) for _ in range(resamples)]
    low, median, high = np.quantile(values, (0.025, 0.5, 0.975))
    return Interval(value(every), float(low), float(median), float(high))
