"""A binary block as one function of autograd, for training on the CPU: the same numbers as the layers of
`bnas.nn.operations.BinaryBlock`, in a third of the passes over memory and with convolutions of our own.

Module code writes, and keeps for the backward pass, a map for each of BatchNorm, sign, α, BatchNorm and addition. Here
one of 16-bit integers is kept, the sums of products of signs: signs, slopes and the PReLU's input are computed again
from it and from the block's input, which lives anyhow. Those sums are exact, statistics are summed in PyTorch's order
and every value is rounded as PyTorch rounds it, so that forward results are equal bit by bit: one other rounding could
turn a sign. Gradients are sums in another order than PyTorch's. No result depends on which thread computes what.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bnas.kernels import passes as kernels
from bnas.kernels.convolution import FACTOR, NORM_ROWS, SLOPE, prepare_counts, prepare_gradient
from bnas.kernels.emitter import LANES
from bnas.kernels.geometry import ConvolutionPlan, ConvolutionShape, plan
from bnas.kernels.records import Pass
from bnas.kernels.tiles import OUTPUTS
from bnas.nn.binarize import BinaryConv2d, approx_sign, sign, ste_sign

TASK = 1 << 14
"""Elements of a task: what it reads and writes stays in a core's second cache."""

MANY = 1 << 15
"""Weights from which on their gradients are summed in fewer parts."""


class BlockLayers(Protocol):
    """What is needed of a `bnas.nn.operations.BinaryBlock`."""

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
    team = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if team is not None:
        team.argtypes, team.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return team


def run_pass(kind: int, channels: int, tasks: int, pixels: int = 0, **fields: int | Tensor) -> None:
    """One pass, on as many threads as PyTorch uses; `fields` are those of `bnas.kernels.records.Pass`."""
    cycle = period(channels)
    numbers = {name: value.data_ptr() if isinstance(value, Tensor) else value for name, value in fields.items()}
    work = Pass(
        kind=kind, channels=channels, tasks=tasks, pixels=pixels, period=cycle, length=_length(cycle), **numbers
    )
    function, threads, team = kernels.runner(), min(tasks, torch.get_num_threads()), _team()
    if threads > 1 and team is not None:
        team(function.address, ctypes.addressof(work), threads, 0)
    else:
        function.ctypes(ctypes.addressof(work))


def _elementwise(kind: int, map_: Tensor, **fields: int | Tensor) -> None:
    """A pass over maps of the shape of `map_` `[N, C, H, W]`."""
    channels = map_.shape[1]
    run_pass(kind, channels, _tasks(map_), map_.numel() // channels, **fields)


def period(channels: int) -> int:
    """Elements after which the pattern of channels over vectors repeats."""
    return math.lcm(channels, LANES)


def _length(cycle: int) -> int:
    return cycle * max(1, TASK // cycle)


def _tasks(x: Tensor) -> int:
    """Tasks of an elementwise pass over x."""
    return -(-x.numel() // _length(period(x.shape[1])))


def _norm(x: Tensor, layer: nn.BatchNorm2d, factor: Tensor | None = None, slope: Tensor | None = None) -> Tensor:
    """Rows `[NORM_ROWS, period]` of a BatchNorm on this mini-batch; with a factor, x are counts `[N, C, H, W]` that it
    multiplies by channel first."""
    n, channels, h, w = x.shape
    pixels, tasks = n * h * w, torch.get_num_threads()
    norm, sums = torch.zeros(NORM_ROWS, period(channels)), torch.empty(tasks, channels)
    fields = {"x": x, "mean": norm, "sums": sums}
    if factor is not None and slope is not None:
        norm[SLOPE, :channels], norm[FACTOR, :channels] = slope.detach(), factor
        fields["factor"] = norm[FACTOR]
    rows, parts = norm.numpy(), sums.numpy()
    run_pass(kernels.SUMS, channels, tasks, pixels, **fields)
    kernels.mean_of(parts, pixels, rows[0])
    run_pass(kernels.SQUARES, channels, tasks, pixels, **fields)
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


def _spaced(x: Tensor) -> tuple[Tensor, int]:
    """A map, and how many elements its periods are apart: some of the channels of another map need no copy."""
    _, channels, h, w = x.shape
    pitch = x.stride(3)
    if channels % LANES == 0 and x.stride() == (h * w * pitch, 1, w * pitch, pitch):
        return x, pitch
    return _laid_out(x), period(channels)


class _FusedBlock(torch.autograd.Function):
    """See `bnas.nn.operations.BinaryBlock`; `shortcut` is None where it is x itself."""

    @staticmethod
    def forward(ctx: Any, block: Any, x: Tensor, shortcut: Tensor | None, *parameters: Tensor) -> Tensor:
        conv: BinaryConv2d = block.conv
        latent, slope = parameters[2], parameters[5]
        x = _laid_out(x.detach())
        norm_in = _norm(x, block.norm_in)
        with torch.no_grad():
            y = _counts(_seen(x, conv), conv, norm_in, latent)
            norm_out = _norm(y, block.norm_out, conv.scale().flatten(), slope)
        added = x if shortcut is None else _laid_out(shortcut.detach())
        out = torch.empty(y.shape, memory_format=torch.channels_last)
        _elementwise(kernels.FINISH, y, y=y, shortcut=added, out=out, norm_out=norm_out)
        ctx.block = block
        ctx.save_for_backward(x, y, shortcut, norm_in, norm_out, latent)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, shortcut, norm_in, norm_out, latent = ctx.saved_tensors
        conv: BinaryConv2d = ctx.block.conv
        grad, pitch = _spaced(grads[0])
        added = x if shortcut is None else _laid_out(shortcut)
        channels = y.shape[1]
        inner = torch.empty(y.shape, memory_format=torch.channels_last)
        sums = torch.empty(_tasks(y), 3, period(channels))
        fields = {"gradient": grad, "y": y, "shortcut": added, "out": inner, "norm_out": norm_out, "sums": sums}
        _elementwise(kernels.UNFINISH, y, pitch=pitch, **fields)
        factor = norm_out[FACTOR, :channels]
        to_counts, grads_out = _coefficients(sums, y.numel() // channels, channels, factor, norm_out)

        seen, channels = _seen(x, conv), x.shape[1]
        outer = _CountGradient(inner, y, norm_out, to_counts)
        grad_latent, grad_signs, sums = _gradients(seen, conv, norm_in, latent, outer, ctx.block.sign is ste_sign)
        to_input, grads_in = _coefficients(sums, x.numel() // channels, channels, torch.ones(channels), norm_in)
        grad_x = None
        if ctx.needs_input_grad[1]:
            through = inner if shortcut is None else 0
            # In place of a gradient that nobody needs any more, where there is one of this shape.
            grad_x = inner if shortcut is None else grad_signs if seen is x else _like(x)
            whole = grad_signs if seen is x else 0
            fields = {"x": x, "out": grad_x, "coefficients": to_input, "norm_in": norm_in}
            _elementwise(kernels.JOIN, x, gradient=whole, other=through, **fields)
            if seen is not x:
                step = conv.geometry.step
                grad_x[..., :: step[0], :: step[1]].addcmul_(grad_signs, to_input[0, :channels, None, None])
        return (
            None,
            grad_x,
            None if shortcut is None else inner,
            grads_in[1],
            grads_in[0],
            grad_latent,
            grads_out[1],
            grads_out[0],
            grads_out[2],
        )


def _seen(x: Tensor, conv: BinaryConv2d) -> Tensor:
    """The pixels that a convolution sees."""
    step = conv.geometry.step
    return x if step == (1, 1) else _laid_out(x[..., :: step[0], :: step[1]])


def _plan(x: Tensor, conv: BinaryConv2d) -> ConvolutionPlan | None:
    """The plan of our own convolution; None where PyTorch's is to be taken."""
    g, (kernel, other) = conv.geometry, conv.kernel_size
    if conv.groups > 1 or isinstance(g.padding, str) or kernel != other:
        return None
    if len({*g.padding}) > 1 or len({*g.stride}) > 1 or len({*g.dilation}) > 1:
        return None
    _, channels, rows, columns = x.shape
    sizes = (channels, conv.out_channels, rows, columns)
    return plan(ConvolutionShape(*sizes, kernel, g.stride[0], g.padding[0], g.dilation[0]))


def _taps(latent: Tensor) -> Tensor:
    """Weights `[O, T, C]`, one behind the other: as they lie in memory channels last, else copied."""
    return latent.detach().permute(0, 2, 3, 1).reshape(latent.shape[0], -1, latent.shape[1]).contiguous()


def _counts(seen: Tensor, conv: BinaryConv2d, norm: Tensor, latent: Tensor) -> Tensor:
    """Sums of products of signs, int16 `[N, O, H', W']`."""
    p = _plan(seen, conv)
    if p is None:
        return _laid_out(conv.convolve(_signs(seen, norm), sign(latent))).to(torch.int16)
    g, n, blocks = p.geometry, seen.shape[0], -(-conv.out_channels // LANES)
    y = torch.empty((n, g.made, g.high, g.wide), dtype=torch.int16, memory_format=torch.channels_last)
    words = np.empty((blocks, g.words, LANES, 4), np.uint8)
    fixes = np.empty((blocks, g.classes, LANES), np.int32)
    taps = _taps(latent)
    prepare_counts(taps.data_ptr(), tuple(taps.shape), p.lacking, p.shape.together, words, fixes)
    space = torch.empty(torch.get_num_threads() * p.bits, dtype=torch.uint8)
    numbers = {"plan": ctypes.addressof(g), "weights": words.ctypes.data, "fixes": fixes.ctypes.data, "size": p.bits}
    run_pass(kernels.CONVOLVE, seen.shape[1], n, x=seen, norm_in=norm, out=y, space=space, **numbers)
    return y


class _CountGradient(NamedTuple):
    """What the gradient of the counts is made of, by the names of a pass's fields.

    The gradient of the PReLU's input, the counts, the BatchNorm's rows, and `coefficients` as of `_coefficients`.
    """

    inner: Tensor
    y: Tensor
    norm_out: Tensor
    coefficients: Tensor


def _gradients(
    seen: Tensor, conv: BinaryConv2d, norm: Tensor, latent: Tensor, outer: _CountGradient, ste: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the latent weights and of the sign's input, and sums of that `[tasks, 2, period]`."""
    p, (n, channels) = _plan(seen, conv), seen.shape[:2]
    if p is None:
        raw, g = _like(outer.inner), conv.geometry
        _elementwise(kernels.JOIN_COUNTS, outer.y, out=raw, **outer._asdict())
        grad_signs, grad_bits, _ = torch.ops.aten.convolution_backward(
            raw, _signs(seen, norm), sign(latent), None, g.stride, g.padding, g.dilation,
            False, (0, 0), conv.groups, (True, True, False),
        )  # fmt: skip
        grad_signs, sums = _laid_out(grad_signs), torch.empty(_tasks(seen), 2, period(channels))
        _elementwise(kernels.UNSIGN, seen, gradient=grad_signs, x=seen, norm_in=norm, ste=int(ste), sums=sums)
        return grad_bits * (latent.abs() <= 1), grad_signs, sums
    plan, chunks = ctypes.addressof(p.geometry), p.geometry.chunks
    weights = np.empty((-(-channels // LANES), p.geometry.taps, conv.out_channels, LANES), np.float32)
    taps = _taps(latent)
    prepare_gradient(taps.data_ptr(), tuple(taps.shape), p.tap_order, weights.ctypes.data)
    # So many sums of the weights' gradients, whatever the number of threads.
    tasks = min(n, 16 if taps.numel() < MANY else 8)
    parts = torch.empty(tasks, chunks, -(-conv.out_channels // OUTPUTS) * OUTPUTS, LANES)
    grad_signs, sums = _like(seen), torch.empty(tasks, 2, period(channels))
    space = torch.empty(torch.get_num_threads(), p.floats)
    tensors: dict[str, Any] = {
        "x": seen,
        "norm_in": norm,
        "out": grad_signs,
        "parts": parts,
        "sums": sums,
        "space": space,
    }
    numbers = {"plan": plan, "images": n, "weights": weights.ctypes.data, "ste": int(ste), "size": p.floats}
    run_pass(kernels.GRADIENTS, channels, tasks, **tensors, **outer._asdict(), **numbers)
    grad = torch.empty_like(taps)
    run_pass(kernels.GATHER, channels, chunks, plan=plan, parts=parts, part_count=tasks, weights=taps, out=grad)
    return grad.view(latent.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2), grad_signs, sums


def _signs(x: Tensor, norm: Tensor) -> Tensor:
    out = _like(x)
    _elementwise(kernels.SIGN, x, x=x, out=out, norm_in=norm)
    return out


def _coefficients(sums: Tensor, pixels: int, channels: int, factor: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """What the gradient of a BatchNorm's input is made of `[3, period]`, and gradients `[k, C]` of shift, scale, …"""
    coefficients, grads = torch.empty(3, norm.shape[1]), torch.empty(sums.shape[1], channels)
    arrays = (tensor.numpy() for tensor in (factor, norm, coefficients, grads))
    kernels.gradient_of_norm(sums.numpy(), pixels, channels, *arrays)
    return coefficients, grads


def applies(block: BlockLayers, x: Tensor) -> bool:
    """Whether `forward` computes what the block's own code would: float32 on the CPU, channels last, with the
    mini-batch's statistics.

    Not where somebody looks into the block by hooks or has put another sign into it, nor for maps of one channel, row
    or column, which may lie in memory in both ways at once, so that PyTorch sums them in the other order.
    """
    norms = (block.norm_in, block.norm_out)
    return (
        fits(x)
        and block.out_channels > 1
        and min(x.shape[2:]) > block.stride
        and (block.sign is approx_sign or block.sign is ste_sign)
        and block.conv.weight.dtype == torch.float32
        and block.conv.weight[0].numel() <= torch.iinfo(torch.int16).max  # which sums of products are kept as
        and all(norm.training or norm.running_mean is None for norm in norms)
        and all(norm.momentum is not None and norm.weight is not None for norm in norms)
        and not any(layer._forward_hooks or layer._forward_pre_hooks for layer in block.children())
    )


def fits(x: Tensor) -> bool:
    """Whether a map is what the passes read: float32 on the CPU, channels last and not also the other way."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.shape[1] > 1
        and max(x.shape[2:]) > 1
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
    )


def forward(block: BlockLayers, x: Tensor, shortcut: Tensor) -> Tensor:
    """`BinaryBlock`'s result from its input and its shortcut, where `applies` says so."""
    norm_in, conv, norm_out, activation = block.norm_in, block.conv, block.norm_out, block.activation
    parameters = (norm_in.weight, norm_in.bias, conv.weight, norm_out.weight, norm_out.bias, activation.weight)
    result: Tensor = _FusedBlock.apply(block, x, None if shortcut is x else shortcut, *parameters)
    return result
