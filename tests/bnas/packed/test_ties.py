"""Thresholds that lie on a value of many images are moved off it, and no others."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from bnas.nn.operations import BinaryBlock
from bnas.packed import ties
from bnas.packed.agreement import answered_otherwise, before_signs, deviating, map_before, torch_logits
from bnas.packed.fold import affine, shipped
from bnas.packed.ties import in_memory, shipped_off_ties, steps_off
from bnas.space.layout import Block
from tests.bnas.packed import builders

SIZE = (8, 8)


def images(count: int) -> np.ndarray:
    return builders.normalise(builders.pixels(count).transpose(0, 2, 3, 1), builders.MEAN[:1], builders.STD[:1])


def apart(model, x):
    """(block, channel, value) of an image where PyTorch and the packed network round differently."""
    packed, seen = in_memory(model, *SIZE), before_signs(model, x, np.arange(1))
    for i, (step, values) in enumerate(zip(packed.steps, packed.parameters, strict=True)):
        if isinstance(step, Block):
            theirs, ours = seen[step.name][0], map_before(packed.steps[:i], packed.parameters[:i], step, x[:1])
            for _, channel, row, column in np.argwhere(theirs != ours):
                if values.scale_in[channel] > 0:
                    yield step.name, channel, theirs[0, channel, row, column], ours[0, channel, row, column]


@pytest.fixture(scope="module")
def tied():
    """A network that answers otherwise than its packed form for one picture, where a threshold lies on its value."""
    model, x = builders.balanced(builders.network(seed=3), SIZE), images(1)
    for name, channel, theirs, ours in apart(model, np.repeat(x, 200, axis=0)):
        made = copy.deepcopy(model)
        norm = made.get_submodule(name).norm_in
        norm.running_mean[channel] = float(max(theirs, ours))
        norm.bias = None if norm.bias is None else torch.nn.Parameter(norm.bias * 0)
        if len(answered_otherwise(made, in_memory(made, *SIZE), np.repeat(x, 200, axis=0))) == 200:
            return made, name, channel, x
    raise AssertionError("expected a value that the two round differently")


def shift_of(model, name):
    return affine(model.get_submodule(name).norm_in)[1].detach().numpy()


def moved(before, after):
    """Names of the numbers of a network that were changed, with the places."""
    new = after.state_dict()
    return {
        name: (new[name] != old).nonzero().ravel().tolist()
        for name, old in before.state_dict().items()
        if not torch.equal(new[name], old)
    }


def test_a_threshold_on_the_value_of_many_images_is_moved_and_nothing_else(tied):
    model, name, channel, picture = tied
    x = np.concatenate([np.repeat(picture, 20, axis=0), images(200)[20:]])
    with pytest.raises(ValueError, match="on at most 1% of 200 images or on one, found 20"):
        deviating(model, in_memory(model, *SIZE), x)
    network = copy.deepcopy(model)
    made = shipped_off_ties(network, torch.from_numpy(x))
    assert moved(model, network) == {f"{name}.norm_in.running_mean": [channel]}
    assert len(deviating(made, in_memory(made, *SIZE), x)) <= 1
    # Both have PyTorch's former answers or the packed network's, and the shift is hardly another.
    former = np.stack([torch_logits(model, x), in_memory(model, *SIZE)(x)])
    assert np.isclose(former, torch_logits(made, x), rtol=1e-4, atol=1e-4).all(axis=2).any(axis=0).all()
    assert 0 < abs(shift_of(network, name)[channel] - shift_of(model, name)[channel]) < 1e-3


def test_a_threshold_on_the_value_of_one_image_stays(tied):
    model, _, _, picture = tied
    x = np.concatenate([picture, images(200)[1:]])
    assert len(answered_otherwise(model, in_memory(model, *SIZE), x)) == 1
    network = copy.deepcopy(model)
    assert shipped_off_ties(network, torch.from_numpy(x)) is network
    assert moved(model, network) == {}


def test_the_step_is_one_that_float16_holds(monkeypatch):
    """A shift of a file in float16 moves to the next number that such a file can hold."""
    config = replace(builders.CONFIG, shipped="float16")
    model = builders.balanced(builders.network(config, seed=3), SIZE)
    name = next(n for n, b in model.named_modules() if isinstance(b, BinaryBlock))
    before = shift_of(shipped(model), name)
    steps = [{name: np.spacing(np.abs(before).astype(np.float16)).astype(np.float64)}, {}]
    nearest = before + steps[0][name]
    monkeypatch.setattr(ties, "steps_off", lambda *_: steps.pop(0))
    assert np.array_equal(shift_of(shipped_off_ties(model, torch.from_numpy(images(2))), name), nearest)
    assert np.array_equal(shift_of(shipped(model), name), nearest)  # the weights that are kept say so, too


def test_what_the_file_rounds_is_what_is_compared(tied):
    """Steps are found for the network of the file, not for the one before rounding."""
    model, name, channel, picture = tied
    steps = steps_off(shipped(model), np.repeat(picture, 8, axis=0))
    assert [steps[name][channel] > 0, sorted(steps)] == [True, [name]]
