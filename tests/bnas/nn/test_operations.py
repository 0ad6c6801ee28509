import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnas.nn.binarize import BinaryConv2d, approx_sign, sign
from bnas.nn.operations import BinaryBlock, FoldedNorm, SkipConnect, match_channels, operation, pooled
from bnas.nn.pooling import AvgPool, MaxPool
from bnas.space.operations import OPERATION, PARAMETER_FREE, Convolution

SIZES = [(1, 1), (1, 4), (2, 3), (5, 5), (6, 6), (7, 4)]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
strides = pytest.mark.parametrize("stride", [1, 2])


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def build(name, channels, stride, running_stats=False):
    return operation(name, channels, stride, approx_sign, running_stats)


def halved(size, stride):
    return tuple(math.ceil(n / stride) for n in size)


@sizes
@strides
@pytest.mark.parametrize("name", OPERATION)
def test_every_operation_divides_the_resolution_by_its_stride_rounding_up(name, stride, size):
    assert build(name, 3, stride)(randn(2, 3, *size)).shape == (2, 3, *halved(size, stride))


@sizes
@strides
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("have", "channels"), [(6, 2), (2, 6), (6, 4)])
def test_a_block_gives_its_channels_at_the_divided_resolution(have, channels, kernel, stride, size):
    block = BinaryBlock(have, channels, Convolution(kernel, stride), sign=sign, running_stats=False)
    assert block(randn(2, have, *size)).shape == (2, channels, *halved(size, stride))


@pytest.mark.parametrize(
    ("name", "kernel", "dilation"),
    [("bin_conv_3x3", 3, 1), ("bin_conv_5x5", 5, 1), ("bin_dil_conv_3x3", 3, 2), ("bin_dil_conv_5x5", 5, 2)],
)
def test_a_convolution_sees_the_pixels_its_name_says(name, kernel, dilation):
    conv = build(name, 1, 1).conv
    assert isinstance(conv, BinaryConv2d)
    dot = torch.zeros(1, 1, 13, 13)
    dot[0, 0, 6, 6] = 1
    seen = (conv(dot)[0, 0] != 0).nonzero().tolist()
    reach = [6 + dilation * step for step in range(-(kernel // 2), kernel // 2 + 1)]
    assert seen == [[row, column] for row in reach for column in reach]


def windows(x, kernel, stride, padding):
    """The pixels of each pooling window that lie inside the image: {(i, j): [N, C, pixels]}."""
    height, width = x.shape[2:]
    for i in range(math.ceil(height / stride)):
        for j in range(math.ceil(width / stride)):
            top, left = i * stride - padding, j * stride - padding
            window = x[:, :, max(top, 0) : top + kernel, max(left, 0) : left + kernel]
            yield i, j, window.reshape(*window.shape[:2], -1)


POOLS = {
    "average 3x3": (AvgPool, 3, 1, lambda w: w.mean(axis=2)),
    "maximum 3x3": (MaxPool, 3, 1, lambda w: w.max(axis=2)),
    "shortcut": (lambda stride: lambda x: pooled(x, stride), None, 0, lambda w: w.mean(axis=2)),
}


@sizes
@strides
@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_sees_only_pixels_of_the_image(pool, stride, size):
    make, kernel, padding, reduce = POOLS[pool]
    x = randn(2, 3, *size) - 5  # all far below zero: a zero from the padding would win or weigh in
    found = make(stride)(x).numpy()
    # The shortcut's 2×2 windows do not overlap; at stride 1 it is the identity.
    for i, j, window in windows(x.numpy(), kernel or stride, stride, padding):
        np.testing.assert_allclose(found[:, :, i, j], reduce(window), rtol=1e-5)


@sizes
@strides
@pytest.mark.parametrize("name", sorted(PARAMETER_FREE))
def test_a_constant_image_stays_constant_without_weights(name, stride, size):
    value = 0.0 if name == "none" else -3.0
    x = torch.full((1, 2, *size), -3.0)
    assert torch.equal(build(name, 2, stride)(x), torch.full((1, 2, *halved(size, stride)), value))


@sizes
def test_skip_at_stride_two_is_the_pooled_shortcut(size):
    x = randn(2, 3, *size)
    assert torch.equal(SkipConnect(2)(x), pooled(x, 2))


def test_skip_at_stride_one_is_the_identity():
    x = randn(2, 3, 4, 5)
    assert torch.equal(SkipConnect(1)(x), x)


def test_pooled_shortcut_of_an_odd_image_by_hand():
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])[None, None]
    assert pooled(x, 2)[0, 0].tolist() == [[3, 4.5], [7.5, 9]]


def channels_of(values):
    """One pixel per channel: [1, C, 1, 1]."""
    return torch.tensor(values, dtype=torch.float64)[None, :, None, None]


def test_narrowing_to_a_divisor_averages_equal_groups():
    x = randn(2, 24, 3, 2, dtype=torch.float64)
    by_hand = torch.stack([(x[:, 3 * j] + x[:, 3 * j + 1] + x[:, 3 * j + 2]) / 3 for j in range(8)], dim=1)
    torch.testing.assert_close(match_channels(x, 8), by_hand)


def test_narrowing_24_to_16_channels_averages_overlapping_pairs():
    # Result 2i spans channels 3i … ⌈3i + 1.5⌉ − 1 = 3i + 1, result 2i + 1 spans ⌊3i + 1.5⌋ = 3i + 1 … 3i + 2.
    x = channels_of([2.0**c for c in range(24)])
    by_hand = [v for i in range(8) for v in (1.5 * 2 ** (3 * i), 1.5 * 2 ** (3 * i + 1))]
    torch.testing.assert_close(match_channels(x, 16), channels_of(by_hand))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30))
def test_matched_channels_average_groups_or_repeat(have, channels):
    values = randn(have, dtype=torch.float64).tolist()
    if channels < have:
        groups = [range(j * have // channels, -(-(j + 1) * have // channels)) for j in range(channels)]
        expected = [sum(values[c] for c in group) / len(group) for group in groups]
    else:
        expected = [values[j % have] for j in range(channels)]
    torch.testing.assert_close(match_channels(channels_of(values), channels), channels_of(expected))


def test_matching_the_same_number_of_channels_is_the_identity():
    x = randn(2, 5, 3, 3)
    assert torch.equal(match_channels(x, 5), x)


def randomised(module, seed=0):
    """The module with every weight drawn anew: fresh ones and zeros would hide what they multiply or add."""
    for i, parameter in enumerate(module.parameters()):
        parameter.data.copy_(randn(*parameter.shape, seed=100 * seed + i))
    return module


def normalised(x, norm):
    """Batch statistics by hand (biased variance), then the layer's scale and shift."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    scale, shift = norm.weight[None, :, None, None], norm.bias[None, :, None, None]
    return (x - mean) / (variance + norm.eps).sqrt() * scale + shift


@strides
@pytest.mark.parametrize(("have", "channels"), [(4, 4), (6, 2), (2, 6)])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (5, 2)])
def test_block_is_norm_sign_convolution_norm_shortcut_prelu(kernel, dilation, have, channels, stride):
    block = BinaryBlock(have, channels, Convolution(kernel, stride, dilation), sign=sign).double()
    randomised(block)
    x = randn(3, have, 7, 6, seed=1, dtype=torch.float64)

    bits = torch.where(normalised(x, block.norm_in) >= 0, 1.0, -1.0).double()
    latent = block.conv.weight
    weight = latent.abs().mean(dim=(1, 2, 3), keepdim=True) * torch.where(latent >= 0, 1.0, -1.0)
    y = nn.functional.conv2d(bits, weight, stride=stride, padding=dilation * (kernel // 2), dilation=dilation)
    total = normalised(y, block.norm_out) + match_channels(pooled(x, stride), channels)
    slope = block.activation.weight[None, :, None, None]
    torch.testing.assert_close(block(x), torch.where(total > 0, total, slope * total))


def test_prelu_has_a_slope_per_channel_and_comes_after_the_addition():
    block = BinaryBlock(2, 2, Convolution(3, 1), sign=sign)
    block.norm_out.weight.data.zero_()
    block.norm_out.bias.data.fill_(1)
    block.activation.weight.data.copy_(torch.tensor([0.5, -2.0]))
    x = torch.stack([torch.full((2, 3, 3), -3.0), torch.full((2, 3, 3), 3.0)])
    # −3 + 1 = −2 is sloped, 3 + 1 = 4 is not; sloped first, −3 would stay.
    assert block(x)[:, :, 0, 0].tolist() == [[-1.0, 4.0], [4.0, 4.0]]


def test_block_signs_its_input_with_the_function_given():
    seen = []

    def spy(x):
        seen.append(x)
        return sign(x)

    block = randomised(BinaryBlock(2, 2, Convolution(3, 1), sign=spy))
    x = randn(2, 2, 4, 4)
    block(x)
    (argument,) = seen
    torch.testing.assert_close(argument, normalised(x, block.norm_in))


@strides
@pytest.mark.parametrize("name", OPERATION)
def test_running_statistics_are_kept_only_on_request(name, stride):
    assert not list(build(name, 3, stride, running_stats=False).buffers())
    kept = build(name, 3, stride, running_stats=True)
    norms = [layer for layer in kept.modules() if isinstance(layer, nn.BatchNorm2d)]
    blocks = sum(isinstance(layer, BinaryBlock) for layer in kept.modules())
    assert len(norms) == 2 * blocks
    assert (blocks == 0) == (name in PARAMETER_FREE)
    assert all(layer.running_mean is not None for layer in norms)


@strides
def test_parameter_free_are_exactly_the_operations_without_parameters(stride):
    without = {name for name in OPERATION if not list(build(name, 3, stride).parameters())}
    assert without == PARAMETER_FREE


def test_folded_norm_is_absorbed_by_the_linear_layer_behind_it():
    norm, linear = FoldedNorm(6, running_stats=True).double(), nn.Linear(6, 4).double()
    for seed in range(5):
        norm(3 * randn(8, 6, seed=seed, dtype=torch.float64) + 2)
    norm.eval()
    deviation = (norm.running_var + norm.eps).sqrt()
    folded = nn.Linear(6, 4).double()
    folded.weight.data = linear.weight.data / deviation
    folded.bias.data = linear.bias.data - folded.weight.data @ norm.running_mean
    x = randn(5, 6, seed=9, dtype=torch.float64)
    torch.testing.assert_close(linear(norm(x)), folded(x))
    assert not torch.allclose(linear(norm(x)), linear(x))
    assert not list(norm.parameters())
