"""Packs a trained PyTorch network: its parameters, its file, and the PyTorch network that this file holds."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnas.nn.network import Network
from bnas.nn.operations import BinaryBlock
from bnas.packed.card import ModelCard
from bnas.packed.file import to_bytes
from bnas.packed.parameters import (
    Bits,
    BlockParameters,
    ClassifierParameters,
    Floats,
    Parameters,
    StemParameters,
    joined,
    split,
)
from bnas.packed.rounding import restored, stored
from bnas.space.layout import Block, Classifier, Stem, Step, layout
from bnas.storage.files import atomic_write


def save(network: Network, path: str | os.PathLike[str], card: ModelCard) -> None:
    """Write the file of a trained network, whole or not at all."""
    atomic_write(Path(path), packed(network, card))


def packed(network: Network, card: ModelCard) -> bytes:
    """The content of the file of a trained network; raises ValueError if the card is of another network."""
    if network.architecture != card.architecture:
        raise ValueError("card: expected the network's configuration and genotype, found another's")
    return to_bytes(card, *numbers(network, card.steps()))


def numbers(network: Network, steps: Sequence[Step]) -> tuple[Bits, Floats]:
    """The two arrays of a trained network, as they are before a file rounds them.

    Where a file rounds, they are computed in float64, so that neither the order of sums nor the device changes a
    rounded number.
    """
    if network.config.shipped != "float32":
        network = copy.deepcopy(network).cpu().double()
    return joined(fold(network, steps))


def shipped(network: Network) -> Network:
    """The network that the file of a trained network holds: with float32 itself, else a copy of rounded numbers.

    Every BatchNorm of the copy is just a scale and a shift: mean 0, variance 1, and nothing added to that.
    Raises ValueError for a number that the format does not reach.
    """
    form = network.config.shipped
    if form == "float32":
        return network
    steps = layout(*network.architecture, 1, 1)  # parameters are the same for images of any size
    bits, floats = numbers(network, steps)
    rounded = split(steps, bits, restored(stored(floats, steps, form), steps, form))
    made = copy.deepcopy(network)
    with torch.no_grad():
        for step, values in zip(steps, rounded, strict=True):
            _hold(made, step, values)
        _affine(made.norm)
    return made


def _hold(network: Network, step: Step, values: Parameters) -> None:
    """Write a step's parameters into its modules; the inverse of `fold`."""
    match step, values:
        case Stem(), StemParameters(weight, bias):
            _set(network.get_submodule(step.name), weight=weight)
            _affine(network.get_submodule(step.norm), np.ones_like(bias), bias)
        case Block(), BlockParameters():
            block = network.get_submodule(step.name)
            assert isinstance(block, BinaryBlock)
            _affine(block.norm_in, values.scale_in, values.shift_in)
            _set(block.conv, weight=values.weight)  # α, the mean of their absolute values, is 1
            _affine(block.norm_out, values.scale_out, values.shift_out)
            _set(block.activation, weight=values.slope)
        case Classifier(), ClassifierParameters(weight, bias):
            _set(network.classifier, weight=weight, bias=bias)


def _affine(norm: nn.Module, scale: Floats | None = None, shift: Floats | None = None) -> None:
    """Make a BatchNorm nothing but `scale · x + shift`, or the identity."""
    assert isinstance(norm, _BatchNorm)
    norm.reset_running_stats()
    norm.eps = 0.0
    if scale is not None and shift is not None:
        _set(norm, weight=scale, bias=shift)


def _set(module: nn.Module, **values: NDArray[np.generic]) -> None:
    for name, value in values.items():
        parameter = module.get_parameter(name)
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def fold(network: Network, steps: Sequence[Step]) -> list[Parameters]:
    """The parameters of every step, in float64 until the last rounding.

    BatchNorms become a scale and a shift, α of a binary convolution goes into the scale after it, the stem's BatchNorm
    into weights and bias, the classifier's normalisation into the classifier. Raises ValueError for a parameter that
    is not finite.
    """
    parameters = [_of_step(network, step) for step in steps]
    for step, values in zip(steps, parameters, strict=True):
        if not all(np.isfinite(value).all() for value in values or ()):
            raise ValueError(f"{step.name}: expected finite parameters, found nan or infinity")
    return parameters


def _of_step(network: Network, step: Step) -> Parameters:
    match step:
        case Stem():
            conv, norm = network.get_submodule(step.name), network.get_submodule(step.norm)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, _BatchNorm)
            scale, shift = affine(norm)
            return StemParameters(_single(conv.weight.double() * scale[:, None, None, None]), _single(shift))
        case Block():
            return _block(network.get_submodule(step.name))
        case Classifier():
            scale, shift = affine(network.norm)
            weight, bias = network.classifier.weight.double(), network.classifier.bias.double()
            return ClassifierParameters(_single(weight * scale), _single(bias + weight @ shift))
        case _:
            return None


def _block(block: nn.Module) -> BlockParameters:
    assert isinstance(block, BinaryBlock)
    latent = block.conv.weight.detach()
    alpha = latent.abs().mean(dim=(1, 2, 3)).double()
    scale_in, shift_in = affine(block.norm_in)
    scale_out, shift_out = affine(block.norm_out)
    weight = np.where(latent.cpu().numpy() >= 0, np.int8(1), np.int8(-1))
    return BlockParameters(
        _single(scale_in),
        _single(shift_in),
        weight,
        _single(alpha * scale_out),
        _single(shift_out),
        _single(block.activation.weight.double()),
    )


def affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift `[C]`, float64, of a BatchNorm with running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = 1 / torch.sqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale, shift


def _single(values: Tensor) -> Floats:
    single: Floats = values.detach().cpu().numpy().astype(np.float32)
    return single
