import itertools
import random
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from bnas.nn.binarize import BinaryConv2d, sign
from bnas.nn.cost import RANGE_SAMPLE, Cost, CostTable, cost
from bnas.nn.network import Network, NetworkConfig
from bnas.nn.operations import BinaryBlock, FoldedNorm, operation
from bnas.space.genotype import Gene, Genotype
from bnas.space.layout import layout
from bnas.space.operations import OPERATIONS, Convolution
from bnas.space.schedule import schedule
from bnas.space.search_space import SearchSpace

KERNELS = {"bin_conv_3x3": 3, "bin_conv_5x5": 5, "bin_dil_conv_3x3": 3, "bin_dil_conv_5x5": 5}


def hand(binary=0, floats=0, flops=0, bops=0):
    return Cost(binary, floats, binary / 8 + 4 * floats, flops, bops)


def total(parts):
    return sum(parts, Cost())


def test_an_image_too_large_for_memory_costs_what_its_pixels_do():
    layer, side = nn.Conv2d(1, 2, 3, padding=1, bias=False), 10**6
    small, huge = cost(layer, (1, 4, 4)), cost(layer, (1, side, side))
    assert huge == hand(floats=small.float_params, flops=small.flops * side**2 // 16)


# ---------------------------------------------------------------- layers and operations


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        # weights · positions; a grouped kernel sees in/groups channels
        (nn.Conv2d(3, 8, 3, padding=1), (3, 6, 5), hand(floats=216 + 8, flops=216 * 30)),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, bias=False), (4, 7, 5), hand(0, 144, 144 * 12)),
        (BinaryConv2d(4, 8, 3, padding=1), (4, 6, 5), hand(288, 8, bops=288 * 30)),
        (BinaryConv2d(4, 8, 3, bias=False), (4, 6, 5), hand(288, bops=288 * 4 * 3)),
        (BinaryConv2d(4, 4, (1, 3), groups=4, bias=False), (4, 6, 5), hand(12, bops=12 * 6 * 3)),
        (nn.BatchNorm2d(7), (7, 4, 4), hand(floats=14)),
        (nn.BatchNorm2d(7, affine=False), (7, 4, 4), hand(floats=14)),  # mean and deviation remain to be applied
        (nn.PReLU(5), (5, 2, 2), hand(floats=5)),
        (nn.PReLU(), (5, 2, 2), hand(floats=1)),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 10)), (3, 2, 2), hand(floats=130, flops=120)),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 10, bias=False)), (3, 2, 2), hand(0, 120, 120)),
        (nn.Sequential(nn.Flatten(), FoldedNorm(12, running_stats=True)), (3, 2, 2), hand()),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout()), (3, 2, 2), hand()),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_cost_of_a_layer_equals_the_hand_count(layer, shape, expected):
    assert cost(layer, shape) == expected


@pytest.mark.parametrize(("stride", "positions"), [(1, 7 * 5), (2, 4 * 3)])
@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("name", OPERATIONS["bnas"])
def test_cost_of_an_operation_equals_the_hand_count(name, channels, stride, positions):
    expected = hand()
    if name in KERNELS:
        weights = KERNELS[name] ** 2 * channels**2
        # 2 a channel for each of two norms, 1 for PReLU
        expected = hand(weights, 5 * channels, bops=weights * positions)
    for running_stats in (True, False):
        made = operation(name, channels, stride, sign, running_stats)
        assert cost(made, (channels, 7, 5)) == expected


def test_cost_of_a_channel_matching_block_equals_the_hand_count():
    block = BinaryBlock(6, 4, Convolution(1, 2), sign=sign)
    assert cost(block, (6, 7, 5)) == hand(24, 2 * 6 + 2 * 4 + 4, bops=24 * 12)


def test_size_is_an_eighth_of_a_byte_a_bit_and_four_bytes_a_value():
    found = cost(BinaryConv2d(3, 3, 1), (3, 2, 2))
    assert (found.binary_params, found.float_params, found.params) == (9, 3, 12)
    assert found.size_bytes == 9 / 8 + 12


def test_sixty_four_binary_operations_make_one():
    assert Cost(flops=10, bops=96).ops == 11.5


def test_costs_add_up_field_by_field():
    a, b = Cost(1, 2, 3.5, 4, 5), Cost(10, 20, 30.0, 40, 50)
    assert a + b == Cost(11, 22, 33.5, 44, 55)
    assert b - a == Cost(9, 18, 26.5, 36, 45)


def test_a_layer_used_twice_weighs_once_and_computes_twice():
    layer = nn.Conv2d(2, 2, 1, bias=False)
    assert cost(nn.Sequential(layer, layer), (2, 3, 3)) == hand(floats=4, flops=2 * 4 * 9)


# ---------------------------------------------------------------- whole networks


def test_cost_of_a_tiny_network_equals_the_count_by_hand():
    config = NetworkConfig(in_channels=1, classes=3, channels=4, cells=3)
    genotype = Genotype(
        normal=((Gene(0, "bin_conv_3x3"), Gene(1, "skip_connect")),),
        reduction=((Gene(0, "bin_conv_5x5"), Gene(1, "max_pool_3x3")),),
    )
    parts = [
        # 7×5 image: stem 1 → 4 channels, 3×3, and its norm
        hand(floats=9 * 4 + 2 * 4, flops=36 * 35),
        # cell 0 (normal, 4 channels): two 1×1 blocks 4 → 4, one 3×3 block
        *2 * [hand(16, 8 + 8 + 4, bops=16 * 35)],
        hand(144, 8 + 8 + 4, bops=144 * 35),
        # cell 1 (reduction, 8 channels; stem and cell 0 as inputs): two 1×1 blocks 4 → 8, one 5×5 block to 4×3
        *2 * [hand(32, 8 + 16 + 8, bops=32 * 35)],
        hand(1600, 16 + 16 + 8, bops=1600 * 12),
        # cell 2 (reduction, 16 channels): 1×1 blocks 4 → 16 (from cell 0, 7×5, stride 2) and 8 → 16, 5×5 to 2×2
        hand(64, 8 + 32 + 16, bops=64 * 12),
        hand(128, 16 + 32 + 16, bops=128 * 12),
        hand(6400, 32 + 32 + 16, bops=6400 * 4),
        # classifier 16 → 3
        hand(floats=16 * 3 + 3, flops=48),
    ]
    found = cost(Network(config, genotype), (1, 7, 5))
    memory = schedule(layout(config, genotype, 7, 5)).bytes
    assert found == replace(total(parts), ram_bytes=memory)
    assert (found.binary_params, found.float_params) == (8432, 459)
    assert (found.size_bytes, found.flops, found.bops) == (2890.0, 1308, 55_504)
    # 16 · 3 weights of the classifier in a byte each with 3 scales, the other 411 numbers in two bytes each.
    for shipped, size in (("float16", 8432 / 8 + 2 * 459), ("int8", 8432 / 8 + 2 * 411 + 48 + 2 * 3)):
        assert cost(Network(config, genotype), (1, 7, 5), shipped) == replace(found, size_bytes=size)


def test_only_a_whole_network_has_a_working_memory():
    config, genotype = NetworkConfig(1, 3, 4, 3), SearchSpace(nodes=1).sample(random.Random(0))
    network = Network(config, genotype)
    # The first cell's input, a state, and its node, which was the other state: 3 maps of 9·9·4 floats at least.
    assert cost(network, (1, 9, 9)).ram_bytes >= 3 * 4 * 9 * 9 * 4
    assert cost(network.cells[0].preprocess[0], (4, 9, 9)).ram_bytes == 0


def test_the_range_of_working_memory_is_always_the_same_and_holds_what_it_was_drawn_from():
    space = SearchSpace(nodes=2)
    tables = [CostTable(NetworkConfig(1, 3, 4, 3), space, (1, 9, 9)).ram for _ in range(2)]
    least, most = tables[0].range()
    assert (least, most) == tables[1].range()
    rng = random.Random(0)
    assert {tables[1](space.sample_mixed(rng)) for _ in range(RANGE_SAMPLE)} >= {least, most}
    assert least < most
    with pytest.raises(ValueError, match="expected 2 nodes, found 1"):
        tables[0](SearchSpace(nodes=1).sample(rng))


def bi_real_18():
    model = resnet18()
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            for name in ("conv1", "conv2"):
                conv = getattr(block, name)
                assert conv.kernel_size == (3, 3)
                binary = BinaryConv2d(conv.in_channels, conv.out_channels, 3, conv.stride, conv.padding, bias=False)
                setattr(block, name, binary)
    return model


def test_bi_real_18_has_11_689_512_parameters_and_4_19_megabytes():
    found = cost(bi_real_18(), (3, 224, 224))
    assert found.params == 11_689_512
    assert found.size_bytes == 4_189_344
    assert round(found.size_bytes / 1e6, 2) == 4.19
    # Four 3×3 convolutions at 56×56 with 64 channels; then, per stage, three of as many operations and one of half.
    one = 9 * 64 * 64 * 56 * 56
    assert found.bops == 4 * one + 3 * (3 * one + one // 2)
    stem, downsample, classifier = 49 * 3 * 64 * 112 * 112, 64 * 128 * 28 * 28, 512 * 1000
    assert found.flops == stem + 3 * downsample + classifier
    assert found.ops == found.flops + found.bops / 64


# ---------------------------------------------------------------- what is refused, what is left alone


def test_a_leading_one_is_accepted():
    layer = nn.Conv2d(3, 2, 3)
    assert cost(layer, (1, 3, 5, 6)) == cost(layer, (3, 5, 6))


@pytest.mark.parametrize("shape", [(), (3,), (5, 6), (2, 3, 5, 6), (1, 1, 3, 5, 6)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"cost: expected an input shape \[C, H, W\], found") as error:
        cost(nn.Conv2d(3, 2, 3), shape)
    assert str(list(shape)) in str(error.value)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.factor * x


@pytest.mark.parametrize(
    "layer",
    [nn.GroupNorm(1, 4), nn.Embedding(4, 4), nn.LayerNorm(4), nn.ConvTranspose2d(4, 4, 1), Scaled()],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_cannot_be_counted_is_refused_by_name(layer):
    kind = type(layer).__name__
    with pytest.raises(ValueError, match=f"cost: layer 1.0: cannot count a {kind}"):
        cost(nn.Sequential(nn.ReLU(), nn.Sequential(layer)), (4, 4, 4))
    with pytest.raises(ValueError, match=f"cost: layer .root.: cannot count a {kind}"):
        cost(layer, (4, 4, 4))


@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_left_untouched(training):
    config = NetworkConfig(1, 3, 4, 3)
    network = Network(config, SearchSpace(nodes=1).sample(random.Random(0)))
    network(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))).sum().backward()
    network.train(training)
    network.stem.train(not training)

    def state():
        return {
            "values": [(name, value.clone()) for name, value in network.state_dict().items()],
            "grads": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
            "flags": [layer.training for layer in network.modules()],
            "hooks": [len(layer._forward_hooks) for layer in network.modules()],
            "devices": {value.device.type for value in network.state_dict().values()},
            "tensors": [id(parameter) for parameter in network.parameters()],
        }

    before = state()
    cost(network, (1, 8, 8))
    after = state()
    for (name, old), (other, new) in zip(before.pop("values"), after.pop("values"), strict=True):
        assert name == other
        assert torch.equal(old, new), name
    for old, new in zip(before.pop("grads"), after.pop("grads"), strict=True):
        assert torch.equal(old, new)
    assert before == after
    assert after["devices"] == {"cpu"}


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("config", "nodes", "size"),
    [
        (NetworkConfig(1, 5, 4, 3), 1, (28, 28)),
        (NetworkConfig(3, 5, 3, 4, stem_stride=2), 3, (33, 17)),
        (NetworkConfig(2, 2, 1, 6, shipped="float16"), 2, (9, 14)),
        (NetworkConfig(1, 7, 3, 3, shipped="int8"), 2, (9, 8)),
        (NetworkConfig(1, 5, 2, 3), 2, (1, 1)),
    ],
    ids=str,
)
def test_table_equals_the_cost_of_the_built_network(config, nodes, size):
    space, shape = SearchSpace(nodes=nodes), (config.in_channels, *size)
    table = CostTable(config, space, shape)
    low, high = table.size_range()
    rng = random.Random(0)
    for genotype in (space.sample(rng), space.sample_mixed(rng)):
        found = table(genotype)
        assert found == cost(Network(config, genotype), shape, config.shipped)
        assert table.size(genotype) == found.size_bytes
        assert low <= found.size_bytes <= high


def all_genotypes(space):
    cells = [
        tuple(zip(pairs[::2], pairs[1::2], strict=True))
        for pairs in itertools.product(
            *(
                [Gene(source, op) for source in sources for op in space.ops]
                for i in range(space.nodes)
                for sources in (range(i + 2), range(i + 2))
            )
        )
        if all(a.source < b.source for a, b in zip(pairs[::2], pairs[1::2], strict=True))
    ]
    return [Genotype(normal, reduction) for normal in cells for reduction in cells]


@pytest.mark.parametrize(
    ("ops", "nodes"),
    [
        (("skip_connect", "bin_conv_3x3", "bin_dil_conv_5x5"), 1),
        (("bin_conv_5x5", "bin_dil_conv_3x3", "bin_conv_3x3"), 1),
        (("max_pool_3x3", "bin_conv_3x3"), 2),
    ],
)
def test_size_range_equals_brute_force_over_a_tiny_space(ops, nodes):
    space = SearchSpace(ops, nodes)
    config = NetworkConfig(1, 3, 3, 3)
    table = CostTable(config, space, (1, 9, 9))
    genotypes = all_genotypes(space)
    assert len(set(genotypes)) == space.size
    by_size = {table.size(genotype): genotype for genotype in genotypes}
    low, high = table.size_range()
    assert (low, high) == (min(by_size), max(by_size))
    for size in (low, high):
        assert cost(Network(config, by_size[size]), (1, 9, 9)).size_bytes == size


def test_table_refuses_a_genotype_of_another_space():
    table = CostTable(NetworkConfig(1, 3, 2, 3), SearchSpace(("skip_connect", "bin_conv_3x3"), 1), (1, 8, 8))
    with pytest.raises(ValueError, match="expected 1 nodes, found 2"):
        table(SearchSpace(nodes=2).sample(random.Random(0)))


def test_a_linear_layer_computes_at_every_position():
    assert cost(nn.Linear(6, 4, bias=False), (3, 5, 6)).flops == 24 * 15
