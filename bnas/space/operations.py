"""The operations of the search spaces, one record each: what they are made of and how they are drawn; no torch.

Everything else derives from these records: which operations a space has, the modules that are trained, what a packed
network computes, costs, labels and colours. A new operation with weights is one record in `SPACES` (and its name in
params.yaml).

The `bnas` space has one binary block an operation, exactly the seven operations of EBNAS. The `darts` space has the
eight of DARTS (Liu et al. 2019) with every convolution binary [paper: Tan et al. 2026 binarise that space for
comparison; the form is ours]. DARTS' k×k convolutions are depthwise. A binary one of 3×3 sums nine signs, which makes
ten values; so, as in BATS (Bulat et al. 2020), the k×k is *grouped* instead, `GROUP_WIDTH` channels to a group, and a
channel shuffle follows it, which mixes the groups also in the shortcuts that run past the 1×1 convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

GROUP_WIDTH = 4
"""Most channels in a group of the darts space's k×k convolutions [ours]."""


class Convolution(NamedTuple):
    """A binary block that keeps the number of channels: `BN → sign → convolution → BN → + shortcut → PReLU`."""

    kernel: int
    stride: int
    dilation: int = 1
    groups: int = 1


class ChannelShuffle(NamedTuple):
    """Channel `a · groups + b` of the result is channel `b · (channels / groups) + a`: groups are dealt out in turn."""

    groups: int


PoolKind = Literal["none", "skip", "max", "avg"]


class Pooling(NamedTuple):
    """What has no weights and keeps the number of channels.

    `none`: zeros. `skip`: the identity, at stride 2 the 2×2 average. `max`, `avg`: over 3×3, the border not counted.
    """

    kind: PoolKind
    stride: int


Part = Convolution | ChannelShuffle | Pooling
Parts = Callable[[int, int], tuple[Part, ...]]
"""(channels, stride) → what an operation does, in order.

Modules are named by it, too: a single part is the edge's module itself, several are numbered from 0.
"""


def pooling(kind: PoolKind) -> Parts:
    """One pooling."""
    return lambda channels, stride: (Pooling(kind, stride),)


def single(kernel: int, dilation: int = 1) -> Parts:
    """One convolution of all channels."""
    return lambda channels, stride: (Convolution(kernel, stride, dilation),)


def separable(kernel: int, dilation: int = 1, repeats: int = 1) -> Parts:
    """So many times a grouped k×k convolution, a shuffle and a 1×1 convolution; the stride is in the first k×k."""

    def parts(channels: int, stride: int) -> tuple[Part, ...]:
        groups = channels // group_width(channels)
        shuffle = (ChannelShuffle(groups),) if 1 < groups < channels else ()
        made: list[Part] = []
        for repeat in range(repeats):
            made += [Convolution(kernel, 1 if repeat else stride, dilation, groups), *shuffle, Convolution(1, 1)]
        return tuple(made)

    return parts


def group_width(channels: int) -> int:
    """Channels in each group: the largest divisor of `channels` that is at most `GROUP_WIDTH`."""
    return next(width for width in range(min(GROUP_WIDTH, channels), 0, -1) if channels % width == 0)


@dataclass(frozen=True)
class Operation:
    """An operation: its name in genotypes and files, its short name and colour in figures, and what it does."""

    name: str
    label: str
    colour: str
    parts: Parts

    @property
    def weighted(self) -> bool:
        """Whether it has weights."""
        return any(isinstance(part, Convolution) for part in self.parts(1, 1))


# Colours: pale without weights; with weights dark enough for white text, apart for colour-blind readers (Okabe, Ito).
_NONE = Operation("none", "none", "#F9DDE3", pooling("none"))
_SKIP = Operation("skip_connect", "skip", "#EAEAEA", pooling("skip"))
_MAX_POOL = Operation("max_pool_3x3", "max pool", "#F7E7B4", pooling("max"))
_AVG_POOL = Operation("avg_pool_3x3", "avg pool", "#CBE6F5", pooling("avg"))

SPACES: Mapping[str, tuple[Operation, ...]] = {
    "bnas": (
        _SKIP,
        _MAX_POOL,
        _AVG_POOL,
        Operation("bin_conv_3x3", "conv 3×3", "#0072B2", single(3)),
        Operation("bin_conv_5x5", "conv 5×5", "#003F66", single(5)),
        Operation("bin_dil_conv_3x3", "dil 3×3", "#C75300", single(3, dilation=2)),
        Operation("bin_dil_conv_5x5", "dil 5×5", "#7A3300", single(5, dilation=2)),
    ),
    "darts": (
        _NONE,
        _MAX_POOL,
        _AVG_POOL,
        _SKIP,
        Operation("sep_conv_3x3", "sep 3×3", "#0072B2", separable(3, repeats=2)),
        Operation("sep_conv_5x5", "sep 5×5", "#003F66", separable(5, repeats=2)),
        Operation("dil_conv_3x3", "dil 3×3", "#C75300", separable(3, dilation=2)),
        Operation("dil_conv_5x5", "dil 5×5", "#7A3300", separable(5, dilation=2)),
    ),
}
"""Name of a space → the operations it may use; its hand-designed cell is made of the first that has weights."""

OPERATION: Mapping[str, Operation] = {operation.name: operation for ops in SPACES.values() for operation in ops}
"""Name → operation, of all spaces."""

OPERATIONS: Mapping[str, tuple[str, ...]] = {space: tuple(op.name for op in ops) for space, ops in SPACES.items()}
"""Name of a space → the names of its operations."""

PARAMETER_FREE = frozenset(name for name, operation in OPERATION.items() if not operation.weighted)
"""Names of the operations without a weight: what the small-model trap fills cells with."""

SKIPS = frozenset(name for name, operation in OPERATION.items() if operation.parts(1, 1) == (Pooling("skip", 1),))
"""Names of the operations that hand on what they read where their stride is 1."""

PLAIN_CONVOLUTION: Mapping[str, str] = {
    space: next(op.name for op in ops if op.weighted) for space, ops in SPACES.items()
}
"""Name of a space → the operation of its hand-designed cell."""
