"""The slow reference against torch and against exact arithmetic."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from bnas.nn import operations
from bnas.nn.pooling import AvgPool, MaxPool
from bnas.packed import reference
from bnas.packed.parameters import ClassifierParameters, StemParameters
from bnas.packed.thresholds import thresholds
from bnas.space.layout import Classifier, Concat, Pool, Shape, Stem, Sum
from tests.bnas.packed.builders import block_parameters, block_step, images

seeds = st.integers(0, 2**32 - 1)
sides = st.tuples(st.integers(1, 12), st.integers(1, 12))
strides = st.sampled_from([1, 2])
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = float(np.finfo(np.float32).max)


def torch_of(x):
    return torch.from_numpy(np.ascontiguousarray(x))


# ---------------------------------------------------------------- binary convolution


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 4),
    per_group=st.tuples(st.integers(1, 6), st.integers(1, 4)),
    size=sides,
    kernel=st.sampled_from([1, 3, 5]),
    dilation=st.sampled_from([1, 2]),
    stride=strides,
    seed=seeds,
)
def test_binary_convolution_is_torchs_of_plus_and_minus_one(groups, per_group, size, kernel, dilation, stride, seed):
    rng, (have, made) = np.random.default_rng(seed), (groups * each for each in per_group)
    x = rng.integers(0, 2, (2, have, *size)).astype(bool)
    weight = rng.choice(np.array([-1, 1], np.int8), (made, per_group[0], kernel, kernel))
    padding = dilation * (kernel - 1) // 2
    found = reference.binary_conv2d(x, weight, stride, padding, dilation, groups)
    expected = F.conv2d(
        torch_of(np.where(x, 1.0, -1.0)), torch_of(weight).double(), None, stride, padding, dilation, groups
    )
    assert found.dtype == np.int32
    assert np.array_equal(found, expected.numpy())


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("value", [True, False])
def test_a_tap_over_the_border_contributes_nothing(kernel, dilation, value):
    """Padding with +1 or −1 would show: the sum of equal products counts the taps inside."""
    height, width = 7, 6
    found = reference.binary_conv2d(
        np.full((1, 1, height, width), value),
        np.ones((1, 1, kernel, kernel), np.int8),
        padding=dilation * (kernel - 1) // 2,
        dilation=dilation,
    )
    reach = [dilation * (tap - kernel // 2) for tap in range(kernel)]
    for y, x in itertools.product(range(height), range(width)):
        inside = sum(0 <= y + dy < height and 0 <= x + dx < width for dy in reach for dx in reach)
        assert found[0, 0, y, x] == (inside if value else -inside)


# ---------------------------------------------------------------- signs


def holds(x, scale, shift):
    """Whether `scale · x + shift ≥ 0`, exactly."""
    return Fraction(float(scale)) * Fraction(float(x)) + Fraction(float(shift)) >= 0


@settings(max_examples=300, deadline=None)
@given(x=floats, scale=floats, shift=floats)
@example(x=float(np.float32(1 / 3)), scale=3.0, shift=-1.0)
@example(x=float(np.nextafter(np.float32(1 / 3), np.float32(0))), scale=3.0, shift=-1.0)
@example(x=1e-45, scale=1e-45, shift=-0.0)
@example(x=-1e-45, scale=1e-45, shift=0.0)
@example(x=LARGEST, scale=LARGEST, shift=-LARGEST)
@example(x=-0.0, scale=1.0, shift=0.0)
def test_the_sign_is_that_of_exact_arithmetic(x, scale, shift):
    x, scale, shift = (np.array([value], np.float32) for value in (x, scale, shift))
    found = reference.signs(x.reshape(1, 1, 1, 1), scale, shift)
    assert found.item() == holds(x[0], scale[0], shift[0])


@settings(max_examples=300, deadline=None)
@given(scale=floats, shift=floats, others=st.lists(floats, max_size=3))
@example(scale=0.0, shift=-0.0, others=[])
@example(scale=-0.0, shift=-1e-45, others=[1.0])
@example(scale=1e-45, shift=LARGEST, others=[-LARGEST])
@example(scale=-1e-45, shift=-LARGEST, others=[LARGEST])
@example(scale=LARGEST, shift=-1e-45, others=[1e-45, -1e-45])
@example(scale=1.0, shift=LARGEST, others=[])
@example(scale=-1.0, shift=LARGEST, others=[])
@example(scale=float(np.nextafter(np.float32(1), np.float32(0))), shift=-LARGEST, others=[])
def test_a_threshold_decides_as_exact_arithmetic_on_beside_and_far_from_it(scale, shift, others):
    scale, shift = np.array([scale], np.float32), np.array([shift], np.float32)
    (threshold,), (flip,) = thresholds(scale, shift)
    beside = np.array([threshold], np.float32)
    down = np.nextafter(beside, np.float32(-np.inf))
    up = np.nextafter(beside, np.float32(np.inf))
    more = np.array([0, -0.0, LARGEST, -LARGEST, *others], np.float32)
    for x in np.concatenate([beside, down, up, -beside, more]):
        if np.isfinite(x):
            assert ((x >= threshold) != flip) == holds(x, scale[0], shift[0])


def test_thresholds_are_each_channels_own():
    rng = np.random.default_rng(0)
    scale, shift = rng.normal(size=(2, 50)).astype(np.float32)
    together = thresholds(scale, shift)
    alone = [thresholds(scale[i : i + 1], shift[i : i + 1]) for i in range(50)]
    for column, values in enumerate(together):
        assert np.array_equal(values, np.concatenate([one[column] for one in alone]))


# ---------------------------------------------------------------- what is not binary


@settings(max_examples=60, deadline=None)
@given(channels=st.integers(1, 5), size=sides, stride=strides, seed=seeds)
@pytest.mark.parametrize("kind", ["max", "avg", "skip"])
def test_pools_are_those_of_the_trained_network(kind, channels, size, stride, seed):
    x = images(np.random.default_rng(seed), 2, (channels, *size))
    trained = {"max": MaxPool(stride), "avg": AvgPool(stride), "skip": operations.SkipConnect(stride)}[kind]
    found = reference.pool(x, kind, stride)
    np.testing.assert_allclose(found, trained(torch_of(x)).numpy(), rtol=1e-6, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(have=st.integers(1, 24), channels=st.integers(1, 24), seed=seeds)
def test_channels_are_matched_as_in_the_trained_network(have, channels, seed):
    x = images(np.random.default_rng(seed), 2, (have, 2, 3))
    expected = operations.match_channels(torch_of(x), channels).numpy()
    np.testing.assert_allclose(reference.match_channels(x, channels), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(have=st.integers(1, 3), made=st.integers(1, 6), size=sides, stride=strides, seed=seeds)
def test_the_stem_is_torchs_convolution(have, made, size, stride, seed):
    rng = np.random.default_rng(seed)
    values = StemParameters(images(rng, made, (have, 3, 3)), images(rng, made, ()))
    x = images(rng, 2, (have, *size))
    expected = F.conv2d(torch_of(x).double(), *(torch_of(value).double() for value in values), stride, padding=1)
    np.testing.assert_allclose(reference.stem(x, values, stride), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_the_classifier_is_a_linear_layer_on_the_mean_over_the_image():
    rng = np.random.default_rng(0)
    values = ClassifierParameters(images(rng, 4, (7,)), images(rng, 4, ()))
    x = images(rng, 3, (7, 5, 2))
    expected = x.astype(np.float64).mean(axis=(2, 3)) @ values.weight.T + values.bias
    np.testing.assert_allclose(reference.classify(x, values), expected, rtol=1e-5, atol=1e-5)


def test_a_block_adds_the_shortcut_before_its_activation():
    step = block_step(2, 2, (4, 4), 3, 2)
    rng = np.random.default_rng(0)
    values = block_parameters(rng, step)
    x = images(rng, 3, step.shape)
    whole = reference.binary_conv2d(reference.signs(x, values.scale_in, values.shift_in), values.weight, 2, 1)
    y = torch_of(whole).double() * torch_of(values.scale_out)[:, None, None] + torch_of(values.shift_out)[:, None, None]
    y = F.prelu(y + F.avg_pool2d(torch_of(x), 2).double(), torch_of(values.slope).double())
    np.testing.assert_allclose(reference.block(x, values, step), y.numpy(), rtol=1e-5, atol=1e-5)


def test_steps_read_the_maps_that_they_name():
    shape = Shape(2, 3, 3)
    x = images(np.random.default_rng(0), 2, shape)
    halved = Pool("halved", 0, shape, Shape(2, 2, 2), "skip", 2)
    maximum = Pool("maximum", 0, shape, Shape(2, 2, 2), "max", 2)
    total = Sum("sum", 1, 2, halved.out, halved.out)
    joined = Concat("joined", (2, 3), Shape(4, 2, 2))
    maps = reference.maps([halved, maximum, total, joined], [None] * 4, x)
    assert len(maps) == 5
    assert np.array_equal(maps[3], maps[1] + maps[2])
    assert np.array_equal(maps[4], np.concatenate([maps[2], maps[3]], axis=1))
    assert np.array_equal(maps[2][:, :, 1, 1], x[:, :, 1:, 1:].max(axis=(2, 3)))


@pytest.mark.parametrize(("groups", "width"), [(1, 3), (2, 3), (3, 2), (4, 1)])
def test_a_shuffle_is_that_of_training(groups, width):
    x = images(np.random.default_rng(0), 2, (groups * width, 3, 2))
    assert np.array_equal(reference.shuffle(x, groups), operations.ShuffleChannels(groups)(torch.from_numpy(x)).numpy())


def test_none_is_plus_zero_everywhere():
    x = -images(np.random.default_rng(0), 2, (3, 5, 4))
    for stride, shape in ((1, (2, 3, 5, 4)), (2, (2, 3, 3, 2))):
        found = reference.pool(x, "none", stride)
        assert found.shape == shape
        assert not found.any()
        assert not np.signbit(found).any()


def test_a_relu_follows_a_stem_that_has_one():
    rng, shape = np.random.default_rng(0), Shape(2, 5, 4)
    steps = [Stem("stem.0", 0, shape, Shape(3, 5, 4), 1, relu) for relu in (False, True)]
    values = StemParameters(rng.normal(size=(3, 2, 3, 3)).astype(np.float32), np.zeros(3, np.float32))
    plain, cut = (reference.run([step], [values], images(rng, 1, shape) * 0 + 1) for step in steps)
    assert (plain < 0).any()
    assert np.array_equal(cut, np.maximum(plain, 0))


@pytest.mark.parametrize(
    "step",
    [
        Stem("it", 0, Shape(1, 4, 4), Shape(2, 4, 4), 1),
        block_step(1, 1, (4, 4)),
        Classifier("it", 0, Shape(1, 4, 4), Shape(2, 1, 1)),
    ],
    ids=lambda step: type(step).__name__,
)
def test_a_step_without_its_parameters_is_refused(step):
    with pytest.raises(ValueError, match=f"^{step.name}: parameters NoneType do not belong to this step$"):
        reference.run([step], [None], np.zeros((1, 1, 4, 4), np.float32))
