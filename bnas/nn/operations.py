"""The modules that networks are made of, and the module of an operation.

Shapes: `[N, C, H, W]` → `[N, C', ⌈H/stride⌉, ⌈W/stride⌉]` for every block here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bnas.nn import fused_block
from bnas.nn.binarize import BinaryConv2d
from bnas.nn.pooling import AvgPool, MaxPool, halved, narrowed
from bnas.space.operations import OPERATION, ChannelShuffle, Convolution, Part, Pooling, PoolKind

Sign = Callable[[Tensor], Tensor]


def pooled(x: Tensor, stride: int) -> Tensor:
    """The down-sampling shortcut: x itself, or its 2×2 average (ceil mode, padding not counted) at stride 2.

    Raises ValueError for another stride.
    """
    if stride == 1:
        return x
    if stride > 2:
        raise ValueError(f"pooled.stride: expected 1 or 2, found {stride}")
    return halved(x)


def match_channels(x: Tensor, channels: int) -> Tensor:
    """x with another number of channels and no weights: group averages when narrowing, tiles when widening.

    Channel j of the narrower result averages the channels ⌊j·C/C'⌋ … ⌈(j+1)·C/C'⌉ − 1 (equal groups if C' divides C).
    """
    have = x.shape[1]
    if have == channels:
        return x
    if have < channels:
        return x.repeat(1, -(-channels // have), 1, 1)[:, :channels]
    return narrowed(x, channels)


class BinaryBlock(nn.Module):
    """`BN → sign → binary convolution → BN → + shortcut → PReLU` [ours, measured on small data].

    The shortcut is the identity, pooled at stride 2 and with matched channels where they differ: without it a
    supernet on uniformly sampled paths learns far slower. PReLU has a slope per channel and comes after the addition.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        convolution: Convolution,
        *,
        sign: Sign,
        running_stats: bool = True,
    ) -> None:
        super().__init__()
        kernel, stride, dilation, groups = convolution
        self.stride, self.out_channels, self.sign = stride, out_channels, sign
        self.norm_in = nn.BatchNorm2d(in_channels, track_running_stats=running_stats)
        padding = dilation * (kernel - 1) // 2
        self.conv = BinaryConv2d(
            in_channels, out_channels, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.norm_out = nn.BatchNorm2d(out_channels, track_running_stats=running_stats)
        self.activation = nn.PReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] → [N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉]."""
        shortcut = match_channels(pooled(x, self.stride), self.out_channels)
        return fused_block.forward(self, x, shortcut) if fused_block.applies(self, x) else self.plain(x, shortcut)

    def plain(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """The block in terms of its layers, on any device: what `bnas.nn.fused_block` computes in fewer passes."""
        activated: Tensor = self.activation(self.norm_out(self.conv(self.sign(self.norm_in(x)))) + shortcut)
        return activated


class SkipConnect(nn.Module):
    """The identity; at stride 2 the pooled shortcut."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C, ⌈H/stride⌉, ⌈W/stride⌉]."""
        return pooled(x, self.stride)


class FoldedNorm(nn.BatchNorm1d):
    """BatchNorm without scale and shift in front of a linear layer, which absorbs it when shipped: no bytes of its own.

    `[N, C]` → `[N, C]`. Paths of a supernet differ in the scale of their features by more than a shared classifier can
    bear [ours, measured: after 6 epochs on 3,200 digits random paths stood at 38 % error with it, at 71 % without].
    """

    def __init__(self, channels: int, *, running_stats: bool) -> None:
        super().__init__(channels, affine=False, track_running_stats=running_stats)


class Zero(nn.Module):
    """`none`: zeros, whatever the input; no gradient goes back."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → zeros [N, C, ⌈H/stride⌉, ⌈W/stride⌉]."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride], requires_grad=False)


class ShuffleChannels(nn.Module):
    """Deals the channels of every group out in turn, as `bnas.space.operations.ChannelShuffle` says; same shape."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → the same channels in another order, in the same memory format."""
        n, channels, height, width = x.shape
        if x.is_contiguous(memory_format=torch.channels_last):
            dealt = x.permute(0, 2, 3, 1).view(n, height, width, self.groups, -1).transpose(3, 4)
            return dealt.reshape(n, height, width, channels).permute(0, 3, 1, 2)
        return x.view(n, self.groups, -1, height, width).transpose(1, 2).reshape(x.shape)


POOLS: Mapping[PoolKind, type[Zero | SkipConnect | MaxPool | AvgPool]] = {
    "none": Zero,
    "skip": SkipConnect,
    "max": MaxPool,
    "avg": AvgPool,
}


def operation(op: str, channels: int, stride: int, sign: Sign, running_stats: bool) -> nn.Module:
    """The module of an operation of this name: [N, channels, H, W] → [N, channels, ⌈H/stride⌉, ⌈W/stride⌉].

    `running_stats` says whether BatchNorms keep running statistics.
    """

    def layer(part: Part) -> nn.Module:
        match part:
            case ChannelShuffle(groups):
                return ShuffleChannels(groups)
            case Pooling(kind, step):
                return POOLS[kind](step)
            case Convolution():
                return BinaryBlock(channels, channels, part, sign=sign, running_stats=running_stats)

    layers = [layer(part) for part in OPERATION[op].parts(channels, stride)]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)
