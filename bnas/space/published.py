"""Architectures that others have published, in the bnas space with four nodes: plain data, no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bnas.space.genotype import Gene, Genotype, Node


def _cell(text: str) -> tuple[Node, ...]:
    nodes = []
    for node in text.split("|"):
        (a, at), (b, other) = re.findall(r"(\w+)\((\d)\)", node)
        nodes.append((Gene(int(at), a), Gene(int(other), b)))
    return tuple(nodes)


PUBLISHED: Mapping[str, Genotype] = {
    # EBNAS, as released.
    "ebnas": Genotype(
        _cell(
            "bin_conv_3x3(0) max_pool_3x3(1) | max_pool_3x3(0) max_pool_3x3(1) | "
            "bin_conv_3x3(1) bin_conv_5x5(0) | max_pool_3x3(0) bin_dil_conv_3x3(1)"
        ),
        _cell(
            "bin_conv_5x5(0) bin_conv_5x5(1) | bin_conv_3x3(1) bin_dil_conv_5x5(2) | "
            "bin_dil_conv_5x5(2) bin_conv_3x3(1) | max_pool_3x3(0) bin_conv_3x3(1)"
        ),
    ),
    # The ImageNet cell of BNAS (Kim et al. 2020); their CIFAR-10 cell zeroises most edges and is outside the space.
    "bnas": Genotype(
        _cell(
            "bin_conv_3x3(1) bin_dil_conv_3x3(0) | bin_conv_3x3(1) bin_conv_3x3(2) | "
            "bin_conv_3x3(2) bin_dil_conv_3x3(1) | bin_dil_conv_3x3(1) bin_conv_3x3(0)"
        ),
        _cell(
            "max_pool_3x3(0) max_pool_3x3(1) | max_pool_3x3(0) bin_conv_3x3(2) | "
            "max_pool_3x3(0) bin_dil_conv_3x3(3) | max_pool_3x3(0) bin_dil_conv_3x3(4)"
        ),
    ),
}
"""Name in params.yaml (`retrain.published`) → genotype; per node two operations, each with its source in brackets."""
