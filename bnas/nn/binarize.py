"""Sign functions with surrogate gradients, and the convolution with binary weights.

A bit has two values: every sign here maps 0 to +1, never to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _ApproxSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = x.abs().mul_(-2).add_(2).clamp_min_(0).mul_(grad[0])
        return slope


class _SteSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x.abs() <= 1)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        inside: Tensor = ctx.saved_tensors[0]
        return grad[0] * inside


def sign(x: Tensor) -> Tensor:
    """+1 where x ≥ 0 (so also at −0), else −1; same shape and dtype. Not differentiable."""
    # −0 + 0 is +0. Copying sign bits is an order of magnitude faster than comparing and selecting.
    return torch.copysign(torch.ones((), dtype=x.dtype, device=x.device), x + 0)


def approx_sign(x: Tensor) -> Tensor:
    """Sign of x with the gradient `dF/dx = max(0, 2 − 2|x|)`; same shape as x.

    The derivative of a piecewise quadratic that approximates the sign (Bi-Real Net, Liu et al. 2018, §3.3), the
    gradient used by Tan et al. 2026.
    """
    result: Tensor = _ApproxSign.apply(x)
    return result


def ste_sign(x: Tensor) -> Tensor:
    """Sign of x with the clipped straight-through gradient `dF/dx = 1[|x| ≤ 1]`; same shape as x.

    Hubara et al. 2016. Also the gradient of every binary weight.
    """
    result: Tensor = _SteSign.apply(x)
    return result


SIGNS: dict[str, Callable[[Tensor], Tensor]] = {"approx": approx_sign, "ste": ste_sign}
"""Name in params.yaml (`network.sign`) → sign function of the activations."""


class Geometry(NamedTuple):
    """A convolution of every `step`-th pixel of an image, by row and column.

    Where the stride divides padding and dilation, a convolution sees only every stride-th pixel. Taking those first is
    the same sum without a stride, with a dilation so many times smaller: far faster than oneDNN's own way, whose
    backward pass also writes past its buffer for strided 1×1 kernels and few channels (uxlfoundation/oneDNN#6035).
    """

    step: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]


class BinaryConv2d(nn.Conv2d):
    """Convolution with the weights `α · sign(W)`, where α is the mean of |W| over each output channel.

    Takes the arguments of `torch.nn.Conv2d`; x `[N, in_channels, H, W]` → `[N, out_channels, H', W']`. α is detached
    (no gradient flows through it) and the latent weights W get `1[|W| ≤ 1] · α · dL/d(α sign W)`; they are never
    modified in place. Only the weights are binary: sign the input before, so that the product is one of bits. α comes
    after the sum, so that the sum of such products is a whole number and float32 holds it exactly (below 2^24).

    Padding is **zero padding in the ±1 domain**: a tap over the border contributes nothing, neither +1 nor −1.
    This is the one place that says so; packed inference must obey it. Raises ValueError for another padding mode.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.padding_mode != "zeros":
            raise ValueError(f"BinaryConv2d.padding_mode: expected 'zeros', found {self.padding_mode!r}")

    def scale(self) -> Tensor:
        """α `[out_channels, 1, 1]`, detached."""
        return self.weight.detach().abs().mean(dim=(1, 2, 3))[:, None, None]

    @cached_property
    def geometry(self) -> Geometry:
        """The same sums with as little stride and dilation as can be."""
        if isinstance(self.padding, str):
            return Geometry((1, 1), self.stride, self.padding, self.dilation)
        axes = []
        for kernel, stride, padding, dilation in zip(
            self.kernel_size, self.stride, self.padding, self.dilation, strict=True
        ):
            if padding % stride == 0 and (kernel == 1 or dilation % stride == 0):
                axes.append((stride, 1, padding // stride, 1 if kernel == 1 else dilation // stride))
            else:
                axes.append((1, stride, padding, dilation))
        (row, column) = axes
        step, stride_, padding_, dilation_ = zip(row, column, strict=True)
        return Geometry(step, stride_, padding_, dilation_)

    def convolve(self, seen: Tensor, bits: Tensor) -> Tensor:
        """The sums of products with `bits` for an x of which only every `geometry.step`-th pixel is given."""
        at = self.geometry
        return F.conv2d(seen, bits, None, at.stride, at.padding, at.dilation, self.groups)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x with `sign(W)`, times α: for an x of bits exact up to α, whatever the order of sums."""
        step = self.geometry.step
        seen = x if step == (1, 1) else x[..., :: step[0], :: step[1]]
        y = self.convolve(seen, ste_sign(self.weight)) * self.scale()
        return y if self.bias is None else y + self.bias[:, None, None]
