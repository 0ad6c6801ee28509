import functools
import itertools
import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.search.pareto import size_coverage
from bnas.space.genotype import Gene, Genotype
from bnas.space.operations import OPERATIONS, PARAMETER_FREE
from bnas.space.search_space import SearchSpace, sample_stratified, sample_uniform

SPACE = SearchSpace()
seeds = st.integers(0, 2**32)
quick = settings(max_examples=50, deadline=None)


def weighted_ops(genotype):
    """A simple size: 1 + number of operations with weights."""
    return 1 + sum(gene.op not in PARAMETER_FREE for gene in genotype.genes)


def sampled(seed, space=SPACE):
    return space.sample(random.Random(seed))


@quick
@given(seeds)
def test_json_gives_back_the_same_genotype(seed):
    genotype = sampled(seed)
    copy = Genotype.from_json(genotype.to_json())
    assert copy == genotype
    assert hash(copy) == hash(genotype)
    assert copy.key == genotype.key
    assert json.loads(genotype.to_json()) == genotype.to_dict()


@quick
@given(seeds)
def test_key_and_value_do_not_depend_on_the_order_of_a_nodes_genes(seed):
    genotype = sampled(seed)
    turned = Genotype(tuple(node[::-1] for node in genotype.normal), tuple(node[::-1] for node in genotype.reduction))
    assert turned == genotype
    assert turned.key == genotype.key


def test_different_genotypes_have_different_keys():
    genotypes = {sampled(seed) for seed in range(500)}
    assert len({genotype.key for genotype in genotypes}) == len(genotypes) == 500


def test_cells_are_told_apart_by_the_key():
    genotype = sampled(1)
    assert Genotype(genotype.reduction, genotype.normal).key != genotype.key


NODE = [["skip_connect", 0], ["skip_connect", 1]]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ([], "at least one node"),
        ([[["a", 0]]], "two genes in normal node 0, found 1"),
        ([[["a", 0], ["b", 1], ["c", 1]]], "two genes in normal node 0, found 3"),
        ([[["a", 0], ["b", 0]]], "two distinct sources in normal node 0, found 0 twice"),
        ([[["a", 0], ["b", 2]]], "source from 0 to 1 in normal node 0, found 2"),
        ([NODE, [["a", 0], ["b", 3]]], "source from 0 to 2 in normal node 1, found 3"),
        ([[["a", -1], ["b", 1]]], "found -1"),
        ([[["a", False], ["b", 1]]], "found False"),
        ([[["a", 0.0], ["b", 1]]], "found 0.0"),
        ([[["a", "0"], ["b", 1]]], "expected"),
        ([[["a", None], ["b", 1]]], "expected"),
        ([[[7, 0], ["b", 1]]], "operation name in normal node 0, found 7"),
        ([[["a", 0, 0], ["b", 1]]], r"pairs"),
        (5, r"Genotype.normal: expected nodes of two \[operation, source\] pairs, found 5"),
        ([NODE, NODE], "as many nodes in both cells"),
    ],
)
def test_a_malformed_cell_is_refused(cell, expected):
    text = json.dumps({"space": "bnas", "normal": cell, "reduction": [NODE]})
    with pytest.raises(ValueError, match=expected):
        Genotype.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({"normal": [NODE], "reduction": [NODE]}),
        json.dumps({"space": "bnas", "normal": [NODE], "reduction": [NODE], "more": 1}),
        json.dumps({"space": 3, "normal": [NODE], "reduction": [NODE]}),
    ],
)
def test_text_that_is_no_genotype_is_refused(text):
    with pytest.raises(ValueError, match="Genotype"):
        Genotype.from_json(text)


@pytest.mark.parametrize(
    "gene", [[["max_pool_3x3", 0], 0], ["max_pool_3x3", [0]], ["x" * 10_000, 0], [{"x": "y" * 10_000}, 0]], ids=range(4)
)
def test_a_gene_of_any_shape_is_refused_in_one_short_line(gene):
    value = {"space": "bnas", "normal": [[gene, ["skip_connect", 1]]], "reduction": [[gene, ["skip_connect", 1]]]}
    with pytest.raises(ValueError, match="normal node 0") as refused:
        Genotype.from_dict(value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"ops": ()}, "ops"),
        ({"ops": ("skip_connect", "nonsense")}, "ops"),
        ({"ops": ("skip_connect", "skip_connect")}, "ops"),
        ({"nodes": 0}, "nodes"),
        ({"name": "nonsense"}, "name"),
    ],
)
def test_a_space_that_cannot_exist_is_refused(arguments, field):
    with pytest.raises(ValueError, match=f"SearchSpace.{field}: expected"):
        SearchSpace(**arguments)


@quick
@given(seeds, st.integers(1, 5))
def test_samples_mutants_and_children_are_members_of_the_space(seed, nodes):
    rng = random.Random(seed)
    space = SearchSpace(ops=OPERATIONS["bnas"][1:5], nodes=nodes)
    a, b = space.sample(rng), space.sample_mixed(rng)
    for genotype in (a, b, space.mutate(a, rng, 0.2), space.crossover(a, b, rng)):
        space.validate(genotype)
        assert genotype.nodes == nodes


def test_genotypes_of_another_space_are_refused():
    genotype = sampled(0)
    for space in (SearchSpace(nodes=3), SearchSpace(ops=("skip_connect",))):
        with pytest.raises(ValueError, match=genotype.key):
            space.validate(genotype)
    with pytest.raises(ValueError, match="expected space 'bnas', found 'other'"):
        SPACE.validate(Genotype(genotype.normal, genotype.reduction, "other"))


@quick
@given(seeds, st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_mutate_always_changes_something(seed, rate):
    genotype = sampled(seed)
    assert SPACE.mutate(genotype, random.Random(seed + 1), rate) != genotype


def test_mutation_is_as_strong_as_its_rate():
    rng = random.Random(0)
    genotype = sampled(0)

    def changed(rate):
        mutants = [SPACE.mutate(genotype, rng, rate) for _ in range(300)]
        nodes = [
            (set(old), set(new))
            for mutant in mutants
            for old, new in zip(genotype.normal + genotype.reduction, mutant.normal + mutant.reduction, strict=True)
        ]
        return sum(len(old - new) for old, new in nodes) / len(mutants)

    # Of 16 genes; at least one always changes, and some of those drawn anew stay the same.
    assert 1 <= changed(0.0) < 1.5
    assert 1 <= changed(0.01) < 1.5
    assert 3 < changed(0.2) < 6
    assert 12 < changed(1.0) < 16


def test_mutate_returns_the_genotype_where_the_space_holds_no_other():
    space = SearchSpace(ops=("skip_connect",), nodes=1)
    only = space.sample(random.Random(0))
    assert space.mutate(only, random.Random(1), 0.5) == only


@quick
@given(seeds, seeds, seeds)
def test_every_node_of_a_child_comes_from_the_same_place_in_a_parent(first, second, seed):
    a, b = sampled(first), sampled(second)
    child = SPACE.crossover(a, b, random.Random(seed))
    for cell in ("normal", "reduction"):
        for node, *sources in zip(getattr(child, cell), getattr(a, cell), getattr(b, cell), strict=True):
            assert node in sources


def test_crossover_exchanges_whole_cells_and_single_nodes():
    a, b = sampled(1), sampled(2)
    rng = random.Random(0)
    children = [SPACE.crossover(a, b, rng) for _ in range(200)]
    assert any((child.normal, child.reduction) == (a.normal, b.reduction) for child in children)
    assert any(child.normal not in (a.normal, b.normal) for child in children)


def all_genotypes(space):
    genes = [
        [Gene(source, op) for source, op in itertools.product(range(2 + i), space.ops)] for i in range(space.nodes)
    ]
    nodes = [[pair for pair in itertools.product(g, g) if pair[0].source != pair[1].source] for g in genes]
    cells = list(itertools.product(*nodes))
    return {Genotype(normal, reduction) for normal, reduction in itertools.product(cells, cells)}


@pytest.mark.parametrize(("ops", "nodes"), [(1, 1), (3, 1), (1, 2)])
def test_size_is_the_number_of_distinct_genotypes(ops, nodes):
    space = SearchSpace(OPERATIONS["bnas"][:ops], nodes)
    members = all_genotypes(space)
    assert space.size == len(members)
    assert {sampled(seed, space) for seed in range(200)} <= members


def test_samples_reach_every_member_of_a_tiny_space():
    space = SearchSpace(OPERATIONS["bnas"][2:4], nodes=1)
    assert set(sample_uniform(space, random.Random(0), space.size)) == all_genotypes(space)


@pytest.mark.parametrize(
    "sample",
    [sample_uniform, lambda *arguments: sample_stratified(arguments[0], weighted_ops, *arguments[1:])],
)
def test_sampling_is_distinct_deterministic_and_complete(sample):
    first, again, other = (sample(SPACE, random.Random(seed), 32) for seed in (3, 3, 4))
    assert first == again != other
    assert len(set(first)) == 32
    for genotype in first:
        SPACE.validate(genotype)


def test_a_sampler_returns_fewer_where_the_space_holds_fewer():
    space = SearchSpace(ops=("skip_connect",), nodes=2)
    assert len(sample_uniform(space, random.Random(0), 20)) == 9
    assert len(sample_stratified(space, weighted_ops, random.Random(0), 20)) == 9


def test_uniform_sampling_draws_every_operation_equally_often():
    counts = Counter(gene.op for genotype in map(sampled, range(500)) for gene in genotype.genes)
    expected = sum(counts.values()) / len(SPACE.ops)
    assert set(counts) == set(SPACE.ops)
    assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts.values())


def test_stratified_sampling_covers_the_size_range_better_than_uniform_sampling():
    largest = 1 + 4 * SPACE.nodes
    low_high = functools.partial(size_coverage, low=1, high=largest)
    for seed in range(3):
        stratified = sample_stratified(SPACE, weighted_ops, random.Random(seed), 32)
        uniform = sample_uniform(SPACE, random.Random(seed), 32)
        sizes, uniform_sizes = (list(map(weighted_ops, g)) for g in (stratified, uniform))
        assert low_high(sizes) >= 0.8 > 0.5 >= low_high(uniform_sizes)
        assert min(sizes) <= 2 < min(uniform_sizes)
        assert max(sizes) >= largest - 1 > max(uniform_sizes)


@pytest.mark.parametrize("count", [64, 512])
def test_many_stratified_samples_are_as_even_as_few(count):
    edges = np.geomspace(1, 1 + 4 * SPACE.nodes, 5)
    for draw in (random.Random(0), random.Random(1)):
        sizes = [weighted_ops(genotype) for genotype in sample_stratified(SPACE, weighted_ops, draw, count)]
        shares = np.histogram(sizes, edges)[0] / count
        assert shares.min() > 0.18
        assert shares.max() < 0.35


def test_parameter_free_share_counts_operations_without_weights():
    node = (Gene(0, "skip_connect"), Gene(1, "bin_conv_3x3"))
    pooled = (Gene(0, "max_pool_3x3"), Gene(1, "avg_pool_3x3"))
    assert Genotype((node,), (pooled,)).parameter_free_share == 0.75
