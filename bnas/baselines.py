"""What a searched front is compared with: random architectures of equal size, and a cell designed by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from bnas.space import CELL_INPUTS, PLAIN_CONVOLUTION, Gene, Genotype, Node, SearchSpace, distinct

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
    targets: Sequence[Genotype], space: SearchSpace, size: Callable[[Genotype], float], rng: random.Random
) -> list[Genotype]:
    """A random architecture for each target, as near to it in log size as a pool of random ones allows.

    The pool (`POOL_PER_MATCH` candidates a target, half of them with uniform genes, half with a share of weighted
    operations drawn first, so that all sizes occur) is drawn without looking at errors; no target is in it and no
    candidate is used twice. Targets are served in the order of how few candidates lie near them. Raises
    ValueError if the space holds too few architectures.
    """
    count = POOL_PER_MATCH * len(targets) // 2
    pool = dict.fromkeys(distinct(lambda: space.sample(rng), count))
    pool.update(dict.fromkeys(distinct(lambda: space.sample_mixed(rng), count)))
    logs = {genotype: math.log(size(genotype)) for genotype in pool if genotype not in set(targets)}
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
