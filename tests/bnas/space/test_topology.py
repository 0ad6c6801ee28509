import dataclasses
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.nn.network import Network, NetworkConfig, Supernet
from bnas.space import Gene, Genotype, SearchSpace
from bnas.space.topology import Shape, topology

SPACE = SearchSpace(("skip_connect", "max_pool_3x3", "bin_conv_3x3"), nodes=2)


def names_of_modules(config, architecture):
    """The full names of all modules that the topology tells of."""
    cells = topology(config, architecture).cells
    inputs = [cell.input_name(which) for cell in cells for which in range(2)]
    return inputs + [cell.module_name(edge) for cell in cells for node in cell.nodes for edge in node]


@settings(deadline=None, max_examples=20)
@given(cells=st.integers(3, 8), stem=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 99), side=st.integers(9, 40))
def test_widths_strides_and_shapes_are_those_of_the_maps_in_a_network(cells, stem, seed, side):
    config, genotype = NetworkConfig(2, 3, 4, cells, stem), SPACE.sample(random.Random(seed))
    network, height, width = Network(config, genotype).eval(), side, side + 3
    seen = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0].shape, out.shape)}))
    with torch.no_grad():
        network(torch.zeros(1, 2, height, width))
    plan = topology(config, genotype)
    for cell in plan.cells:
        for which, read in enumerate(cell.inputs):
            before, after = seen[cell.input_name(which)]
            assert (read.channels, cell.channels) == (before[1], after[1])
            assert after[2:] == tuple(-(-side // read.stride) for side in before[2:])
        for edge in (edge for node in cell.nodes for edge in node):
            before, after = seen[cell.module_name(edge)]
            shape = cell.source_shape(edge.stride, height, width)
            assert shape == before[1:]
            assert shape.halved(cell.channels, edge.stride) == after[1:]
            assert edge.stride in cell.strides
        assert cell.out_channels == seen[cell.name][1][1]
    assert plan.features == seen["classifier"][0][1]


def test_only_edges_of_reduction_cells_that_read_an_input_have_stride_2():
    for cell in topology(NetworkConfig(1, 2, 4, 6), SPACE).cells:
        strides = {(edge.source, edge.stride) for node in cell.nodes for edge in node}
        assert strides == ({(0, 2), (1, 2), (2, 1)} if cell.reduction else {(0, 1), (1, 1), (2, 1)})
        assert cell.reduction == (cell.index in (2, 4))


@pytest.mark.parametrize("kind", [Network, Supernet])
def test_modules_have_the_names_that_the_topology_gives_them(kind):
    config, architecture = NetworkConfig(1, 2, 4, 4), SPACE if kind is Supernet else SPACE.sample(random.Random(0))
    network = kind(config, architecture)
    edges = [name for name in dict(network.named_modules()) if name.split(".")[2:3] in (["edges"], ["preprocess"])]
    assert {name for name in edges if name.count(".") == 3} == set(names_of_modules(config, architecture))


def test_names_of_modules_are_those_in_files_of_weights():
    node = (Gene(0, "bin_conv_3x3"), Gene(1, "skip_connect"))
    genotype = Genotype((node,), (node,))
    first, *_, last = names_of_modules(NetworkConfig(1, 2, 4, 3), genotype)
    assert (first, last) == ("cells.0.preprocess.0", "cells.2.edges.0_1_skip_connect")


def test_a_supernet_holds_the_edges_of_all_its_genotypes():
    config, rng = NetworkConfig(1, 2, 4, 5), random.Random(1)
    everything = set(names_of_modules(config, SPACE))
    paths = [set(names_of_modules(config, SPACE.sample(rng))) for _ in range(200)]
    assert set.union(*paths) == everything
    supernet, path = topology(config, SPACE), topology(config, SPACE.sample(rng))
    for whole, cell in zip(supernet.cells, path.cells, strict=True):
        assert dataclasses.replace(whole, nodes=cell.nodes) == cell


def test_sides_of_shapes_are_rounded_up():
    assert Shape(3, 7, 8).halved(5, 2) == Shape(5, 4, 4)
    assert Shape(3, 7, 8).halved(3, 1) == Shape(3, 7, 8)
