"""Whether a packed network answers as the PyTorch network that it was made from; needs torch.

Both round, each in its own order, so a value before a sign may fall on different sides of its threshold in the two.
From there on the images go different ways, which no tolerance covers. Such images are counted, and each is looked
into: up to the first sign that differs, both have to have computed the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas.nn.network import Network
from bnas.nn.operations import BinaryBlock
from bnas.packed.machine import Machine
from bnas.packed.network import PackedNetwork
from bnas.packed.parameters import BlockParameters, Floats, Parameters
from bnas.packed.reference import signs
from bnas.space.layout import Block, Step, Sum

TOLERANCE = 1e-4
"""Of logits, relative to the largest of their image."""

ROUNDING = 2e-6
"""Of a value before a sign, relative to the terms that it was added up from (at most 8.3e-7 was seen)."""

MOST_DEVIATING = 0.01
"""Share of images on which rounding may have decided; a single image always may."""

TOGETHER = 256
"""Images at once in PyTorch."""


def deviating(network: Network, packed: PackedNetwork, inputs: Floats) -> NDArray[np.int64]:
    """The images on which rounding decided a sign, by number; on all others logits and class are PyTorch's.

    `inputs` are normalised images `[N, C, H, W]`. Raises ValueError if these images are too many, or if one of them
    deviates for another reason than a value within rounding of its threshold.
    """
    expected, logits = torch_logits(network, inputs), packed(inputs)
    difference = np.abs(logits - expected).max(axis=1) / np.abs(expected).max(axis=1)
    other = (difference > TOLERANCE) | (logits.argmax(axis=1) != expected.argmax(axis=1))
    found = np.flatnonzero(other)
    if len(found) > max(1, MOST_DEVIATING * len(inputs)):
        raise ValueError(
            f"expected the packed network's logits to differ from PyTorch's on at most {MOST_DEVIATING:.0%} of "
            f"{len(inputs)} images or on one, found {len(found)}"
        )
    unexplained = found[~undecided(network, packed, inputs, found)] if len(found) else found
    if len(unexplained):
        raise ValueError(
            f"expected the packed network to answer as PyTorch but where a value lies within rounding of a sign's "
            f"threshold, found {len(unexplained)} images that differ otherwise, the first is number {unexplained[0]}"
        )
    return found


def torch_logits(network: Network, inputs: Floats) -> Floats:
    """What PyTorch computes, float32 `[N, classes]`."""
    with torch.inference_mode():
        x = torch.from_numpy(inputs).contiguous(memory_format=torch.channels_last)
        found: Floats = torch.cat([network(part) for part in torch.split(x, TOGETHER)]).numpy()
    return found


def undecided(network: Network, packed: PackedNetwork, inputs: Floats, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """On which of these images a value before a sign lies on both sides of its threshold, as the two round it.

    `inputs` `[N, C, H, W]` are all that were compared, `rows` `[R]` the ascending numbers of those to look into; bool
    `[R]`.

    Only the first block counts in which any sign of an image differs: there every one that does has to be within
    rounding of its threshold, and so have all values before to be the same.
    """
    seen = before_signs(network, inputs, rows)
    open_, found = np.ones(len(rows), bool), np.zeros(len(rows), bool)
    for index, (step, values) in enumerate(zip(packed.steps, packed.parameters, strict=True)):
        if not (isinstance(step, Block) and isinstance(values, BlockParameters)):
            continue
        x, plus = seen[step.name]
        ours = map_before(packed.steps[:index], packed.parameters[:index], step, inputs[rows])
        scale, shift = (np.abs(each.astype(np.float64))[:, None, None] for each in (values.scale_in, values.shift_in))
        # A value is itself a sum, in which rounding is relative to the largest terms: the map's own size.
        most = np.abs(ours).max(axis=(1, 2, 3), keepdims=True).astype(np.float64)
        room = ROUNDING * (scale * (np.abs(ours) + most) + shift)
        exact = ours * values.scale_in.astype(np.float64)[:, None, None] + values.shift_in[:, None, None]
        same = scale * np.abs(ours.astype(np.float64) - x) <= room
        differs = signs(ours, values.scale_in, values.shift_in) != plus
        excused = same & (~differs | (np.abs(exact) <= room))
        first = open_ & differs.any(axis=(1, 2, 3))
        found |= first & excused.all(axis=(1, 2, 3))
        open_ &= same.all(axis=(1, 2, 3)) & ~first
    return found


def before_signs(
    network: Network, inputs: Floats, rows: NDArray[np.int64]
) -> dict[str, tuple[Floats, NDArray[np.bool_]]]:
    """Every block's input in PyTorch `[R, C, H, W]` and where its sign is +1, by the block's name; rows are ascending.

    Computed among the same images as by `torch_logits`: PyTorch rounds by how many there are.
    """
    seen: dict[str, list[tuple[Floats, NDArray[np.bool_]]]] = {}
    blocks = {name: module for name, module in network.named_modules() if isinstance(module, BinaryBlock)}
    names: dict[nn.Module, str] = {block.norm_in: name for name, block in blocks.items()}

    def look(norm: nn.Module, given: tuple[Tensor], out: Tensor) -> None:
        seen.setdefault(names[norm], []).append((given[0][here].numpy(), (out[here] >= 0).numpy()))

    hooks = [norm.register_forward_hook(look) for norm in names]
    try:
        for start in range(0, len(inputs), TOGETHER):
            here = rows[(rows >= start) & (rows < start + TOGETHER)] - start
            if len(here):
                torch_logits(network, inputs[start : start + TOGETHER])
    finally:
        for hook in hooks:
            hook.remove()
    return {
        name: (np.concatenate([x for x, _ in parts]), np.concatenate([plus for _, plus in parts]))
        for name, parts in seen.items()
    }


def map_before(steps: Sequence[Step], parameters: Sequence[Parameters], block: Block, inputs: Floats) -> Floats:
    """The input of a block `[N, C, H, W]`, computed by the fast kernels; `steps` are those before it."""
    # Doubled and halved, which is exact: an identity or a concatenation makes no map that could be the last.
    twice = Sum("twice", block.source, block.source, block.shape, block.shape)
    made = Machine([*steps, twice], [*parameters, None], threads=1)(inputs)
    return made.reshape(len(inputs), *block.shape) / np.float32(2)
