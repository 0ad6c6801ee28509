import itertools
import random

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bnas.nn.binarize import sign
from bnas.nn.network import Cell, Network, NetworkConfig, PathDropout, Supernet
from bnas.space.genotype import Gene, Genotype
from bnas.space.operations import OPERATIONS
from bnas.space.search_space import SearchSpace
from bnas.space.topology import CellInput, CellTopology, Edge

SPACE = SearchSpace(nodes=2)
CONFIG = NetworkConfig(in_channels=1, classes=3, channels=4, cells=3)


# Shrinking builds hundreds of networks, and the seed alone says as much.
without_shrinking = settings(max_examples=10, deadline=None, phases=[Phase.reuse, Phase.generate])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*size, n=4, channels=1, seed=0):
    return torch.randn(n, channels, *size, generator=rng(seed))


def genotypes(space, count, seed=0):
    source = random.Random(seed)
    return [space.sample(source) for _ in range(count)]


def randomised(module, seed=0):
    """The module with every weight drawn anew: fresh BatchNorms are all alike and would hide a mix-up."""
    generator = rng(seed)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def supernet_of(config=CONFIG, space=SPACE, seed=0):
    return randomised(Supernet(config, space), seed)


def train(model, *arguments, steps, x, labels):
    """Plain gradient descent on the parameters that get a gradient."""
    for step in range(steps):
        model.zero_grad(set_to_none=True)
        extra = [values[step % len(values)] for values in arguments]
        F.cross_entropy(model(x, *extra), labels).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.data -= 0.1 * parameter.grad


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- supernet and extracted network


@without_shrinking
@given(
    seed=st.integers(0, 2**31),
    nodes=st.integers(1, 3),
    cells=st.integers(3, 6),
    channels=st.integers(1, 5),
    stem_stride=st.sampled_from([1, 2, 4, 8]),
    space_name=st.sampled_from(sorted(OPERATIONS)),
    sign_name=st.sampled_from(["approx", "ste"]),
    size=st.tuples(st.integers(5, 15), st.integers(5, 15)),
    channels_last=st.booleans(),
)
def test_extracted_network_equals_supernet_path(
    seed, nodes, cells, channels, stem_stride, space_name, sign_name, size, channels_last
):
    config = NetworkConfig(2, 3, channels, cells, stem_stride, sign_name)
    space = SearchSpace(OPERATIONS[space_name], nodes, space_name)
    supernet = supernet_of(config, space, seed)
    x = images(*size, channels=2, seed=seed)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    for genotype in genotypes(space, 2, seed):
        expected = supernet(x, genotype)
        assert expected.shape == (4, 3)
        assert expected.isfinite().all()
        assert torch.equal(supernet.extract(genotype).train()(x), expected)


@pytest.mark.parametrize("sign_name", ["approx", "ste"])
def test_extracted_network_equals_supernet_path_also_after_training_and_in_its_gradients(sign_name):
    config = NetworkConfig(1, 3, 4, 3, sign=sign_name)
    supernet, population = supernet_of(config), genotypes(SPACE, 4)
    x, labels = images(9, 7, n=6), torch.tensor([0, 1, 2, 0, 1, 2])
    before = snapshot(supernet)
    train(supernet, population, steps=6, x=x, labels=labels)
    assert not same(snapshot(supernet), before)
    for genotype in (*population, *genotypes(SPACE, 2, seed=1)):
        network = supernet.extract(genotype).train()
        logits, expected = network(x), supernet(x, genotype)
        assert torch.equal(logits, expected)
        supernet.zero_grad(set_to_none=True)
        for output in (logits, expected):
            F.cross_entropy(output, labels).backward()
        shared = dict(supernet.named_parameters())
        for name, parameter in network.named_parameters():
            assert parameter.requires_grad
            assert torch.equal(parameter.grad, shared[name].grad), name


def test_different_paths_compute_different_things():
    supernet, x = supernet_of(), images(9, 9)
    outputs = [supernet(x, genotype) for genotype in set(genotypes(SPACE, 8))]
    assert not any(torch.allclose(a, b) for a, b in itertools.combinations(outputs, 2))


def test_extraction_is_a_copy():
    supernet, genotype = supernet_of(), genotypes(SPACE, 1)[0]
    x, labels = images(8, 8), torch.tensor([0, 1, 2, 0])
    network = supernet.extract(genotype).train()
    before, own = snapshot(supernet), snapshot(network)
    train(network, steps=3, x=x, labels=labels)
    assert same(snapshot(supernet), before)
    assert not same(snapshot(network), own)

    network = supernet.extract(genotype)
    own = snapshot(network)
    train(supernet, [genotype], steps=3, x=x, labels=labels)
    assert same(snapshot(network), own)
    assert not same(snapshot(supernet), before)


def test_extracted_network_starts_from_fresh_running_statistics():
    supernet, genotype = supernet_of(), genotypes(SPACE, 1)[0]
    network = supernet.extract(genotype)
    fresh = Network(CONFIG, genotype)
    assert same(dict(network.named_buffers()), dict(fresh.named_buffers()))
    assert any(name.endswith("running_mean") for name, _ in network.named_buffers())
    assert network.state_dict().keys() == fresh.state_dict().keys()


def test_gradients_reach_the_path_and_nothing_else():
    supernet = supernet_of()
    for genotype in genotypes(SPACE, 8):
        supernet.zero_grad(set_to_none=True)
        supernet(images(8, 8), genotype).sum().backward()
        reached = {name for name, parameter in supernet.named_parameters() if parameter.grad is not None}
        assert reached == {name for name, _ in Network(CONFIG, genotype).named_parameters()}
        assert len(reached) < len(list(supernet.parameters()))


CONV, SKIP, POOL = "bin_conv_3x3", "skip_connect", "avg_pool_3x3"


def one_node(a=CONV, b=SKIP, name="bnas"):
    node = (Gene(0, a), Gene(1, b))
    return Genotype((node,), (node,), name)


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        (one_node(SKIP, SKIP, "darts"), "expected space 'bnas', found 'darts'"),
        (genotypes(SPACE, 1)[0], "expected 1 nodes, found 2"),
        (one_node(POOL), f"expected operations out of {CONV}, {SKIP}, found '{POOL}'"),
    ],
)
def test_a_genotype_of_another_space_is_not_extracted(genotype, message):
    supernet = supernet_of(space=SearchSpace((CONV, SKIP), nodes=1))
    supernet.extract(one_node())
    with pytest.raises(ValueError, match=message):
        supernet.extract(genotype)


@pytest.mark.parametrize("training", [True, False])
def test_supernet_without_dropout_is_deterministic(training):
    supernet, genotype, x = supernet_of().train(training), genotypes(SPACE, 1)[0], images(9, 9)
    state = torch.get_rng_state()
    first = supernet(x, genotype)
    assert torch.equal(supernet(x, genotype), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_supernet_has_no_running_statistics_and_uses_the_batchs_own_in_evaluation_too():
    supernet, genotype, x = supernet_of(), genotypes(SPACE, 1)[0], images(9, 9)
    assert not list(supernet.named_buffers())
    trained = supernet.train()(x, genotype)
    assert torch.equal(supernet.eval()(x, genotype), trained)


def test_network_in_evaluation_does_not_depend_on_the_rest_of_the_batch():
    for genotype in genotypes(SPACE, 4):
        network = randomised(Network(CONFIG, genotype)).double()
        x = images(9, 7, n=8).double()
        for _ in range(3):
            network(x)
        network.eval()
        together = network(x)
        alone = torch.cat([network(x[i : i + 1]) for i in range(8)])
        torch.testing.assert_close(alone, together)
        assert not torch.allclose(network.train()(x), together)


# ---------------------------------------------------------------- the stack of cells


@pytest.mark.parametrize(
    ("cells", "reductions"),
    [
        (3, (1, 2)),
        (4, (1, 2)),
        (5, (1, 3)),
        (6, (2, 4)),
        (7, (2, 4)),
        (8, (2, 5)),
        (9, (3, 6)),
        (20, (6, 13)),
    ],
)
def test_reductions_lie_at_one_and_two_thirds_of_the_depth(cells, reductions):
    assert NetworkConfig(1, 2, 4, cells).reductions == reductions


@pytest.mark.parametrize(
    ("stem_stride", "resolutions"), [(1, (11, 6, 3)), (2, (6, 3, 2)), (4, (3, 2, 1)), (8, (2, 1, 1))]
)
@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize(("cells", "first", "second"), [(3, 1, 2), (6, 2, 4)])
def test_channels_double_and_resolution_halves_at_the_reductions_only(
    cells, first, second, nodes, stem_stride, resolutions
):
    config = NetworkConfig(1, 2, 4, cells, stem_stride)
    network = Network(config, genotypes(SearchSpace(nodes=nodes), 1)[0])
    shapes = []
    for cell in network.cells:
        cell.register_forward_hook(lambda layer, args, output: shapes.append(tuple(output.shape[1:])))
    network(images(11, 11))
    done = [(index >= first) + (index >= second) for index in range(cells)]
    assert shapes == [(nodes * 4 * 2**n, resolutions[n], resolutions[n]) for n in done]


def test_reduction_cells_alone_follow_the_reduction_genotype():
    normal, reduction = ((Gene(0, CONV), Gene(1, SKIP)),), ((Gene(0, POOL), Gene(1, POOL)),)
    network = Network(NetworkConfig(1, 2, 4, 6), Genotype(normal, reduction))
    kinds = ["reduction" if "0_0_avg_pool_3x3" in cell.edges else "normal" for cell in network.cells]
    assert kinds == ["normal", "normal", "reduction", "normal", "reduction", "normal"]


def test_only_edges_from_a_cells_inputs_are_strided_in_a_reduction():
    network = Network(CONFIG, genotypes(SPACE, 1)[0])
    for cell, halves in zip(network.cells, (False, True), strict=False):
        for name, edge in cell.edges.items():
            strided = halves and int(name.split("_")[1]) < 2
            assert edge(images(9, 9, channels=cell.channels)).shape[2] == (5 if strided else 9), name


def test_a_cell_concatenates_nodes_that_sum_two_operations_each():
    supernet = supernet_of()
    cell = supernet.cells[0]
    nodes = ((Gene(0, CONV), Gene(1, POOL)), (Gene(0, SKIP), Gene(2, CONV)))
    s0, s1 = images(6, 5, channels=4), images(6, 5, channels=4, seed=1)
    a, b = cell.preprocess[0](s0), cell.preprocess[1](s1)
    first = cell.edges["0_0_bin_conv_3x3"](a) + cell.edges["0_1_avg_pool_3x3"](b)
    second = cell.edges["1_0_skip_connect"](a) + cell.edges["1_2_bin_conv_3x3"](first)
    assert torch.equal(cell(s0, s1, nodes, None), torch.cat([first, second], dim=1))


def test_the_classifier_sees_the_normalised_mean_over_the_image():
    network = randomised(Network(CONFIG, one_node()))
    outputs = []
    network.cells[-1].register_forward_hook(lambda layer, args, output: outputs.append(output))
    logits = network(images(9, 9))
    features = outputs[0].mean(dim=(2, 3))
    features = (features - features.mean(0)) / (features.var(0, unbiased=False) + 1e-5).sqrt()
    expected = features @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("in_channels", 0, "at least 1, found 0"),
        ("classes", 1, "at least 2, found 1"),
        ("channels", 0, "at least 1, found 0"),
        ("cells", 2, "at least 3, found 2"),
        ("stem_stride", 3, "1, 2, 4 or 8, found 3"),
        ("stem_stride", 0, "1, 2, 4 or 8, found 0"),
        ("sign", "relu", "one of approx, ste, found 'relu'"),
    ],
)
def test_a_config_out_of_range_is_refused_by_the_name_of_its_field(field, value, expected):
    valid = {"in_channels": 1, "classes": 2, "channels": 1, "cells": 3}
    NetworkConfig(**valid)
    with pytest.raises(ValueError, match=f"^NetworkConfig.{field}: expected {expected}$"):
        NetworkConfig(**{**valid, field: value})


@pytest.mark.parametrize(("name", "slope"), [("approx", [0, 1, 2, 0]), ("ste", [1, 1, 1, 0])])
def test_the_named_sign_function_is_used_in_every_block(name, slope):
    network = Network(NetworkConfig(1, 2, 4, 3, sign=name), one_node())
    blocks = [layer for layer in network.modules() if hasattr(layer, "sign")]
    assert len(blocks) == 3 * (2 + 1)
    for block in blocks:
        x = torch.tensor([-1.0, 0.5, 0.0, 1.5], requires_grad=True)
        y = block.sign(x)
        y.sum().backward()
        assert torch.equal(y.detach(), sign(x.detach()))
        assert x.grad.tolist() == slope


# ---------------------------------------------------------------- path dropout

P = 0.3
N = 20_000
conv_gene, pool_gene, skip_gene = Gene(0, CONV), Gene(1, POOL), Gene(1, SKIP)


def test_sample_mode_keeps_the_expected_value():
    scaled = PathDropout("sample", P, rng()).scale(conv_gene, torch.ones(N, 1, 1, 1))
    deviation = (P / (1 - P) / N) ** 0.5
    assert abs(scaled.mean().item() - 1) < 4 * deviation


def test_sample_mode_scales_survivors_and_drops_whole_samples():
    y = images(3, 4, n=N // 10, channels=2)
    scaled = PathDropout("sample", P, rng()).scale(conv_gene, y)
    dropped = (scaled == 0).flatten(1).all(1)
    torch.testing.assert_close(scaled[~dropped], y[~dropped] / (1 - P))
    assert abs(dropped.float().mean().item() - P) < 4 * (P * (1 - P) / len(y)) ** 0.5


def test_sample_mode_draws_for_each_edge_anew():
    dropout = PathDropout("sample", 0.5, rng())
    a, b = (dropout.scale(gene, torch.ones(N, 1, 1, 1)) > 0 for gene in (conv_gene, pool_gene))
    assert abs((a & b).float().mean().item() - 0.25) < 4 * (0.25 * 0.75 / N) ** 0.5


def test_sample_mode_keeps_all_edges_in_the_mini_batch():
    dropout = PathDropout("sample", 0.99, rng())
    for node in ((conv_gene, pool_gene), (conv_gene, skip_gene)):
        assert all(tuple(dropout.live(node)) == node for _ in range(50))


@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_skips_are_exempt_from_dropout(mode):
    dropout, y = PathDropout(mode, 0.9, rng()), images(2, 2, n=50)
    for _ in range(50):
        assert skip_gene in dropout.live((conv_gene, skip_gene))
        assert torch.equal(dropout.scale(skip_gene, y), y)


def live_sets(node, probability, draws=N):
    dropout = PathDropout("batch", probability, rng())
    return [tuple(dropout.live(node)) for _ in range(draws)]


@pytest.mark.parametrize("probability", [0.05, P, 0.9, 0.999])
def test_batch_mode_never_leaves_a_node_without_a_live_input(probability):
    for node in ((conv_gene, pool_gene), (conv_gene, skip_gene), (skip_gene, Gene(2, SKIP))):
        found = live_sets(node, probability, draws=2000)
        assert all(live and set(live) <= set(node) for live in found)


def test_batch_mode_drops_an_edge_beside_a_skip_with_the_probability():
    found = live_sets((conv_gene, skip_gene), P)
    assert abs(sum(conv_gene in live for live in found) / N - (1 - P)) < 4 * (P * (1 - P) / N) ** 0.5


def test_batch_mode_drops_two_edges_independently_and_then_revives_either_one():
    found = live_sets((conv_gene, pool_gene), P)
    both = (1 - P) ** 2
    for live, share in {
        (conv_gene, pool_gene): both,
        (conv_gene,): (1 - both) / 2,
        (pool_gene,): (1 - both) / 2,
    }.items():
        assert abs(found.count(live) / N - share) < 4 * (share * (1 - share) / N) ** 0.5


def test_batch_mode_does_not_scale():
    dropout, y = PathDropout("batch", 0.9, rng()), images(2, 2, n=50)
    assert all(torch.equal(dropout.scale(conv_gene, y), y) for _ in range(20))


def cell_and_terms():
    """A cell of one node, its inputs, and what the node's two edges compute alone."""
    node = (conv_gene, pool_gene)
    edges = tuple(Edge(0, source, op, stride=1) for source, op in node)
    plan = CellTopology(0, reduction=False, channels=4, scale=1, inputs=(CellInput(4, 1),) * 2, nodes=(edges,))
    cell = Cell(plan, sign, running_stats=False)
    randomised(cell)
    s0, s1 = images(5, 5, n=64, channels=4), images(5, 5, n=64, channels=4, seed=1)
    terms = (
        cell.edges[f"0_0_{CONV}"](cell.preprocess[0](s0)),
        cell.edges[f"0_1_{POOL}"](cell.preprocess[1](s1)),
    )
    return cell, s0, s1, (node,), terms


def test_in_sample_mode_a_node_sums_the_surviving_edges_of_each_sample():
    cell, s0, s1, nodes, (a, b) = cell_and_terms()
    y = cell(s0, s1, nodes, PathDropout("sample", 0.5, rng()))
    outcomes = [
        torch.isclose(y, 2 * (keep_a * a + keep_b * b), atol=1e-5).flatten(1).all(1)
        for keep_a, keep_b in itertools.product((0, 1), repeat=2)
    ]
    assert torch.equal(torch.stack(outcomes).sum(0), torch.ones(64, dtype=torch.int64))
    assert all(outcome.any() for outcome in outcomes)


def test_in_batch_mode_a_node_sums_its_live_edges_for_all_samples_alike():
    cell, s0, s1, nodes, (a, b) = cell_and_terms()
    dropout = PathDropout("batch", 0.5, rng())
    expected = {"both": a + b, "first": a, "second": b}
    seen = set()
    for _ in range(30):
        y = cell(s0, s1, nodes, dropout)
        (name,) = [name for name, value in expected.items() if torch.equal(y, value)]
        seen.add(name)
    assert seen == set(expected)


def test_an_edge_dropped_for_the_mini_batch_gets_no_gradient():
    cell, s0, s1, nodes, _ = cell_and_terms()
    dropout = PathDropout("batch", 0.5, rng())
    reached = set()
    for _ in range(20):
        cell.zero_grad(set_to_none=True)
        y = cell(s0, s1, nodes, dropout)
        y.sum().backward()
        grads = {parameter.grad is not None for parameter in cell.edges.parameters()}
        assert len(grads) == 1
        reached |= grads
    assert reached == {True, False}


@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_dropout_with_probability_zero_equals_none(mode):
    supernet, x = supernet_of(), images(9, 9)
    for genotype in genotypes(SPACE, 4):
        expected = supernet(x, genotype)
        assert torch.equal(supernet(x, genotype, PathDropout(mode, 0.0, rng())), expected)
        network = supernet.extract(genotype)
        assert torch.equal(network(x, PathDropout(mode, 0.0, rng())), expected)


@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_dropout_follows_its_generator_and_nothing_else(mode):
    supernet = supernet_of(space=SearchSpace((CONV, POOL), nodes=1))
    x, genotype = images(9, 9), one_node(CONV, POOL)
    runs = []
    for seed in (0, 0, 1, 2, 3):
        dropout = PathDropout(mode, 0.5, rng(seed))
        torch.manual_seed(len(runs))
        runs.append(supernet(x, genotype, dropout))
    assert torch.equal(runs[0], runs[1])
    assert not all(torch.equal(run, runs[0]) for run in runs)
    state = torch.get_rng_state()
    supernet(x, genotype, PathDropout(mode, 0.5, rng()))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("mode", "probability", "message"),
    [
        ("edge", 0.1, "PathDropout.mode: expected sample or batch, found 'edge'"),
        ("sample", 1.0, "PathDropout.probability: expected 0 <= p < 1, found 1.0"),
        ("batch", -0.1, "PathDropout.probability: expected 0 <= p < 1, found -0.1"),
        ("sample", float("nan"), "PathDropout.probability: expected 0 <= p < 1, found nan"),
    ],
)
def test_dropout_out_of_range_is_refused_by_the_name_of_its_field(mode, probability, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        PathDropout(mode, probability, rng())


def test_stem_and_classifier_are_full_precision_and_all_between_is_binary():
    network = Network(CONFIG, genotypes(SPACE, 1)[0])
    plain = {name for name, layer in network.named_modules() if type(layer) in (nn.Conv2d, nn.Linear)}
    assert plain == {"stem.0", "classifier"}
