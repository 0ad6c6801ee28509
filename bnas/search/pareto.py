"""Pareto fronts and the indicators that describe them. All objectives are minimised.

Letters: `n` points, `d` objectives. Two indicators stand side by side because the first alone proves
nothing: a search that lost its large networks can still have a good hypervolume, and only the size coverage
shows the loss (Tan et al. 2026 on dividing the generations; the exact indicators are [ours]).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import moocore
import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

_TOLERANCE = 1e-9
"""Slack, in positions on the [0, 1] log-size axis, for sizes that rounding put just outside the range."""


def nondominated(points: ArrayLike, /) -> NDArray[np.bool_]:
    """Mask [n] of the points [n, d] that no other point dominates.

    `a` dominates `b` if it is nowhere larger and somewhere smaller, so all copies of a non-dominated point
    are kept. Raises ValueError unless the points are a finite matrix; no points give an empty mask.

    >>> nondominated([[1, 2], [2, 1], [2, 2], [1, 2]]).tolist()
    [True, True, False, True]
    """
    matrix = _matrix("points", points)
    # moocore calls it "weakly": with keep_weakly=False only the first of equal points would stay.
    return np.asarray(moocore.is_nondominated(matrix, keep_weakly=True), dtype=np.bool_)


def hypervolume(points: ArrayLike, /, ref: ArrayLike) -> float:
    """Volume that the points [n, d] dominate below the reference point `ref` [d].

    A point that is not smaller than `ref` in every objective contributes nothing; no points give 0.0. Raises
    ValueError for non-finite values or shapes that do not match. O(n log n) for d ≤ 3 (Fonseca et al. 2006).

    >>> hypervolume([[5, 5], [4, 6], [2, 7], [7, 4]], ref=[10, 10])
    38.0
    """
    reference = _vector("ref", ref)
    matrix = _matrix("points", points)
    if not len(matrix):
        return 0.0
    if matrix.shape[1] != len(reference):
        raise ValueError(f"ref: expected {matrix.shape[1]} values, one per objective, found {len(reference)}")
    return float(moocore.hypervolume(matrix, ref=reference))


def size_coverage(sizes: ArrayLike, low: float, high: float, bins: int = 10) -> float:
    """Share, in [0, 1], of `bins` equal log-size bins from `low` to `high` that hold one of the sizes [n].

    A bin owns its lower edge; the last one owns `high` too. Raises ValueError for a size outside [low,
    high], for bounds other than 0 < low < high, and for less than one bin.

    >>> size_coverage([1, 2, 1024], 1, 1024)
    0.3
    """
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, found {bins}")
    position = _log_position(sizes, low, high)
    held = np.minimum(np.floor(position * bins + _TOLERANCE), bins - 1)
    return len(np.unique(held)) / bins


def guessing_error(labels: ArrayLike, *, balanced: bool = False) -> float:
    """The least error of answers that are always the same class, for labels `[N]`: that of naming the largest class.

    `balanced`: the mean of the errors within each class, for which that is 1 − 1/classes whatever their sizes.
    """
    counts = np.bincount(np.asarray(labels))
    return 1 - (1 / np.count_nonzero(counts) if balanced else float(counts.max() / counts.sum()))


def normalise(errors: ArrayLike, sizes: ArrayLike, chance_error: float, low: float, high: float) -> NDArray[np.float64]:
    """Points [n, 2] for `hypervolume` with reference (1, 1): error / chance error, log size in [0, 1].

    `chance_error` is that of guessing; the log size is `log(size / low) / log(high / low)` between the
    smallest and the largest network of the space, so that the scale is the same for every run on a data set
    and space [ours]. Worse than chance is above 1. Raises ValueError for a negative error, a size outside
    [low, high], a chance error outside (0, 1], or unequal lengths.
    """
    error, position = _vector("errors", errors), _log_position(sizes, low, high)
    if len(error) != len(position):
        raise ValueError(f"sizes: expected {len(error)} values, as many as errors, found {len(position)}")
    if (error < 0).any():
        raise ValueError(f"errors: expected no negative value, found {error.min()}")
    if not 0 < chance_error <= 1:
        raise ValueError(f"chance_error: expected a value in (0, 1], found {chance_error}")
    return np.column_stack((error / chance_error, position))


def front_hypervolume(errors: ArrayLike, sizes: ArrayLike, chance_error: float, low: float, high: float) -> float:
    """Hypervolume, in [0, 1], of `normalise(...)` with reference (1, 1); raises what `normalise` raises.

    The best possible value 1 would be a faultless network of the smallest size.
    """
    return hypervolume(normalise(errors, sizes, chance_error, low, high), (1.0, 1.0))


@functools.cache  # a report asks a hundred times for a dozen networks, and scipy tests a hypothesis each time
def wilson_interval(wrong: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval (low, high) of an error rate: `wrong` mistakes in `total` trials (Wilson 1927).

    Raises ValueError unless 0 ≤ wrong ≤ total, total ≥ 1 and 0 < confidence < 1.
    """
    if total < 1:
        raise ValueError(f"total: expected at least 1, found {total}")
    if not 0 <= wrong <= total:
        raise ValueError(f"wrong: expected a number from 0 to {total}, found {wrong}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a value in (0, 1), found {confidence}")
    interval = scipy.stats.binomtest(wrong, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def kendall_tau(a: ArrayLike, b: ArrayLike) -> float:
    """Kendall's τ-b, in [−1, 1], of two scorings [n] of the same things: +1 for equal order (Kendall 1945).

    NaN where no order exists: fewer than two things, or one scoring the same for all. Raises ValueError for
    unequal lengths or non-finite values.
    """
    first, second = _vector("a", a), _vector("b", b)
    if len(first) != len(second):
        raise ValueError(f"b: expected {len(first)} values, as many as in a, found {len(second)}")
    if len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
        return math.nan
    return float(scipy.stats.kendalltau(first, second, variant="b").statistic)


def _log_position(sizes: ArrayLike, low: float, high: float) -> NDArray[np.float64]:
    """`log(size / low) / log(high / low)` [n], in [0, 1]; raises ValueError beyond rounding outside it."""
    values = _positive("sizes", sizes)
    if not (0 < low < high and math.isfinite(high)):
        raise ValueError(f"low, high: expected 0 < low < high, found {low} and {high}")
    position = np.log(values / low) / math.log(high / low)
    outside = (position < -_TOLERANCE) | (position > 1 + _TOLERANCE)
    if outside.any():
        raise ValueError(f"sizes: expected values from {low} to {high}, found {values[outside][0]}")
    return np.clip(position, 0.0, 1.0)


def _positive(name: str, values: ArrayLike) -> NDArray[np.float64]:
    vector = _vector(name, values)
    if (vector <= 0).any():
        raise ValueError(f"{name}: expected positive values, found {vector.min()}")
    return vector


def _vector(name: str, values: ArrayLike) -> NDArray[np.float64]:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{name}: expected shape [n], found {_shape(vector.shape)}")
    return _finite(name, vector)


def _matrix(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """The values as [n, d]; an empty list, which has no columns to count, counts as [0, 1]."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape == (0,):
        matrix = matrix.reshape(0, 1)
    if matrix.ndim != 2 or matrix.shape[1] < 1:
        raise ValueError(f"{name}: expected shape [n, d] with d at least 1, found {_shape(matrix.shape)}")
    return _finite(name, matrix)


def _finite(name: str, array: NDArray[np.float64]) -> NDArray[np.float64]:
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(f"{name}: expected finite values, found {array[bad][0]}")
    return array


def _shape(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
