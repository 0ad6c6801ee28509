import copy
import random

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from bnas.nn import fused_block
from bnas.nn.binarize import SIGNS, approx_sign, sign
from bnas.nn.network import NetworkConfig, Supernet
from bnas.nn.operations import BinaryBlock, match_channels, pooled
from bnas.space.operations import Convolution
from bnas.space.search_space import SearchSpace


def plain(block, x):
    return block.plain(x, match_channels(pooled(x, block.stride), block.out_channels))


def channels_last(*shape, seed=0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (2 * values + 1).contiguous(memory_format=torch.channels_last)


def drawn(have, made, *shape, seed=0, layout=torch.channels_last, groups=1, **kwargs):
    """A block with every weight drawn anew, some latent ones beyond the clip."""
    convolution = Convolution(*shape)._replace(groups=groups)
    block = BinaryBlock(have, made, convolution, **kwargs).to(memory_format=layout)
    for i, parameter in enumerate(block.parameters()):
        parameter.data.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * seed + i)))
    return block


def trained(forward, block, x, upstream_seed=1):
    """Result, buffers, and gradients of input and parameters in one vector, of a copy of the block."""
    block, x = copy.deepcopy(block), x.clone().requires_grad_()
    y = forward(block, x)
    y.backward(channels_last(*y.shape, seed=upstream_seed))
    gradients = torch.cat([x.grad.flatten(), *(p.grad.flatten() for p in block.parameters())])
    return y.detach(), list(block.buffers()), gradients


def distance(found, expected):
    return float((found - expected).double().norm() / expected.double().norm())


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


KERNELS = [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1000),
    st.tuples(st.integers(2, 18), st.integers(2, 18)),
    st.sampled_from(KERNELS),
    st.sampled_from([1, 2]),
    st.tuples(st.integers(1, 4), st.integers(3, 9), st.integers(3, 9)),
    st.sampled_from(list(SIGNS)),
    st.booleans(),
    st.sampled_from([1, 1, 2, 3]),
)
def test_a_fused_block_equals_its_layers(seed, channels, kernel, stride, size, name, running_stats, groups):
    channels = channels if groups == 1 else tuple(groups * -(-count // 3) for count in channels)
    options = {"sign": SIGNS[name], "running_stats": running_stats, "groups": groups}
    block = drawn(*channels, kernel[0], stride, kernel[1], **options, seed=seed)
    assume(groups == 1 or kernel != (1, 1))  # a map of a single sign that hardly ever turns, divided by its deviation
    # PyTorch lays the result of some small grouped convolutions out the other way, and sums it in another order.
    larger = 0 if groups == 1 else 8
    x = channels_last(size[0], channels[0], size[1] + larger, size[2] + larger, seed=seed + 7)
    assert fused_block.applies(block, x)
    y, statistics, gradients = trained(BinaryBlock.forward, block, x)
    expected, expected_statistics, expected_gradients = trained(plain, block, x)
    tolerance = 0 if groups == 1 else 1e-5
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    for found, wanted in zip(statistics, expected_statistics, strict=True):
        torch.testing.assert_close(found, wanted)
    assert distance(gradients, expected_gradients) < max(1e-5, tolerance)


@pytest.mark.parametrize("kernel", [1, 3])
def test_weights_that_do_not_lie_channels_last_are_read_as_they_lie(kernel):
    block = drawn(16, 18, kernel, 1, sign=approx_sign, layout=torch.contiguous_format)
    assert kernel == 1 or not block.conv.weight.is_contiguous(memory_format=torch.channels_last)
    x = channels_last(4, 16, 12, 13)
    y, _, gradients = trained(BinaryBlock.forward, block, x)
    expected, _, expected_gradients = trained(plain, block, x)
    assert torch.equal(y, expected)
    assert distance(gradients, expected_gradients) < 1e-5


@pytest.mark.parametrize("name", SIGNS)
@pytest.mark.parametrize("shape", [(16, 16, 3, 1), (16, 8, 1, 1), (40, 40, 3, 2), (17, 34, 5, 2)])
def test_large_maps_are_summed_as_pytorch_sums_them(threads, shape, name):
    have, made, kernel, stride = shape
    block = drawn(have, made, kernel, stride, sign=SIGNS[name])
    x = channels_last(9, have, 27, 26)
    y, _, gradients = trained(BinaryBlock.forward, block, x)
    expected, _, expected_gradients = trained(plain, block, x)
    assert torch.equal(y, expected)
    assert distance(gradients, expected_gradients) < 1e-5


def test_results_do_not_depend_on_which_thread_takes_a_task(threads, monkeypatch):
    block, x = drawn(24, 24, 3, 1, sign=approx_sign), channels_last(9, 24, 26, 26)
    together = trained(BinaryBlock.forward, block, x)
    monkeypatch.setattr(fused_block, "_team", lambda: None)
    alone = trained(BinaryBlock.forward, block, x)
    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[2], alone[2])


def test_a_step_of_a_supernet_has_the_gradients_of_its_layers(monkeypatch):
    space = SearchSpace(nodes=2)
    supernet = Supernet(NetworkConfig(3, 5, 4, 4, 1), space).to(memory_format=torch.channels_last)
    x, labels = channels_last(16, 3, 13, 12), torch.arange(16) % 5

    def step(genotype):
        supernet.zero_grad()
        F.cross_entropy(supernet(x, genotype), labels).backward()
        return {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}

    for seed in range(3):
        genotype = space.sample(random.Random(seed))
        found = step(genotype)
        with monkeypatch.context() as patch:
            patch.setattr(BinaryBlock, "forward", plain)
            expected = step(genotype)
        assert found.keys() == expected.keys()
        everything = [torch.cat([g.flatten() for g in gradients.values()]) for gradients in (found, expected)]
        assert distance(*everything) < 1e-5


@pytest.mark.parametrize("channels", [16, 48, 8])
def test_a_gradient_of_some_of_the_channels_of_a_map_is_read_where_it_lies(channels):
    block, x = drawn(channels, channels, 3, 1, sign=approx_sign), channels_last(3, channels, 9, 8).requires_grad_()
    wide = channels_last(3, 2 * channels + 16, 9, 8)[:, 16 : 16 + channels]
    found = torch.autograd.grad(block(x), [x, *block.parameters()], wide)
    expected = torch.autograd.grad(block(x), [x, *block.parameters()], wide.clone(memory_format=torch.channels_last))
    assert all(map(torch.equal, found, expected))


def test_without_gradients_the_result_is_the_same():
    block, x = drawn(6, 6, 3, 1, sign=approx_sign), channels_last(3, 6, 8, 8)
    with torch.no_grad():
        assert torch.equal(block(x), plain(block, x))


def test_an_input_that_needs_no_gradient_gets_none():
    block, x = drawn(6, 6, 3, 1, sign=approx_sign), channels_last(3, 6, 8, 8)
    block(x).sum().backward()
    found = [p.grad.clone() for p in block.parameters()]
    block.zero_grad()
    plain(block, x).sum().backward()
    assert (
        distance(torch.cat([g.flatten() for g in found]), torch.cat([p.grad.flatten() for p in block.parameters()]))
        < 1e-5
    )
    assert x.grad is None


def hooked(block):
    block.norm_in.register_forward_hook(lambda *_: None)
    return block


@pytest.mark.parametrize(
    ("change", "x"),
    [
        (lambda block: block.eval(), channels_last(3, 6, 8, 8)),
        (hooked, channels_last(3, 6, 8, 8)),
        (lambda block: block.double(), channels_last(3, 6, 8, 8).double()),
        (lambda block: block, channels_last(3, 6, 8, 8).contiguous()),
        (lambda block: block.to("meta"), channels_last(3, 6, 8, 8).to("meta")),
        (lambda block: block, channels_last(3, 6, 1, 1)),
        (lambda block: block, channels_last(3, 6, 5, 1)),
        (lambda block: BinaryBlock(6, 6, Convolution(3, 1), sign=sign), channels_last(3, 6, 8, 8)),
    ],
    ids=["running statistics", "hooks", "double", "contiguous", "meta", "one pixel", "one column", "another sign"],
)
def test_elsewhere_the_layers_themselves_run(change, x, monkeypatch):
    block = change(drawn(6, 6, 3, 1, sign=approx_sign))
    monkeypatch.setattr(fused_block, "forward", None)
    assert block(x).shape == x.shape


@pytest.mark.parametrize("channels", [1310, 1311])
def test_only_sums_that_sixteen_bits_hold_are_counted(channels):
    block, x = drawn(channels, 2, 5, 1, sign=approx_sign), torch.ones(1, channels, 5, 5)
    block.conv.weight.data.fill_(1)
    block.norm_in.bias.data.fill_(1)
    x = x.contiguous(memory_format=torch.channels_last)
    assert fused_block.applies(block, x) == (25 * channels < 2**15)
    assert torch.equal(block(x), plain(block, x))


def test_a_second_derivative_is_refused():
    block, x = drawn(6, 6, 3, 1, sign=approx_sign), channels_last(3, 6, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
