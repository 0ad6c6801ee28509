"""What the operations with weights consist of: plain data, no torch, shared by training and packed inference.

The `bnas` space has one binary block an operation. The `darts` space has the operations of DARTS (Liu et al. 2019) with
every convolution binary [paper: Tan et al. 2026 binarise that space for comparison; the form is ours]:

- `sep_conv_kxk`: twice (k×k, then 1×1), the stride in the first k×k;
- `dil_conv_kxk`: once (k×k with dilation 2, then 1×1), the stride in the k×k.

DARTS' k×k convolutions are depthwise. A binary one of 3×3 sums nine signs, which makes ten values; so, as in BATS
(Bulat et al. 2020), the k×k is *grouped* instead, `GROUP_WIDTH` channels to a group, and a channel shuffle follows it,
which mixes the groups also in the shortcuts that run past the 1×1 convolutions. Each convolution stands in a block of
its own, `BN → sign → convolution → BN → + shortcut → PReLU` (`bnas.nn.operations.BinaryBlock`).
"""

from __future__ import annotations

from typing import NamedTuple

GROUP_WIDTH = 4
"""Most channels in a group of the darts space's k×k convolutions [ours]."""


class Convolution(NamedTuple):
    """A binary block that keeps the number of channels."""

    kernel: int
    stride: int
    dilation: int = 1
    groups: int = 1


class ChannelShuffle(NamedTuple):
    """Channel `a · groups + b` of the result is channel `b · (channels / groups) + a`: groups are dealt out in turn."""

    groups: int


Part = Convolution | ChannelShuffle

_SINGLE = {
    "bin_conv_3x3": (3, 1),
    "bin_conv_5x5": (5, 1),
    "bin_dil_conv_3x3": (3, 2),
    "bin_dil_conv_5x5": (5, 2),
}
"""Operation → kernel and dilation of its one block."""

_SEPARABLE = {
    "sep_conv_3x3": (3, 1, 2),
    "sep_conv_5x5": (5, 1, 2),
    "dil_conv_3x3": (3, 2, 1),
    "dil_conv_5x5": (5, 2, 1),
}
"""Operation → kernel and dilation of its grouped convolutions, and how many of them there are."""

CONVOLUTIONS = (*_SINGLE, *_SEPARABLE)
"""Names of all operations with weights."""


def parts(op: str, channels: int, stride: int) -> tuple[Part, ...]:
    """What an operation does, in order; raises KeyError for one that is not among `CONVOLUTIONS`.

    Modules are named by it, too: a single part is the edge's module itself, several are numbered from 0.
    """
    if op in _SINGLE:
        kernel, dilation = _SINGLE[op]
        return (Convolution(kernel, stride, dilation),)
    kernel, dilation, repeats = _SEPARABLE[op]
    groups = channels // group_width(channels)
    shuffle = (ChannelShuffle(groups),) if 1 < groups < channels else ()
    found: list[Part] = []
    for repeat in range(repeats):
        grouped = Convolution(kernel, 1 if repeat else stride, dilation, groups)
        found += [grouped, *shuffle, Convolution(1, 1)]
    return tuple(found)


def group_width(channels: int) -> int:
    """Channels in each group: the largest divisor of `channels` that is at most `GROUP_WIDTH`."""
    return next(width for width in range(min(GROUP_WIDTH, channels), 0, -1) if channels % width == 0)
