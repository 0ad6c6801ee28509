import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bnas.nn.binarize import SIGNS, BinaryConv2d, approx_sign, sign, ste_sign

GRID = [-3.0, -2.0, -1.5, -1.0, -0.75, -0.5, -0.25, -0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0]
SLOPES = {
    # max(0, 2 − 2|x|) and 1[|x| ≤ 1] on the grid, worked out by hand.
    "approx": [0, 0, 0, 0, 0.5, 1, 1.5, 2, 2, 1.5, 1, 0.5, 0, 0, 0, 0],
    "ste": [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
both_signs = pytest.mark.parametrize("name", ["approx", "ste"])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def slope(name, x, upstream=None):
    """dF/dx of a sign function, times the upstream gradient."""
    leaf = x.detach().requires_grad_()
    y = SIGNS[name](leaf)
    y.backward(torch.ones_like(y) if upstream is None else upstream)
    return leaf.grad


@pytest.mark.parametrize("function", [sign, approx_sign, ste_sign])
def test_sign_of_zero_is_plus_one(function):
    assert function(torch.tensor([0.0, -0.0])).tolist() == [1, 1]


@pytest.mark.parametrize("function", [sign, approx_sign, ste_sign])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_sign_is_minus_one_below_zero_and_plus_one_above(function, dtype):
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([-torch.inf, -7, -1, -tiny, tiny, 1, 7, torch.inf], dtype=dtype)
    assert function(x).tolist() == [-1, -1, -1, -1, 1, 1, 1, 1]
    assert function(x).dtype == dtype


def test_sign_functions_are_selected_by_name():
    assert SIGNS["approx"] is approx_sign
    assert SIGNS["ste"] is ste_sign
    assert len(SIGNS) == 2


@both_signs
def test_sign_gradient_is_its_formula(name):
    assert slope(name, torch.tensor(GRID)).tolist() == SLOPES[name]


def test_approx_sign_gradient_is_a_triangle_on_a_fine_grid():
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    expected = [max(0.0, 2 - 2 * abs(value)) for value in x.tolist()]
    torch.testing.assert_close(slope("approx", x), torch.tensor(expected, dtype=torch.float64))


def test_ste_gradient_ends_right_after_one():
    one = torch.tensor(1.0)
    beyond = torch.nextafter(one, torch.tensor(2.0))
    assert slope("ste", torch.stack([one, -one, beyond, -beyond])).tolist() == [1, 1, 0, 0]


@both_signs
def test_upstream_gradient_multiplies(name):
    x, upstream = torch.tensor(GRID), torch.randn(len(GRID), generator=rng())
    torch.testing.assert_close(slope(name, x, upstream), upstream * torch.tensor(SLOPES[name]))


@both_signs
def test_sign_changes_neither_its_input_nor_the_upstream_gradient(name):
    x, upstream = torch.tensor(GRID, requires_grad=True), torch.randn(len(GRID), generator=rng())
    given_x, given_upstream = x.detach().clone(), upstream.clone()
    y = SIGNS[name](x)
    (first,) = torch.autograd.grad(y, x, upstream, retain_graph=True)
    (second,) = torch.autograd.grad(y, x, upstream)
    assert torch.equal(first, second)
    assert torch.equal(x.detach(), given_x)
    assert torch.equal(upstream, given_upstream)


LAYOUTS = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    "every other column": lambda x: x.repeat_interleave(2, dim=3)[..., ::2],
    "expanded": lambda x: x[:1, :, :, :1].expand(2, 3, 4, 5),
}


@both_signs
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sign_and_its_gradient_do_not_depend_on_memory_layout(name, layout):
    x = LAYOUTS[layout](torch.randn(2, 3, 4, 5, generator=rng()))
    upstream = torch.randn(2, 3, 4, 5, generator=rng(1))
    if layout != "channels last":
        assert not x.is_contiguous()
    assert torch.equal(SIGNS[name](x), SIGNS[name](x.contiguous()))
    expected = slope(name, x.contiguous(), upstream)
    assert torch.equal(slope(name, x, upstream), expected)
    turned = upstream.to(memory_format=torch.channels_last)
    assert torch.equal(slope(name, x, turned), expected)


def slow_conv(x, latent, bias, stride, padding, dilation, groups):
    """`bias + α Σ sign(W) x` over the taps that lie inside the image, tap by tap, [N, C, H, W]."""
    n, _, height, width = x.shape
    outputs, group_inputs, kernel_h, kernel_w = latent.shape
    alpha = np.abs(latent).mean(axis=(1, 2, 3))
    out_h = (height + 2 * padding[0] - dilation[0] * (kernel_h - 1) - 1) // stride[0] + 1
    out_w = (width + 2 * padding[1] - dilation[1] * (kernel_w - 1) - 1) // stride[1] + 1
    result = np.zeros((n, outputs, out_h, out_w))
    for o, i, j in np.ndindex(outputs, out_h, out_w):
        first_input = o // (outputs // groups) * group_inputs
        for c, a, b in np.ndindex(group_inputs, kernel_h, kernel_w):
            row = i * stride[0] - padding[0] + a * dilation[0]
            column = j * stride[1] - padding[1] + b * dilation[1]
            if 0 <= row < height and 0 <= column < width:
                bit = 1 if latent[o, c, a, b] >= 0 else -1
                result[:, o, i, j] += bit * x[:, first_input + c, row, column]
        result[:, o, i, j] = alpha[o] * result[:, o, i, j] + bias[o]
    return result


def latent_weights(conv, seed=0):
    """Weights that straddle ±1, with zeros of both signs among them."""
    weight = 1.5 * torch.randn(conv.weight.shape, dtype=conv.weight.dtype, generator=rng(seed))
    weight.view(-1)[0], weight.view(-1)[-1] = 0.0, -0.0
    return weight


pairs = st.tuples(st.integers(1, 2), st.integers(1, 2))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([(1, 1), (3, 3), (5, 5), (2, 3)]),
    pairs,
    st.tuples(st.integers(0, 2), st.integers(0, 3)),
    pairs,
    st.sampled_from([1, 2, 4]),
    st.booleans(),
)
def test_binary_convolution_equals_the_sum_over_taps_inside_the_image(
    seed, kernel, stride, padding, dilation, groups, bias
):
    size = tuple(dilation[axis] * (kernel[axis] - 1) + 1 + extra for axis, extra in enumerate((seed % 4, seed % 3)))
    conv = BinaryConv2d(4, 4, kernel, stride, padding, dilation, groups, bias, dtype=torch.float64)
    conv.weight.data.copy_(latent_weights(conv, seed))
    x = torch.randn(2, 4, *size, dtype=torch.float64, generator=rng(seed)).sign()
    expected = slow_conv(
        x.numpy(),
        conv.weight.detach().numpy(),
        conv.bias.detach().numpy() if bias else np.zeros(4),
        stride,
        padding,
        dilation,
        groups,
    )
    np.testing.assert_allclose(conv(x).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0), (1, 0)])
@pytest.mark.parametrize("stride", [(1, 2), (2, 1), (3, 2)])
def test_a_strided_pointwise_convolution_starts_from_the_first_pixel(stride, padding, groups):
    conv = BinaryConv2d(4, 6, 1, stride, padding, groups=groups, dtype=torch.float64)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, generator=rng()).requires_grad_()
    y = conv(x)
    expected = slow_conv(
        x.detach().numpy(),
        conv.weight.detach().numpy(),
        conv.bias.detach().numpy(),
        stride,
        padding,
        (1, 1),
        groups,
    )
    np.testing.assert_allclose(y.detach().numpy(), expected, atol=1e-12)

    upstream = torch.randn(y.shape, dtype=torch.float64, generator=rng(1))
    y.backward(upstream)
    alpha = conv.weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
    binary = (alpha * sign(conv.weight.detach())).requires_grad_()
    plain_x = x.detach().requires_grad_()
    F.conv2d(plain_x, binary, None, stride, padding, 1, groups).backward(upstream)
    torch.testing.assert_close(x.grad, plain_x.grad)
    torch.testing.assert_close(conv.weight.grad, alpha * binary.grad)
    torch.testing.assert_close(conv.bias.grad, upstream.sum(dim=(0, 2, 3)))


@pytest.mark.parametrize("bit", [1.0, -1.0])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_tap_over_the_border_contributes_nothing(bit, dilation):
    conv = BinaryConv2d(1, 1, 3, padding=dilation, dilation=dilation, bias=False)
    conv.weight.data.fill_(0.5)
    taps_per_axis = {1: [2, 3, 3, 3, 2], 2: [2, 2, 3, 2, 2]}[dilation]
    expected = [[bit * 0.5 * rows * columns for columns in taps_per_axis] for rows in taps_per_axis]
    assert conv(torch.full((1, 1, 5, 5), bit))[0, 0].tolist() == expected


def test_alpha_is_the_mean_absolute_weight_of_each_output_channel():
    conv = BinaryConv2d(2, 3, (1, 2), bias=False)
    conv.weight.data = torch.tensor(
        [
            [[[1.0, -2.0]], [[3.0, -4.0]]],  # mean |W| 2.5
            [[[0.0, 0.0]], [[0.0, -2.0]]],  # 0.5; a zero weight is a +1
            [[[0.0, -0.0]], [[0.0, 0.0]]],  # 0
        ]
    )
    assert (conv.scale()[..., None] * ste_sign(conv.weight)).tolist() == [
        [[[2.5, -2.5]], [[2.5, -2.5]]],
        [[[0.5, 0.5]], [[0.5, -0.5]]],
        [[[0.0, 0.0]], [[0.0, 0.0]]],
    ]


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_gradient_is_alpha_times_that_of_the_binary_weight_clipped_at_one(groups):
    conv = BinaryConv2d(4, 6, 3, padding=1, groups=groups, bias=True, dtype=torch.float64)
    conv.weight.data.copy_(latent_weights(conv))
    conv.weight.data[0, 0, 0] = torch.tensor([1.0, -1.0, 1.0000001])
    x = torch.randn(3, 4, 5, 4, dtype=torch.float64, generator=rng(1)).requires_grad_()
    upstream = torch.randn(3, 6, 5, 4, dtype=torch.float64, generator=rng(2))
    conv(x).backward(upstream)

    latent = conv.weight.detach()
    alpha = latent.abs().mean(dim=(1, 2, 3), keepdim=True)
    binary = (alpha * torch.where(latent >= 0, 1.0, -1.0)).requires_grad_()
    plain_x = x.detach().requires_grad_()
    F.conv2d(plain_x, binary, padding=1, groups=groups).backward(upstream)
    # Were α not a constant, every weight would also get sign(W) / n · Σ dL/dB · sign(W).
    expected = (latent.abs() <= 1) * alpha * binary.grad
    assert (expected == 0).any()
    assert (expected != 0).any()
    torch.testing.assert_close(conv.weight.grad, expected)
    torch.testing.assert_close(x.grad, plain_x.grad)
    torch.testing.assert_close(conv.bias.grad, upstream.sum(dim=(0, 2, 3)))


def test_latent_weights_survive_forward_and_backward_unchanged():
    conv = BinaryConv2d(2, 3, 3)
    conv.weight.data.copy_(latent_weights(conv))
    weight, before = conv.weight, conv.weight.detach().clone()
    conv(torch.randn(1, 2, 5, 5, generator=rng())).sum().backward()
    assert conv.weight is weight
    assert torch.equal(conv.weight.detach(), before)
    assert (before.abs() > 1).any()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_anything_but_zeros_is_refused(mode):
    with pytest.raises(ValueError, match=f"BinaryConv2d.padding_mode: expected 'zeros', found '{mode}'"):
        BinaryConv2d(1, 1, 3, padding=1, padding_mode=mode)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((4, 6, 3), {}),
        ((4, 6, (3, 5), (2, 1), (1, 2), (1, 2), 2, False, "zeros"), {}),
        ((4, 6, 3), {"padding": "same", "dilation": 2}),
        ((4, 6), {"kernel_size": 1, "stride": 2, "bias": False, "dtype": torch.float64}),
    ],
)
def test_binary_convolution_takes_the_arguments_of_conv2d(args, kwargs):
    binary, plain = BinaryConv2d(*args, **kwargs), nn.Conv2d(*args, **kwargs)
    x = torch.ones(2, 4, 7, 8, dtype=plain.weight.dtype)
    assert isinstance(binary, nn.Conv2d)
    assert binary(x).shape == plain(x).shape
    assert {k: (v.shape, v.dtype) for k, v in binary.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in plain.state_dict().items()
    }
