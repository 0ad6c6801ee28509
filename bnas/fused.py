"""A binary block as one function of autograd, for training on the CPU: the same numbers as `bnas.ops.BinaryBlock`'s own
code, in a third of the passes over memory.

Module code writes, and keeps for the backward pass, a map for each of BatchNorm, sign, α, BatchNorm and addition. Here
one is kept, the convolution's result: signs, slopes and the PReLU's input are computed again from it and from the
block's input, which lives anyhow. Statistics are summed in PyTorch's order and every value is rounded as PyTorch
rounds it, so that forward results are equal bit by bit: one other rounding could turn a sign.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bnas import fused_kernels as kernels
from bnas.binarize import BinaryConv2d, approx_sign, sign, ste_sign
from bnas.fused_kernels import LANES

TASK = 1 << 14
"""Elements of a task: what it reads and writes stays in a core's second cache."""


class Block(Protocol):
    """What is needed of a `bnas.ops.BinaryBlock`."""

    stride: int
    out_channels: int
    sign: Callable[[Tensor], Tensor]
    norm_in: nn.BatchNorm2d
    conv: BinaryConv2d
    norm_out: nn.BatchNorm2d
    activation: nn.PReLU

    def children(self) -> Iterator[nn.Module]:
        """Its layers."""


@functools.cache
def _team() -> Callable[..., None] | None:
    """`GOMP_parallel` of the OpenMP that PyTorch's own threads belong to (None: another kind of threads).

    A second set of threads would compete with those, which go on spinning for a while after each operator.
    """
    found = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if found is not None:
        found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return found


def _run(kind: int, pixels: int, channels: int, tasks: int | None, *arguments: int | Tensor) -> None:
    """One pass, on as many threads as PyTorch uses; see `bnas.fused_kernels`."""
    cycle = period(channels)
    length = cycle * max(1, TASK // cycle)
    if tasks is None:
        tasks = -(-pixels * channels // length)
    values = [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
    numbers = (ctypes.c_int64 * kernels.ROOM)(0, tasks, kind, pixels, channels, cycle, length, *values)
    function, threads, team = kernels.runner(), min(tasks, torch.get_num_threads()), _team()
    if threads > 1 and team is not None:
        team(function.address, numbers, threads, 0)
    else:
        function.ctypes(ctypes.addressof(numbers))


def period(channels: int) -> int:
    """Elements after which the pattern of channels over vectors repeats."""
    return math.lcm(channels, LANES)


def _tasks(pixels: int, channels: int) -> int:
    cycle = period(channels)
    return -(-pixels * channels // (cycle * max(1, TASK // cycle)))


def _norm(x: Tensor, layer: nn.BatchNorm2d, factor: Tensor | None, extra: Tensor | None = None) -> Tensor:
    """Rows mean, 1 / deviation, scale, shift, `extra` `[5, period]` of a BatchNorm on this mini-batch.

    With a factor by channel, x is multiplied by it first, in place.
    """
    n, channels, h, w = x.shape
    pixels, tasks = n * h * w, torch.get_num_threads()
    norm = torch.empty(5, period(channels))
    norm[4, :channels] = 0 if extra is None else extra.detach()
    sums = torch.empty(tasks, channels)
    rows, parts = norm.numpy(), sums.numpy()
    _run(kernels.SUMS, pixels, channels, tasks, x, sums, 0 if factor is None else factor)
    kernels.mean_of(parts, pixels, rows[0])
    _run(kernels.SQUARES, pixels, channels, tasks, x, sums, norm)
    kernels.norm_of(parts, pixels, layer.eps, layer.weight.detach().numpy(), layer.bias.detach().numpy(), rows)
    if layer.running_mean is not None and layer.running_var is not None:
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked.add_(1)
        running = layer.running_mean.numpy(), layer.running_var.numpy()
        kernels.track(rows[0], parts[0], pixels, layer.momentum, *running)
    return norm


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


class _Block(torch.autograd.Function):
    """See `bnas.ops.BinaryBlock`; `shortcut` is None where it is x itself."""

    @staticmethod
    def forward(ctx: Any, block: Any, x: Tensor, shortcut: Tensor | None, *parameters: Tensor) -> Tensor:
        conv: BinaryConv2d = block.conv
        latent, slope = parameters[2], parameters[5]
        x = _laid_out(x.detach())
        norm_in = _norm(x, block.norm_in, None)
        with torch.no_grad():
            scale = conv.scale().flatten()
            y = _laid_out(conv.convolve(_signs(_seen(x, conv), norm_in), sign(latent)))
        norm_out = _norm(y, block.norm_out, scale, slope)
        added = x if shortcut is None else _laid_out(shortcut.detach())
        out = _like(y)
        n, channels, h, w = y.shape
        _run(kernels.FINISH, n * h * w, channels, None, y, added, out, norm_out[2], norm_out[3], norm_out[4])
        ctx.block = block
        ctx.save_for_backward(x, y, shortcut, norm_in, norm_out, scale, latent)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, shortcut, norm_in, norm_out, scale, latent = ctx.saved_tensors
        conv: BinaryConv2d = ctx.block.conv
        grad, added = _laid_out(grads[0]), x if shortcut is None else _laid_out(shortcut)
        n, channels, h, w = y.shape
        pixels, tasks = n * h * w, _tasks(n * h * w, channels)
        inner, sums = _like(y), torch.empty(tasks, 3, period(channels))
        mean, _, factor, shift, slope = norm_out
        _run(kernels.UNFINISH, pixels, channels, None, grad, y, added, inner, factor, shift, slope, mean, sums)
        coefficients, found_out = _coefficients(sums, pixels, channels, scale, norm_out)
        raw = _like(y)
        _run(kernels.JOIN, pixels, channels, None, inner, y, raw, 0, *coefficients, mean)

        seen = _seen(x, conv)
        geometry = conv.geometry
        grad_signs, grad_bits, _ = torch.ops.aten.convolution_backward(
            raw, _signs(seen, norm_in), sign(latent), None, geometry.stride, geometry.padding, geometry.dilation,
            False, (0, 0), conv.groups, (True, True, False),
        )  # fmt: skip
        del raw
        grad_signs = _laid_out(grad_signs)
        n, channels, h, w = seen.shape
        mean, _, factor, shift, _ = norm_in
        sums = torch.empty(_tasks(n * h * w, channels), 2, period(channels))
        ste = int(ctx.block.sign is ste_sign)
        _run(kernels.UNSIGN, n * h * w, channels, None, grad_signs, seen, grad_signs, factor, shift, mean, ste, sums)
        pixels = x.numel() // channels
        coefficients, found_in = _coefficients(sums, pixels, channels, torch.ones(channels), norm_in)
        grad_x = None
        if ctx.needs_input_grad[1]:
            grad_x, through = _like(x), inner if shortcut is None else 0
            whole = grad_signs if seen is x else 0
            _run(kernels.JOIN, pixels, channels, None, whole, x, grad_x, through, *coefficients, mean)
            if seen is not x:
                some = grad_x[..., :: geometry.step[0], :: geometry.step[1]]
                some.addcmul_(grad_signs, coefficients[0, :channels, None, None])
        return (
            None,
            grad_x,
            None if shortcut is None else inner,
            found_in[1],
            found_in[0],
            grad_bits * (latent.abs() <= 1),
            found_out[1],
            found_out[0],
            found_out[2],
        )


def _seen(x: Tensor, conv: BinaryConv2d) -> Tensor:
    """The pixels that a convolution sees."""
    step = conv.geometry.step
    return x if step == (1, 1) else _laid_out(x[..., :: step[0], :: step[1]])


def _signs(x: Tensor, norm: Tensor) -> Tensor:
    n, channels, h, w = x.shape
    out = _like(x)
    _run(kernels.SIGN, n * h * w, channels, None, x, out, norm[2], norm[3])
    return out


def _coefficients(sums: Tensor, pixels: int, channels: int, factor: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """What the gradient of a BatchNorm's input is made of `[3, period]`, and gradients `[k, C]` of shift, scale, …"""
    coefficients, found = torch.empty(3, norm.shape[1]), torch.empty(sums.shape[1], channels)
    arrays = (tensor.numpy() for tensor in (factor, norm, coefficients, found))
    kernels.gradient_of_norm(sums.numpy(), pixels, channels, *arrays)
    return coefficients, found


def applies(block: Block, x: Tensor) -> bool:
    """Whether `forward` computes what the block's own code would: float32 on the CPU, channels last, with the
    mini-batch's statistics.

    Not where somebody looks into the block by hooks or has put another sign into it, nor for maps of one channel or
    pixel, which lie in memory in both ways at once, so that PyTorch sums them in the other order.
    """
    norms = (block.norm_in, block.norm_out)
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.dim() == 4
        and min(x.shape[1], block.out_channels) > 1
        and max(x.shape[2:]) > block.stride
        and x.is_contiguous(memory_format=torch.channels_last)
        and (block.sign is approx_sign or block.sign is ste_sign)
        and not torch.is_autocast_enabled("cpu")
        and block.conv.weight.dtype == torch.float32
        and all(norm.training or norm.running_mean is None for norm in norms)
        and all(norm.momentum is not None and norm.weight is not None for norm in norms)
        and not any(layer._forward_hooks or layer._forward_pre_hooks for layer in block.children())
    )


def forward(block: Block, x: Tensor, shortcut: Tensor) -> Tensor:
    """`BinaryBlock`'s result from its input and its shortcut, where `applies` says so."""
    norm_in, conv, norm_out, activation = block.norm_in, block.conv, block.norm_out, block.activation
    parameters = (norm_in.weight, norm_in.bias, conv.weight, norm_out.weight, norm_out.bias, activation.weight)
    result: Tensor = _Block.apply(block, x, None if shortcut is x else shortcut, *parameters)
    return result
