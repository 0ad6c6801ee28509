"""What a searched front is compared with: random architectures of equal size, and a cell designed by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from bnas.space.genotype import CELL_INPUTS, Gene, Genotype, Node
from bnas.space.operations import PLAIN_CONVOLUTION
from bnas.space.search_space import SearchSpace, distinct

POOL_PER_MATCH = 200
"""Random candidates drawn for each architecture to be matched."""


def hand_designed(space: SearchSpace) -> Genotype:
    """The obvious cell: binary 3×3 convolutions from both cell inputs into every node, in both kinds of cell.

    In the darts space separable ones. Raises ValueError if the space's operations lack that convolution.
    """
    op = PLAIN_CONVOLUTION[space.name]
    if op not in space.ops:
        raise ValueError(f"space.operations: expected {op} among them for the hand-designed baseline, found none")
    node: Node = (Gene(0, op), Gene(CELL_INPUTS - 1, op))
    return Genotype((node,) * space.nodes, (node,) * space.nodes, space.name)


def size_matched(
    targets: Sequence[Genotype],
    space: SearchSpace,
    size: Callable[[Genotype], float],
    rng: random.Random,
    exclude: Sequence[Genotype] = (),
) -> list[Genotype]:
    """A random architecture for each target, as near to it in log size as a pool of random ones allows.

    The pool (`POOL_PER_MATCH` candidates a target, half of them with uniform genes, half with a share of weighted
    operations drawn first, so that all sizes occur) is drawn without looking at errors; no target and none of `exclude`
    is in it, and no candidate is used twice. Targets are served in the order of how few candidates lie near them.
    Raises ValueError if the space holds too few architectures.
    """
    count = POOL_PER_MATCH * len(targets) // 2
    pool = dict.fromkeys(distinct(lambda: space.sample(rng), count))
    pool.update(dict.fromkeys(distinct(lambda: space.sample_mixed(rng), count)))
    known = {*targets, *exclude}
    logs = {genotype: math.log(size(genotype)) for genotype in pool if genotype not in known}
    if len(logs) < len(targets):
        raise ValueError(
            f"random baselines: expected {len(targets)} architectures beside the front, found {len(logs)} in the space"
        )
    wanted = {target: math.log(size(target)) for target in targets}

    def misfit(target: Genotype) -> float:
        return min(abs(value - wanted[target]) for value in logs.values())

    matches: dict[Genotype, Genotype] = {}
    for target in sorted(wanted, key=misfit, reverse=True):
        best = min(logs, key=lambda genotype: abs(logs[genotype] - wanted[target]))
        matches[target] = best
        del logs[best]
    return [matches[target] for target in targets]


def spread(sizes: ArrayLike, count: int) -> list[int]:
    """Indices of `count` of the sizes [n], both ends among them, evenly spread in log size, smallest first.

    After the ends, each of `count − 2` evenly spaced targets takes the nearest member not yet taken (of two
    equally near ones the smaller, of equal sizes the lower index). `count = 1` gives the smallest; fewer
    members than `count` give all of them. Raises ValueError unless sizes are positive and finite and
    `count` at least 1.

    >>> spread([1000, 1, 20, 90, 10], 4)
    [1, 4, 3, 0]
    """
    values = np.asarray(sizes, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(f"sizes: expected positive finite values [n], found {values}")
    if count < 1:
        raise ValueError(f"count: expected at least 1, found {count}")
    order = [int(i) for i in np.argsort(values, kind="stable")]
    if len(order) <= count or count == 1:
        return order[:count]
    logs = np.log(values)
    first, last, between = order[0], order[-1], order[1:-1]
    taken = {first, last}
    for target in np.linspace(logs[first], logs[last], count)[1:-1]:
        free = [i for i in between if i not in taken]
        # Rounded, so that equally near ones tie whatever the last digit of their logarithms.
        taken.add(min(free, key=lambda i: round(abs(float(logs[i] - target)), 12)))
    return [i for i in order if i in taken]
