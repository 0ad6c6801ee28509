"""What export demands of a packed network before it is shipped, on networks that are right, nearly right and wrong."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from bnas import packed
from bnas.nn.operations import BinaryBlock
from bnas.packed.agreement import before_signs, deviating, map_before, torch_logits, undecided
from bnas.packed.fold import affine, fold
from bnas.packed.network import PackedNetwork
from bnas.packed.parameters import joined
from bnas.packed.reference import signs
from bnas.space.layout import Block
from tests.bnas.packed import builders
from tests.bnas.packed.builders import MEAN, STD, card, pixels

SIZE = (8, 8)


def images(count: int) -> np.ndarray:
    return builders.normalise(pixels(count).transpose(0, 2, 3, 1), MEAN[:1], STD[:1])


def to_network(model, change=lambda index, values: values) -> PackedNetwork:
    """The packed network, with the parameters of its steps changed."""
    found = card(model, SIZE)
    values = [change(i, each) for i, each in enumerate(fold(model, found.steps()))]
    return PackedNetwork(packed.PackedContent(found, *joined(values), b"", "", 0), threads=1)


class Altered(PackedNetwork):
    """Its answers are changed on the way out."""

    def __init__(self, content, alter):
        super().__init__(content, 1)
        self.alter = alter

    def __call__(self, given):
        return self.alter(super().__call__(given))


@pytest.fixture(scope="module")
def model():
    return builders.balanced(builders.network(seed=3), SIZE)


def test_no_image_deviates_from_a_network_rightly_packed(model):
    assert deviating(model, to_network(model), images(200)).tolist() == []


@pytest.mark.parametrize("space", ["bnas", "darts"])
def test_the_maps_before_signs_are_those_of_the_trained_network(space):
    model = builders.balanced(builders.network(seed=3, space=space), SIZE)
    found, x = to_network(model), images(3)
    seen = before_signs(model, x, np.arange(len(x)))
    blocks = [(i, step) for i, step in enumerate(found.steps) if isinstance(step, Block)]
    assert set(seen) == {step.name for _, step in blocks}
    for i, step in blocks:
        ours = map_before(found.steps[:i], found.parameters[:i], step, x)
        values, plus = seen[step.name]
        np.testing.assert_allclose(ours, values, rtol=1e-4, atol=1e-5)
        assert np.array_equal(plus, signs(ours, found.parameters[i].scale_in, found.parameters[i].shift_in))


@pytest.fixture(scope="module")
def on_threshold(model):
    """A network in which one value of image 5 lies on a threshold of its first block; that value's sign in PyTorch."""
    made = copy.deepcopy(model)
    name, block = next((n, b) for n, b in made.named_modules() if isinstance(b, BinaryBlock))
    value, _ = before_signs(made, images(200), np.array([5]))[name]
    scale, shift = affine(block.norm_in)
    block.norm_in.bias.data[0] -= (scale[0] * float(value[0, 0, 2, 3]) + shift[0]).float()
    plus = bool(before_signs(made, images(200), np.array([5]))[name][1][0, 0, 2, 3])
    return made, name, plus


def nudged(made, name, plus, by):
    """Packed, with the shift before that sign moved away from what PyTorch decided."""

    def change(index, values):
        if card(made, SIZE).steps()[index].name != name:
            return values
        shift = values.shift_in.copy()
        shift[0] += np.float32(-by if plus else by)
        return values._replace(shift_in=shift)

    return to_network(made, change)


def test_an_image_on_which_rounding_decides_is_found_and_no_other(on_threshold):
    loaded = nudged(*on_threshold, 5e-7)
    assert undecided(on_threshold[0], loaded, images(200), np.arange(200)).nonzero()[0].tolist() == [5]
    assert deviating(on_threshold[0], loaded, images(200)).tolist() == [5]


def test_an_image_is_looked_into_among_those_it_was_compared_with(on_threshold):
    """PyTorch rounds by how many images there are: alone, this one's sign falls on the packed network's side."""
    made, name, plus = on_threshold
    block = made.get_submodule(name)
    scale, _ = affine(block.norm_in)
    moved = (-1e-6 if plus else 1e-6) / scale[0].item()

    def round_otherwise(norm, given):
        few = given[0].new_zeros(given[0].shape[1])
        few[0] = moved if len(given[0]) < 100 else 0.0
        return given[0] + few[:, None, None]

    hook = block.norm_in.register_forward_pre_hook(round_otherwise)
    try:
        assert deviating(made, nudged(*on_threshold, 5e-7), images(200)).tolist() == [5]
    finally:
        hook.remove()


def test_rows_are_found_wherever_they_lie(model):
    x, rows = images(600), np.array([3, 255, 256, 599])
    every, some = before_signs(model, x, np.arange(600)), before_signs(model, x, rows)
    assert len(every) > 1
    assert set(some) == set(every)
    for name, (values, plus) in some.items():
        assert len(every[name][0]) == 600
        assert np.array_equal(values, every[name][0][rows])
        assert np.array_equal(plus, every[name][1][rows])


def test_a_sign_that_differs_by_more_than_rounding_is_no_excuse(on_threshold):
    made, name, plus = on_threshold
    loaded, x = nudged(made, name, plus, 1e-3), images(200)
    others = np.abs(loaded(x) - torch_logits(made, x)).max(axis=1) <= 1e-4
    kept = np.flatnonzero(others | (np.arange(200) == 5))
    assert len(kept) > 110
    with pytest.raises(ValueError, match="found 1 images that differ otherwise"):
        deviating(made, loaded, x[kept])


def test_rounding_that_decides_too_often_is_refused(on_threshold):
    x = np.concatenate([images(200)[5:6]] * 2 + [images(200)[6:7]])
    with pytest.raises(ValueError, match="on at most 1% of 3 images or on one, found 2"):
        deviating(on_threshold[0], nudged(*on_threshold, 5e-7), x)


def test_rounding_may_decide_on_one_image_of_however_few(on_threshold):
    assert deviating(on_threshold[0], nudged(*on_threshold, 5e-7), images(200)[4:7]).tolist() == [1]


@pytest.mark.parametrize("part", ["weight", "scale_out", "shift_out", "slope", "scale_in"])
def test_a_wrong_parameter_is_refused(part):
    # A network in which nothing after the last block, such as a pooling, hides what that block does.
    model = builders.balanced(builders.network(seed=4), SIZE)
    last = max(i for i, step in enumerate(card(model, SIZE).steps()) if isinstance(step, Block))

    def change(index, values):
        return values._replace(**{part: -getattr(values, part)}) if index == last else values

    with pytest.raises(ValueError, match="expected the packed network"):
        deviating(model, to_network(model, change), images(200))


def test_one_image_that_deviates_without_a_value_on_a_threshold_is_refused(model):
    def alter(logits):
        logits[3:4, 0] *= np.float32(1.01)
        return logits

    with pytest.raises(ValueError, match="found 1 images that differ otherwise, the first is number 3"):
        deviating(model, Altered(to_network(model).content, alter), images(200))


def test_another_class_is_refused_however_near_its_logits_are(model):
    made = copy.deepcopy(model)
    with torch.no_grad():
        made.classifier.weight[1], made.classifier.bias[1] = made.classifier.weight[0], made.classifier.bias[0]
    tied = np.flatnonzero(torch_logits(made, images(200)).argmax(axis=1) == 0)

    def alter(logits):
        logits[tied[0], 1] += np.float32(1e-6) * np.abs(logits[tied[0]]).max()
        return logits

    with pytest.raises(ValueError, match=f"found 1 images that differ otherwise, the first is number {tied[0]}$"):
        deviating(made, Altered(to_network(made).content, alter), images(200))
