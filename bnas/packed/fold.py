"""From a trained PyTorch network to its packed parameters and its file; needs torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnas.nn.network import Network
from bnas.nn.operations import BinaryBlock
from bnas.packed.card import ModelCard
from bnas.packed.file import to_bytes
from bnas.packed.layout import Block, Classifier, Stem, Step
from bnas.packed.parameters import BlockParameters, ClassifierParameters, Floats, Parameters, StemParameters, joined
from bnas.storage.files import atomic_write


def save(network: Network, path: str | os.PathLike[str], card: ModelCard) -> None:
    """Write the file of a trained network, whole or not at all."""
    atomic_write(Path(path), packed(network, card))


def packed(network: Network, card: ModelCard) -> bytes:
    """The content of the file of a trained network; raises ValueError if the card is of another network."""
    if (network.config, network.genotype) != (card.config, card.network.genotype):
        raise ValueError("card: expected the network's configuration and genotype, found another's")
    bits, floats = joined(fold(network, card.steps()))
    return to_bytes(card, bits, floats)


def fold(network: Network, steps: Sequence[Step]) -> list[Parameters]:
    """The parameters of every step, in float64 until the last rounding.

    BatchNorms become a scale and a shift, α of a binary convolution goes into the scale after it, the stem's BatchNorm
    into weights and bias, the classifier's normalisation into the classifier. Raises ValueError for a parameter that
    is not finite.
    """
    found = [_of_step(network, step) for step in steps]
    for step, values in zip(steps, found, strict=True):
        if not all(np.isfinite(value).all() for value in values or ()):
            raise ValueError(f"{step.name}: expected finite parameters, found nan or infinity")
    return found


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
    found: Floats = values.detach().cpu().numpy().astype(np.float32)
    return found
