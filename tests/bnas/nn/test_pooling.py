import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bnas.nn import pooling
from bnas.nn.pooling import AvgPool, MaxPool, halved, narrowed

POOLS = {MaxPool: nn.MaxPool2d, AvgPool: nn.AvgPool2d}


def whole_numbers(*shape, seed=0):
    """So few values that most windows have equal ones; as floats that no average of nine is exact in."""
    values = torch.randint(-1, 2, shape, generator=torch.Generator().manual_seed(seed)) / 3
    return values.contiguous(memory_format=torch.channels_last)


def channels_last(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


def pooled(forward, x):
    """The result, and the gradient of x."""
    x = x.clone().requires_grad_()
    y = forward(x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(upstream.contiguous(memory_format=torch.channels_last))
    return y.detach(), x.grad


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.tuples(st.integers(1, 3), st.integers(2, 35), st.integers(1, 9), st.integers(2, 9)),
    st.sampled_from([1, 2]),
    st.sampled_from(list(POOLS)),
)
def test_pooling_equals_pytorchs(seed, shape, stride, kind):
    pool, x = kind(stride), whole_numbers(*shape, seed=seed)
    assert pooling.fits(x)
    y, gradient = pooled(pool, x)
    expected, expected_gradient = pooled(lambda x: POOLS[kind].forward(pool, x), x)
    assert torch.equal(y, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def matrix_product(x, channels):
    groups = F.adaptive_avg_pool1d(torch.eye(x.shape[1]), channels).T
    return F.conv2d(x, groups[:, :, None, None])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(2, 40), st.integers(2, 7))
def test_halving_equals_pytorchs(seed, n, channels, side):
    x = channels_last(n, channels, side, 2 * side - 3, seed=seed)
    y, gradient = pooled(halved, x)
    expected, expected_gradient = pooled(lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False), x)
    assert torch.equal(y, expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("group", [2, 3, 4, 5])
@pytest.mark.parametrize("made", [2, 16, 48])
def test_averages_of_channels_are_a_product_with_a_matrix(made, group):
    x = channels_last(3, made * group, 5, 4)
    y, gradient = pooled(lambda x: narrowed(x, made), x)
    expected, expected_gradient = pooled(lambda x: matrix_product(x, made), x)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_no_number_stays_none(stride):
    x = whole_numbers(2, 5, 8, 7)
    x[0, 1, 3, 3] = torch.nan
    for kind, own in POOLS.items():
        torch.testing.assert_close(kind(stride)(x), own.forward(kind(stride), x), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize(
    "x",
    [whole_numbers(2, 5, 6, 6).contiguous(), whole_numbers(2, 5, 6, 6).double(), whole_numbers(2, 5, 6, 6).to("meta")],
    ids=["contiguous", "double", "meta"],
)
def test_elsewhere_pytorch_pools(x, monkeypatch):
    monkeypatch.setattr(pooling, "_Pool", None)
    for kind in POOLS:
        assert kind(1)(x).shape == x.shape


def test_pooling_does_not_depend_on_threads():
    x, before = whole_numbers(9, 18, 12, 13), torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append([pooled(kind(1), x) for kind in POOLS])
    torch.set_num_threads(before)
    for alone, together in zip(*found, strict=True):
        assert all(map(torch.equal, alone, together))
