"""3×3 pooling as one function of autograd, for training on the CPU: PyTorch's results bit by bit, in less time.

PyTorch keeps eight bytes for each maximum and scatters gradients; here it is one byte, and gradients are collected.
Under stride 2 PyTorch is the faster one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bnas import fused_kernels as kernels
from bnas import fused_pool_kernels as at
from bnas.fused import fits, run_pass


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, largest: bool) -> Tensor:
        out = torch.empty(x.shape, memory_format=torch.channels_last)
        places = torch.empty(x.numel() if largest else 0, dtype=torch.uint8)
        ctx.save_for_backward(places)
        _pass(kernels.POOL, x.detach(), out, places)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        out = torch.empty(grad.shape, memory_format=torch.channels_last)
        _pass(kernels.UNPOOL, grad, out, ctx.saved_tensors[0])
        return out, None


def _pass(kind: int, x: Tensor, out: Tensor, places: Tensor) -> None:
    n, channels, rows, columns = x.shape
    fields: dict[int, int | Tensor] = {at.X: x, at.OUT: out, at.ROWS: rows, at.COLUMNS: columns}
    fields[at.PLACES] = places if places.numel() else 0
    run_pass(kind, channels, n, fields)


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
