"""Moves the thresholds of a trained network off values that many images share.

PyTorch and the packed runtime round in different orders. A value within rounding of a sign's threshold may get one sign
here and the other there, which happens to single images and does no harm. Where a value that many images share lies
there, as that of their background, the two would differ on all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bnas.nn.network import Network
from bnas.nn.operations import BinaryBlock
from bnas.packed.agreement import answered_otherwise, block_signs
from bnas.packed.fold import affine, fold, shipped
from bnas.packed.machine import Machine
from bnas.packed.parameters import Floats, Parameters
from bnas.space.layout import Step, layout
from bnas.space.shipped import SHIPPED

OFTEN = 0.005
"""The share of images on which the two may differ before thresholds are moved, half of what the check of files allows;
one image always."""

TRIES = 8
"""How often thresholds are moved: at the next place another common value may lie."""


class InMemory(NamedTuple):
    """The packed form of a network that no file holds."""

    steps: Sequence[Step]
    parameters: Sequence[Parameters]
    machine: Machine

    def __call__(self, images: Floats) -> Floats:
        """Logits `[N, classes]` of normalised images `[N, C, H, W]`."""
        return self.machine(images)


def shipped_off_ties(network: Network, images: Tensor) -> Network:
    """`fold.shipped` of a network after its thresholds were moved, in place, off values that many of `images` share.

    `images` `[N, C, H, W]` are normalised, of the kind that the network will see. A threshold moves by the least step
    that its stored number can express and that rounding does not bridge. Few networks need it.
    """
    inputs = np.ascontiguousarray(images.cpu().numpy())
    for _ in range(TRIES):
        made = shipped(network)
        moves = steps_off(made, inputs)
        if not moves:
            return made
        for name, step in moves.items():
            block = network.get_submodule(name)
            assert isinstance(block, BinaryBlock)
            _raise_shift(block.norm_in, step)
    return shipped(network)


def steps_off(made: Network, inputs: Floats) -> dict[str, NDArray[np.float64]]:
    """Names of blocks → by what to raise the shift before each sign, `[C]`; empty where rounding decides rarely.

    `made` holds the numbers of its file. Raised are the shifts before those signs that are the first to differ in an
    image.
    """
    network = copy.deepcopy(made).cpu().eval()
    packed = in_memory(network, inputs.shape[2], inputs.shape[3])
    rows = answered_otherwise(network, packed, inputs)
    if len(rows) <= max(1, OFTEN * len(inputs)):
        return {}
    kind = {2: np.float16, 4: np.float32}[SHIPPED[made.config.shipped].number]
    moves: dict[str, NDArray[np.float64]] = {}
    unseen = np.ones(len(rows), bool)
    for block in block_signs(network, packed, inputs, rows):
        differs = block.differs & unseen[:, None, None, None]
        if differs.any():
            bridged = 4 * np.where(differs, block.room, 0).max(axis=(0, 2, 3))
            least = np.spacing(np.abs(block.shift).astype(kind)).astype(np.float64)
            moves[block.name] = np.where(differs.any(axis=(0, 2, 3)), np.maximum(least, bridged), 0)
            unseen &= ~differs.any(axis=(1, 2, 3))
    return moves


def in_memory(network: Network, height: int, width: int) -> InMemory:
    """The packed form of a network for images of a size, of the numbers that it holds."""
    steps = layout(*network.architecture, height, width)
    parameters = fold(network, steps)
    return InMemory(steps, parameters, Machine(steps, parameters, threads=1))


@torch.no_grad()
def _raise_shift(norm: _BatchNorm, step: NDArray[np.float64]) -> None:
    """Raise the shift that a BatchNorm with running statistics is, by `step` [C]."""
    assert norm.running_mean is not None
    scale, _ = affine(norm)
    norm.running_mean -= (torch.from_numpy(step).to(scale) / scale).float()
