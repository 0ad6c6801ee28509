"""Steps, parameters, cards and files to test packed models with; all of it follows from a seed."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bnas import packed
from bnas.data.picture import normalise
from bnas.nn.cost import cost
from bnas.nn.network import Network
from bnas.packed.machine import Machine
from bnas.packed.parameters import BlockParameters, ClassifierParameters, Floats, Parameters, StemParameters
from bnas.records.dataset import ImageShape
from bnas.records.networks import RetrainedNetwork
from bnas.space.genotype import Genotype
from bnas.space.layout import Block, Classifier, Shape, Stem, Step, layout
from bnas.space.network_config import NetworkConfig
from bnas.space.operations import OPERATIONS
from bnas.space.search_space import SearchSpace

CLASSES = ("cat", "dog", "newt")
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.75)
CONFIG = NetworkConfig(in_channels=1, classes=3, channels=4, cells=3)


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bytes, their shapes aside: −0 is not +0."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def single(values: NDArray[Any]) -> Floats:
    return values.astype(np.float32)


# ---------------------------------------------------------------- steps and their parameters


def block_step(
    have: int, made: int, size: tuple[int, int], kernel: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Block:
    shape = Shape(have, *size)
    return Block("block", 0, shape, shape.halved(made, stride), kernel, stride, dilation, groups)


GRID = (-2.0, -1.0, -0.5, -0.25, -0.0, 0.0, 0.25, 0.5, 1.0, 2.0)
"""Values whose products and sums are exact, so that many fall on a threshold."""

EXTREMES = (0.0, -0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1e-20, -1e20, 1.0, -1.0)
"""Nothing, subnormal, the smallest and the largest."""


def scales(rng: np.random.Generator, count: int, kind: str) -> Floats:
    """Factors in front of a sign, or what is added there."""
    if kind == "grid":
        return single(rng.choice(GRID, count))
    if kind == "extreme":
        return single(rng.choice(EXTREMES, count))
    return single(rng.normal(size=count))


def images(rng: np.random.Generator, count: int, shape: Sequence[int], kind: str = "normal") -> Floats:
    if kind == "grid":
        return single(rng.choice(GRID, (count, *shape)))
    found = rng.normal(size=(count, *shape))
    return single(found * 10.0 ** rng.integers(-30, 30, found.shape) if kind == "extreme" else found)


def block_parameters(rng: np.random.Generator, step: Block, kind: str = "normal") -> BlockParameters:
    have, made = step.shape.channels, step.out.channels
    weight = rng.choice(np.array([-1, 1], np.int8), (made, have // step.groups, step.kernel, step.kernel))
    after = (single(rng.normal(size=made)) for _ in range(3))
    return BlockParameters(scales(rng, have, kind), scales(rng, have, kind), weight, *after)


def parameters(rng: np.random.Generator, step: Step, kind: str = "normal") -> Parameters:
    """Random parameters for any step."""
    match step:
        case Block():
            return block_parameters(rng, step, kind)
        case Stem():
            made, have = step.out.channels, step.shape.channels
            return StemParameters(single(rng.normal(size=(made, have, 3, 3))), single(rng.normal(size=made)))
        case Classifier():
            made, have = step.out.channels, step.shape.channels
            return ClassifierParameters(single(rng.normal(size=(made, have))), single(rng.normal(size=made)))
        case _:
            return None


def machine(steps: Sequence[Step], values: Sequence[Parameters], block: int | None = None, threads: int = 1) -> Machine:
    """Ready to run, with so many images in a block, and every image worth a thread."""
    made = Machine(steps, values, threads)
    made.worth = 1e-12
    if block is not None:
        made.block = block
    return made


# ---------------------------------------------------------------- networks


def genotype(seed: int, nodes: int = 2, space: str = "bnas") -> Genotype:
    return SearchSpace(OPERATIONS[space], nodes, space).sample_mixed(random.Random(seed))


def steps_of(
    config: NetworkConfig, nodes: int, size: tuple[int, int], seed: int, space: str = "bnas"
) -> tuple[Step, ...]:
    return layout(config, genotype(seed, nodes, space), *size)


def network(config: NetworkConfig = CONFIG, nodes: int = 2, seed: int = 0, space: str = "bnas") -> Network:
    """A network in evaluation mode whose weights, statistics and slopes are all random, negative factors among them."""
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Network(config, genotype(seed, nodes, space))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=rng))  # type: ignore[union-attr]
            module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=rng))  # type: ignore[union-attr]
            if module.affine:
                module.weight.data.copy_(torch.randn(module.num_features, generator=rng))
                module.bias.data.copy_(0.3 * torch.randn(module.num_features, generator=rng))
        elif isinstance(module, nn.PReLU):
            module.weight.data.copy_(0.5 * torch.randn(module.weight.shape, generator=rng))
    return made.eval()


def balanced(model: Network, size: tuple[int, int]) -> Network:
    """The network with biases such that no class is the answer to everything."""
    channels = model.config.in_channels
    given = pixels(64, channels, size, seed=1).transpose(0, 2, 3, 1)
    x = torch.from_numpy(normalise(given, MEAN[:channels], STD[:channels]))
    with torch.no_grad():
        model.classifier.bias -= model(x).mean(dim=0)
    return model


def card(model: Network, size: tuple[int, int] = (8, 8), **changes: Any) -> packed.ModelCard:
    """The card of a network; `name`, `wrong` and the like may be changed."""
    config = model.config
    found = cost(model, (config.in_channels, *size), config.shipped)
    record: dict[str, Any] = {
        "name": "front-1",
        "role": "front",
        "genotype": model.genotype,
        "channels": config.channels,
        "cells": config.cells,
        "size_bytes": found.size_bytes,
        "params": found.params,
        "ops": found.ops,
        "supernet_error": None,
        "wrong": 3,
        "test_images": 40,
        "epochs": 2,
        "matched": None,
    }
    return packed.ModelCard(
        network=RetrainedNetwork(**(record | changes)),
        config=config,
        title="Animals",
        classes=tuple(CLASSES[i] if i < len(CLASSES) else f"class {i}" for i in range(config.classes)),
        image=ImageShape(*size, config.in_channels),
        mean=MEAN[: config.in_channels],
        std=STD[: config.in_channels],
        data="0123abcd",
    )


@functools.cache
def content(
    config: NetworkConfig = CONFIG,
    nodes: int = 2,
    size: tuple[int, int] = (8, 8),
    seed: int = 0,
    name: str = "front-1",
    space: str = "bnas",
) -> bytes:
    """A packed file."""
    model = balanced(network(config, nodes, seed, space), size)
    return packed.packed(model, card(model, size, name=name, wrong=seed % 40))


def pixels(count: int, channels: int = 1, size: tuple[int, int] = (8, 8), seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, *size), np.uint8)
