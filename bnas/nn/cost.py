"""The one counter of parameters, bytes and operations.

`size_bytes = N_binary / 8 + 4 · N_float`, or fewer bytes a number as `bnas.space.shipped` says, and
`OPs = FLOPs + BOPs / 64`, a multiply-accumulate counting once and only convolutions and linear layers counting at all.
Check: ResNet-18 with binary 3×3 convolutions (Bi-Real-18) has 11,689,512 parameters and is 4.19 MB.
"""

from __future__ import annotations

import copy
import math
import operator
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnas.nn.binarize import SIGNS, BinaryConv2d
from bnas.nn.network import Network, NetworkConfig
from bnas.nn.operations import FoldedNorm, operation
from bnas.space.edge_sums import EdgeTable, everywhere, used
from bnas.space.genotype import Genotype
from bnas.space.layout import layout
from bnas.space.schedule import schedule
from bnas.space.search_space import SearchSpace
from bnas.space.shipped import SHIPPED
from bnas.space.topology import topology


@dataclass(frozen=True)
class Cost:
    """What a module weighs and what one image costs it; costs of parts add up.

    `binary_params` and `float_params` count values, `size_bytes` is what a file holds of them, `flops` and `bops` count
    multiply-accumulates of full-precision and binary layers. `ram_bytes` is the working memory of a whole packed
    `Network` (`bnas.space.schedule`), which is no sum over its parts: theirs is 0.
    """

    binary_params: int = 0
    float_params: int = 0
    size_bytes: float = 0.0
    flops: int = 0
    bops: int = 0
    ram_bytes: int = 0

    @property
    def params(self) -> int:
        """All values, binary and full precision alike."""
        return self.binary_params + self.float_params

    @property
    def ops(self) -> float:
        """`flops + bops / 64`: 64 binary multiply-accumulates make one word-wide operation."""
        return self.flops + self.bops / 64

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(operator.add, vars(self).values(), vars(other).values()))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*map(operator.sub, vars(self).values(), vars(other).values()))


LARGE = 2**24
"""Values of an input from which on a copy is run without storage."""


def _device(input_shape: tuple[int, ...]) -> str:
    """Where a copy is run: only if large on meta tensors, which need no memory, but import PyTorch's compiler."""
    return "meta" if math.prod(input_shape) >= LARGE else "cpu"


def cost(module: nn.Module, input_shape: tuple[int, ...], shipped: str = "float32") -> Cost:
    """Cost of a module of `BinaryConv2d` and ordinary layers on one image of `input_shape` `[C, H, W]`.

    As shipped in the format of that name, in which every linear layer is a classifier: a BatchNorm is 2 values per
    channel (mean and deviation folded into scale and shift; the α of a binary convolution folds into the one after it,
    `FoldedNorm` into the classifier), PReLU slopes and biases count, a layer used twice weighs once. The module itself
    is left alone: a copy is run. Raises ValueError for a shape of other length (a leading 1 is accepted) and for a
    layer with parameters that is none of those.
    """
    shape = tuple(input_shape)
    if len(shape) == 3:
        shape = (1, *shape)
    if len(shape) != 4 or shape[0] != 1:
        raise ValueError(f"cost: expected an input shape [C, H, W], found {list(input_shape)}")
    clone = copy.deepcopy(module).to(_device(shape)).eval()
    binary = floats = weights = classes = 0
    macs = Counter[bool]()  # of binary and of other layers

    def record(layer: nn.Module, args: Any, output: Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        positions = output.numel() // weight.shape[0]
        macs[isinstance(layer, BinaryConv2d)] += weight.numel() * positions

    for name, layer in clone.named_modules():
        if isinstance(layer, BinaryConv2d):
            binary += layer.weight.numel()
            floats += 0 if layer.bias is None else layer.bias.numel()
        elif isinstance(layer, _BatchNorm):
            floats += 0 if isinstance(layer, FoldedNorm) else 2 * layer.num_features
        elif isinstance(layer, nn.Linear):
            weights, classes = weights + layer.weight.numel(), classes + layer.out_features
            floats += 0 if layer.bias is None else layer.bias.numel()
        elif isinstance(layer, nn.Conv2d | nn.PReLU):
            floats += sum(value.numel() for value in layer.parameters())
        elif any(True for _ in layer.parameters(recurse=False)):
            raise ValueError(f"cost: layer {name or '(root)'}: cannot count a {type(layer).__name__}")
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(record)
    with torch.no_grad():
        clone(torch.zeros(shape, device=_device(shape)))
    size = SHIPPED[shipped].size(binary, floats, weights, classes)
    ram = working_memory(module.config, module.genotype, shape[2], shape[3]) if isinstance(module, Network) else 0
    return Cost(binary, floats + weights, size, flops=macs[False], bops=macs[True], ram_bytes=ram)


def working_memory(config: NetworkConfig, genotype: Genotype, height: int, width: int) -> int:
    """Bytes in which a packed network computes one image of that size: see `bnas.space.schedule.Schedule.bytes`."""
    return schedule(layout(config, genotype, height, width)).bytes


RANGE_SAMPLE = 64
"""Genotypes that stand for all of a space where no sum over edges tells the extremes."""


class MemoryTable:
    """`table(genotype)` is the working memory of a space's networks in bytes, on images `[·, height, width]`."""

    def __init__(self, config: NetworkConfig, space: SearchSpace, height: int, width: int) -> None:
        self.config, self.space, self.height, self.width = config, space, height, width
        self._known: dict[Genotype, int] = {}
        self._range: tuple[float, float] | None = None

    def __call__(self, genotype: Genotype) -> int:
        """Bytes of the network of this genotype; raises ValueError if it is not of the table's space."""
        if genotype not in self._known:
            self.space.validate(genotype)
            self._known[genotype] = working_memory(self.config, genotype, self.height, self.width)
        return self._known[genotype]

    def range(self) -> tuple[float, float]:
        """The least and the most among `RANGE_SAMPLE` genotypes of all shares of weighted operations, always the same.

        Memory depends on a whole cell, so others may have a little less or more.
        """
        if self._range is None:
            rng = random.Random(0)
            found = [self(self.space.sample_mixed(rng)) for _ in range(RANGE_SAMPLE)]
            self._range = min(found), max(found)
        return self._range


class CostTable:
    """Costs of all networks of a space and configuration, as sums over their edges: far faster than building them.

    Equal to `cost(Network(config, genotype), input_shape, config.shipped)` for every genotype, since what lies around
    the edges is the same in all of them. `input_shape` is `[C, H, W]`.
    """

    def __init__(self, config: NetworkConfig, space: SearchSpace, input_shape: tuple[int, int, int]) -> None:
        self.config, self.space = config, space
        probe = everywhere(space.ops[0], space)
        self._cells: list[tuple[bool, dict[tuple[int, str], Cost]]] = []
        self._fixed = cost(Network(config, probe), input_shape, config.shipped)
        for cell in topology(config, space).cells:
            edges = {}
            for op in space.ops:
                for stride in cell.strides:
                    module = operation(op, cell.channels, stride, SIGNS[config.sign], running_stats=True)
                    shape = cell.source_shape(stride, *input_shape[1:])
                    edges[stride, op] = cost(module, shape, config.shipped)
            self._cells.append((cell.reduction, edges))
            for at in used(probe, cell.reduction):
                self._fixed = self._fixed - edges[at]
        self.size = self.table(lambda part: part.size_bytes)
        self.ops = self.table(lambda part: part.ops)
        self.ram = MemoryTable(config, space, *input_shape[1:])

    def __call__(self, genotype: Genotype) -> Cost:
        """The cost of the network of this genotype; raises ValueError if it is not of the table's space."""
        self.space.validate(genotype)
        total = self._fixed
        for reduction, edges in self._cells:
            for at in used(genotype, reduction):
                total = total + edges[at]
        return replace(total, ram_bytes=self.ram(genotype))

    def table(self, of: Callable[[Cost], float]) -> EdgeTable:
        """One number of the costs that add up; `size` (bytes) and `ops` are such tables."""
        cells = [(reduction, {at: of(part) for at, part in edges.items()}) for reduction, edges in self._cells]
        return EdgeTable(self.space, of(self._fixed), cells)

    def size_range(self) -> tuple[float, float]:
        """Bytes of the smallest and of the largest network of the space."""
        return self.size.range()
