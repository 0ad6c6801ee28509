"""3×3 pools and shortcuts as functions of autograd, for training on the CPU: PyTorch's results, in less time.

PyTorch keeps eight bytes for each maximum and scatters gradients; here it is one byte, and gradients are collected.
Under stride 2 PyTorch pools 3×3 faster. It has no average of channels but a product with a constant matrix, whose sums
come in an order that depends on shapes; ours are added one after another, as PyTorch does for as many channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bnas.kernels import passes as kernels
from bnas.kernels.emitter import LANES
from bnas.kernels.tiles import GROUPS
from bnas.nn.fused_block import fits, run_pass


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, largest: bool) -> Tensor:
        out = torch.empty(x.shape, memory_format=torch.channels_last)
        places = torch.empty(x.numel() if largest else 0, dtype=torch.uint8)
        ctx.save_for_backward(places)
        _pass(kernels.POOL, x.detach(), out, x.shape, places=places if largest else 0)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        out, (places,) = torch.empty(grad.shape, memory_format=torch.channels_last), ctx.saved_tensors
        _pass(kernels.UNPOOL, grad, out, grad.shape, places=places if places.numel() else 0)
        return out, None


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        n, channels, rows, columns = ctx.size = x.shape
        out = torch.empty(n, channels, (rows + 1) // 2, (columns + 1) // 2, memory_format=torch.channels_last)
        _pass(kernels.HALVE, x.detach(), out, x.shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        out = torch.empty(ctx.size, memory_format=torch.channels_last)
        _pass(kernels.UNHALVE, grads[0].contiguous(memory_format=torch.channels_last), out, ctx.size)
        return out


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: int) -> Tensor:
        n, channels, rows, columns = ctx.size = x.shape
        ctx.group = group
        out = torch.empty(n, channels // group, rows, columns, memory_format=torch.channels_last)
        _pass(kernels.NARROW, x.detach(), out, x.shape, group=group)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        out, grad = torch.empty(ctx.size, memory_format=torch.channels_last), grads[0]
        _pass(kernels.WIDEN, grad.contiguous(memory_format=torch.channels_last), out, ctx.size, group=ctx.group)
        return out, None


def _pass(kind: int, x: Tensor, out: Tensor, larger: torch.Size, **fields: int | Tensor) -> None:
    """A pass from x to `out`, the larger of which is of the shape `larger`."""
    n, channels, rows, columns = larger
    run_pass(kind, channels, n, 0, x=x, out=out, rows=rows, columns=columns, **fields)


def halved(x: Tensor) -> Tensor:
    """2×2 averages (ceil mode, padding not counted): [N, C, H, W] → [N, C, ⌈H/2⌉, ⌈W/2⌉]."""
    if not fits(x):
        return F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
    smaller: Tensor = _Halve.apply(x)
    return smaller


def narrowed(x: Tensor, channels: int) -> Tensor:
    """Fewer channels: channel j averages the channels ⌊j·C/C'⌋ … ⌈(j+1)·C/C'⌉ − 1. [N, C, H, W] → [N, C', H, W]."""
    have = x.shape[1]
    if fits(x) and channels % LANES == 0 and have % channels == 0 and have // channels in GROUPS:
        narrow: Tensor = _Narrow.apply(x, have // channels)
        return narrow
    # As a product with a constant matrix, which keeps the memory format: pooling over channels copies twice.
    groups = F.adaptive_avg_pool1d(torch.eye(have, dtype=x.dtype, device=x.device), channels).T
    return F.conv2d(x, groups[:, :, None, None])


class MaxPool(nn.MaxPool2d):
    """3×3 maximum; the border is padded with −∞."""

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C, ⌈H/stride⌉, ⌈W/stride⌉]."""
        pooled: Tensor = _Pool.apply(x, True) if self.stride == 1 and fits(x) else super().forward(x)
        return pooled


class AvgPool(nn.AvgPool2d):
    """3×3 average; the padding is not counted."""

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride, padding=1, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C, ⌈H/stride⌉, ⌈W/stride⌉]."""
        pooled: Tensor = _Pool.apply(x, False) if self.stride == 1 and fits(x) else super().forward(x)
        return pooled
