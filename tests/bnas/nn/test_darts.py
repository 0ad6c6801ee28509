"""The binarised DARTS space: what its operations are made of and cost, and that a supernet's path is a network."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnas.nn.binarize import BinaryConv2d, approx_sign
from bnas.nn.cost import Cost, CostTable, cost
from bnas.nn.network import Network, NetworkConfig, Supernet
from bnas.nn.operations import BinaryBlock, ShuffleChannels, operation
from bnas.packed.latency import measure
from bnas.space.baselines import hand_designed
from bnas.space.genotype import Gene, Genotype
from bnas.space.operations import OPERATION, OPERATIONS, ChannelShuffle, Convolution, group_width
from bnas.space.search_space import SearchSpace

DARTS = OPERATIONS["darts"]
WEIGHTED = [op for op in DARTS if "conv_" in op]
CONFIG = NetworkConfig(in_channels=2, classes=3, channels=8, cells=4)


def space(nodes=2):
    return SearchSpace(DARTS, nodes, "darts")


def everywhere(op, nodes=2):
    return Genotype(((Gene(0, op), Gene(1, op)),) * nodes, ((Gene(0, op), Gene(1, op)),) * nodes, "darts")


def images(count=6, size=(9, 7), seed=0):
    return torch.randn(count, 2, *size, generator=torch.Generator().manual_seed(seed))


def build(name, channels, stride):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return operation(name, channels, stride, approx_sign, False)


# ---------------------------------------------------------------- what an operation is made of


def test_the_parts_of_separable_and_dilated_convolutions():
    # 12 channels: three groups of four
    assert OPERATION["sep_conv_5x5"].parts(12, 2) == (
        *(Convolution(5, 2, 1, 3), ChannelShuffle(3), Convolution(1, 1)),
        *(Convolution(5, 1, 1, 3), ChannelShuffle(3), Convolution(1, 1)),
    )
    assert OPERATION["dil_conv_3x3"].parts(12, 2) == (Convolution(3, 2, 2, 3), ChannelShuffle(3), Convolution(1, 1))


@pytest.mark.parametrize(
    ("channels", "width"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (7, 1), (9, 3), (36, 4)]
)
def test_groups_are_as_wide_as_divides_the_channels_up_to_four(channels, width):
    assert group_width(channels) == width


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (5, 5)])
def test_one_group_and_groups_of_one_channel_are_not_shuffled(channels, groups):
    assert OPERATION["dil_conv_5x5"].parts(channels, 1) == (Convolution(5, 1, 2, groups), Convolution(1, 1))


@pytest.mark.parametrize("name", WEIGHTED)
def test_every_convolution_is_binary_and_in_a_block(name):
    made = build(name, 8, 2)
    convolutions = [layer for layer in made.modules() if isinstance(layer, nn.Conv2d)]
    blocks = [layer for layer in made.modules() if isinstance(layer, BinaryBlock)]
    assert all(isinstance(layer, BinaryConv2d) for layer in convolutions)
    assert [block.conv for block in blocks] == convolutions
    assert [conv.groups for conv in convolutions] == ([2, 1] * 2 if name.startswith("sep") else [2, 1])


@pytest.mark.parametrize(
    ("name", "reach"), [("sep_conv_3x3", 1 + 1), ("sep_conv_5x5", 2 + 2), ("dil_conv_3x3", 2), ("dil_conv_5x5", 4)]
)
def test_an_operation_sees_as_far_as_its_kernels_reach(name, reach):
    # Running statistics: a mini-batch's own would let every pixel see all others.
    layer = operation(name, 8, 1, approx_sign, True).eval()
    x = torch.randn(1, 8, 15, 15, generator=torch.Generator().manual_seed(1)).requires_grad_()
    layer(x)[0, :, 7, 7].square().sum().backward()
    rows = x.grad[0].abs().sum(dim=(0, 2)).nonzero().flatten().tolist()
    assert (min(rows), max(rows)) == (7 - reach, 7 + reach)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_shuffle_deals_out_the_groups_in_turn_and_keeps_the_memory_format(memory_format):
    x = torch.arange(6.0)[None, :, None, None].repeat(2, 1, 3, 2).contiguous(memory_format=memory_format)
    found = ShuffleChannels(2)(x)
    assert found[0, :, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]
    assert found.is_contiguous(memory_format=memory_format)


def test_none_gives_zeros_and_no_gradient():
    x = torch.full((2, 3, 5, 4), float("inf")).requires_grad_()
    for stride, shape in ((1, (2, 3, 5, 4)), (2, (2, 3, 3, 2))):
        found = build("none", 3, stride)(x)
        assert torch.equal(found, torch.zeros(shape))
        assert not found.requires_grad


# ---------------------------------------------------------------- genotypes


def test_a_genotype_names_its_space_and_refuses_the_operations_of_another():
    genotype = everywhere("sep_conv_3x3")
    text = genotype.to_json()
    assert '"space":"darts"' in text
    assert Genotype.from_json(text) == genotype
    with pytest.raises(ValueError, match=r"expected an operation out of skip_connect, .*, found 'sep_conv_3x3'"):
        Genotype.from_json(text.replace('"darts"', '"bnas"'))
    with pytest.raises(ValueError, match="expected space 'bnas', found 'darts'"):
        SearchSpace(nodes=2).validate(genotype)


def test_the_hand_designed_cell_is_of_separable_convolutions():
    assert {gene.op for gene in hand_designed(space()).genes} == {"sep_conv_3x3"}


# ---------------------------------------------------------------- costs


def by_hand(kernel, repeats, channels, group, first, rest):
    """k×k grouped then 1×1, each 5 values a channel beside its weights; `first` and `rest` are positions."""
    grouped, pointwise = channels * group * kernel**2, channels**2
    binary, floats = repeats * (grouped + pointwise), repeats * 2 * 5 * channels
    bops = grouped * first + (repeats - 1) * grouped * rest + repeats * pointwise * rest
    return Cost(binary, floats, binary / 8 + 4 * floats, 0, bops)


@pytest.mark.parametrize(("stride", "positions"), [(1, 7 * 5), (2, 4 * 3)])
@pytest.mark.parametrize(("channels", "group"), [(1, 1), (5, 1), (6, 3), (12, 4)])
@pytest.mark.parametrize("name", DARTS)
def test_cost_of_an_operation_equals_the_hand_count(name, channels, group, stride, positions):
    expected = Cost()
    if name in WEIGHTED:
        expected = by_hand(int(name[-1]), 2 if name.startswith("sep") else 1, channels, group, positions, positions)
    assert cost(operation(name, channels, stride, approx_sign, True), (channels, 7, 5)) == expected


def test_cost_of_one_separable_convolution_in_numbers():
    # 8 channels, two groups: 3×3 has 8 · 4 · 9 = 288 weights, 1×1 64; twice. Four blocks of 5 · 8 values.
    expected = Cost(704, 160, 88 + 640, 0, 704 * 20)
    assert cost(build("sep_conv_3x3", 8, 1), (8, 5, 4)) == expected


@pytest.mark.parametrize("nodes", [1, 3])
def test_the_table_equals_the_cost_of_the_built_network(nodes):
    table, rng = CostTable(CONFIG, space(nodes), (2, 13, 9)), random.Random(0)
    low, high = table.size_range()
    for genotype in (space(nodes).sample(rng), space(nodes).sample_mixed(rng), everywhere("none", nodes)):
        assert table(genotype) == cost(Network(CONFIG, genotype), (2, 13, 9))
        assert low <= table.size(genotype) <= high
    assert table.size(everywhere("sep_conv_5x5", nodes)) == high
    assert table.size(everywhere("none", nodes)) == table.size(everywhere("skip_connect", nodes)) == low


@pytest.mark.parametrize(
    ("stem_stride", "expected"),
    [
        # 3×3 convolutions and 2 values a channel for each norm, on a 33×17 image of 2 channels, 8 channels wide
        (1, (9 * 2 * 8 + 16, 9 * 2 * 8 * 33 * 17)),
        (2, (9 * 2 * 8 + 16, 9 * 2 * 8 * 17 * 9)),
        (4, (9 * 2 * 4 + 8 + 9 * 4 * 8 + 16, 9 * 2 * 4 * 17 * 9 + 9 * 4 * 8 * 9 * 5)),
        (8, (72 + 8 + 288 + 16 + 9 * 8 * 8 + 16, 72 * 17 * 9 + 288 * 9 * 5 + 576 * 5 * 3)),
    ],
)
def test_cost_of_a_stem_equals_the_hand_count(stem_stride, expected):
    network = Network(NetworkConfig(2, 3, 8, 3, stem_stride), everywhere("skip_connect"))
    found = cost(network.stem, (2, 33, 17))
    assert (found.float_params, found.flops, found.binary_params, found.bops) == (*expected, 0, 0)


def test_a_stem_of_one_convolution_keeps_its_names():
    for stride in (1, 2):
        network = Network(NetworkConfig(1, 2, 4, 3, stride), everywhere("skip_connect"))
        names = [name for name, _ in network.stem.named_parameters()]
        assert names == ["0.weight", "1.weight", "1.bias"]


# ---------------------------------------------------------------- supernet and network


def test_extracted_network_equals_supernet_path_also_in_its_gradients():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = Supernet(CONFIG, space())
    x, labels, rng = images(), torch.tensor([0, 1, 2, 0, 1, 2]), random.Random(0)
    shared = dict(supernet.named_parameters())
    for genotype in (*(everywhere(op) for op in DARTS), space().sample(rng)):
        network = supernet.extract(genotype).train()
        supernet.zero_grad(set_to_none=True)
        outputs = network(x), supernet(x, genotype)
        assert torch.equal(*outputs)
        for output in outputs:
            F.cross_entropy(output, labels).backward()
        for name, parameter in network.named_parameters():
            gradient = shared[name].grad
            assert (parameter.grad is None) == (gradient is None), name
            assert gradient is None or torch.equal(parameter.grad, gradient), name


def test_a_node_of_nothing_but_none_trains_and_tests_without_nan():
    network = Network(CONFIG, everywhere("none"))
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for step in range(3):
        optimiser.zero_grad()
        loss = F.cross_entropy(network(images(seed=step)), torch.tensor([0, 1, 2, 0, 1, 2]))
        loss.backward()
        optimiser.step()
    assert loss.isfinite()
    assert all(value.isfinite().all() for value in network.state_dict().values())
    logits = network.eval()(images())
    assert logits.isfinite().all()
    assert torch.equal(logits, logits[:1].expand_as(logits))  # whatever the image


def test_the_latency_of_an_edge_is_that_of_all_its_parts():
    found = measure(
        NetworkConfig(1, 3, 5, 3), SearchSpace(("none", "skip_connect", *WEIGHTED[:1]), 1, "darts"), 8, 8, 0.0
    )
    for cell in found.cells:
        seconds = {edge.op: edge.seconds for edge in cell.edges}
        assert set(seconds) == {"none", "skip_connect", "sep_conv_3x3"}
        assert seconds["sep_conv_3x3"] > seconds["none"] >= 0
