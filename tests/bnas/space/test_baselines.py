import functools
import math
import random

import pytest

from bnas.nn.cost import CostTable
from bnas.nn.network import NetworkConfig
from bnas.space import baselines
from bnas.space.baselines import hand_designed, size_matched
from bnas.space.published import PUBLISHED
from bnas.space.search_space import SearchSpace, sample_stratified
from tests.bnas import tiny

SPACE = SearchSpace()


@functools.cache
def real_costs():
    """Sizes as the pipeline measures them, for small pictures of one channel."""
    config = NetworkConfig(in_channels=1, classes=10, channels=8, cells=3, stem_stride=2)
    return CostTable(config, SPACE, (1, 28, 28))


def size(genotype):
    return real_costs().size(genotype)


def weighted(genotype):
    """A size for small spaces, of which many genotypes share one."""
    return 1 + 16 * (1 - genotype.parameter_free_share)


def targets(count, seed=0):
    return sample_stratified(SPACE, size, random.Random(seed), count)


@functools.cache
def six_matched():
    front = targets(6)
    return front, size_matched(front, SPACE, size, random.Random(0))


# ---- The cell designed by hand ----


@pytest.mark.parametrize("nodes", [1, 3, 4])
def test_hand_designed_cell_is_of_its_space_and_all_binary_3x3_convolutions(nodes):
    space = SearchSpace(nodes=nodes)
    genotype = hand_designed(space)
    space.validate(genotype)
    assert {gene.op for gene in genotype.genes} == {"bin_conv_3x3"}
    assert len(genotype.genes) == 4 * nodes


def test_hand_designed_cell_is_refused_where_the_space_lacks_its_operation():
    with pytest.raises(ValueError, match=r"space\.operations: expected bin_conv_3x3 .* hand-designed"):
        hand_designed(SearchSpace(("skip_connect", "bin_conv_5x5")))


# ---- Random architectures of equal size ----


def test_every_target_gets_one_random_architecture_of_its_own():
    front, found = six_matched()
    assert len(found) == len(front)
    assert len(set(found)) == len(found)
    assert set(found).isdisjoint(front)
    for genotype in found:
        SPACE.validate(genotype)


def test_matches_are_close_in_size_over_the_whole_range():
    front = targets(8, seed=1)
    low, high = real_costs().size_range()
    positions = [math.log(size(genotype) / low) / math.log(high / low) for genotype in front]
    assert max(positions) - min(positions) > 0.6
    found = size_matched(front, SPACE, size, random.Random(1))
    for target, match in zip(front, found, strict=True):
        assert abs(math.log(size(match) / size(target))) < 0.01


def test_each_target_gets_its_own_neighbour_in_size_and_not_another_targets():
    front, found = six_matched()
    order = sorted(range(6), key=lambda i: size(front[i]))
    assert order == sorted(range(6), key=lambda i: size(found[i]))


def test_targets_of_equal_size_get_different_matches():
    everyone = tiny.genotypes(120)
    front = [genotype for genotype in everyone if weighted(genotype) == 13][:5]
    assert len(front) == 5
    found = size_matched(front, tiny.SPACE, weighted, random.Random(0))
    assert len(set(found)) == 5
    assert {weighted(genotype) for genotype in found} == {13}


def test_a_match_does_not_depend_on_the_order_of_the_targets():
    front = targets(5)
    matches = [
        dict(zip(order, size_matched(order, SPACE, size, random.Random(3)), strict=True))
        for order in (front, front[::-1])
    ]
    assert matches[0] == matches[1]


def test_matches_are_determined_by_the_generator():
    front = targets(3)
    state = random.getstate()
    found = [size_matched(front, SPACE, size, random.Random(seed)) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert random.getstate() == state


def test_no_targets_have_no_matches():
    assert size_matched([], SPACE, size, random.Random(0)) == []


def test_a_space_without_enough_others_is_refused(monkeypatch):
    monkeypatch.setattr(baselines, "POOL_PER_MATCH", 10)
    space = SearchSpace(("skip_connect",), nodes=2)
    everyone = tiny.genotypes(9, space=space)
    assert set(size_matched(everyone[:4], space, weighted, random.Random(0))) < set(everyone[4:])
    for count in (5, 9):
        message = f"expected {count} architectures beside the front, found {9 - count} in the space"
        with pytest.raises(ValueError, match=message):
            size_matched(everyone[:count], space, weighted, random.Random(0))


def test_published_architectures_lie_in_the_space_of_four_nodes_and_have_the_convolutions_counted_by_hand():
    convolutions = {"ebnas": (4, 7), "bnas": (8, 3)}
    for name, genotype in PUBLISHED.items():
        SearchSpace(nodes=4).validate(genotype)
        cells = (genotype.normal, genotype.reduction)
        found = tuple(sum("conv" in gene.op for node in cell for gene in node) for cell in cells)
        assert found == convolutions[name]
