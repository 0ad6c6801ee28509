import functools
import itertools
import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.search.generation import Breeder, Generation, Screening, VariationRates, offspring, step
from bnas.search.pareto import hypervolume
from bnas.search.selection import (
    RULES,
    TWO_STAGE,
    Selection,
    auxiliary_objectives,
    bin_ranks,
    fronts,
    rule_of,
    select,
)
from bnas.space.operations import PARAMETER_FREE
from bnas.space.search_space import SearchSpace, sample_stratified, sample_uniform

# ---- A slow, obvious reference of the selection, in plain Python ----


def dominates(a, b):
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def reference_fronts(values):
    rest, result = list(range(len(values))), []
    while rest:
        front = [i for i in rest if not any(dominates(values[j], values[i]) for j in rest)]
        rest = [i for i in rest if i not in front]
        distance = dict.fromkeys(front, 0.0)
        for axis in (0, 1):
            order = sorted(front, key=lambda i: (values[i][axis], i))
            span = values[order[-1]][axis] - values[order[0]][axis]
            distance[order[0]] = distance[order[-1]] = math.inf
            if span > 0:
                for before, i, after in zip(order, order[1:], order[2:], strict=False):
                    distance[i] += (values[after][axis] - values[before][axis]) / (2 * span)
        result.append(sorted(front, key=lambda i: (-distance[i], i)))
    return result


def reference_auxiliary(values):
    return [(f1 * (1 - f2), 1 - f2) for f1, f2 in values]


def reference_ranking(values):
    return [i for front in reference_fronts(values) for i in front]


def reference_alternate(values, count):
    rankings = [reference_ranking(values), reference_ranking(reference_auxiliary(values))]
    taken = []
    while len(taken) < count:
        ranking = rankings[len(taken) % 2]
        taken.append(next(i for i in ranking if i not in taken))
    return taken


def reference_cars(values, count):
    """Members that are certainly taken, and those among which the draw decides."""
    a = reference_fronts(values)
    b = reference_fronts([(f1, 1 / f2) for f1, f2 in values])
    certain = set()
    for level in range(max(len(a), len(b))):
        union = {i for sorting in (a, b) if level < len(sorting) for i in sorting[level]} - certain
        if len(certain) + len(union) > count:
            return certain, union
        certain |= union
    return certain, set()


def reference_bins(values, bins=10):
    """Bins of log f2 by comparing with every edge; the best of each and of the least f2, then the second bests…"""
    logs = [math.log(f2) for _, f2 in values]
    low, width = min(logs), (max(logs) - min(logs)) / bins
    queues = {}
    for i, at in enumerate(logs):
        place = sum(round(at, 9) >= round(low + width * k, 9) for k in range(1, bins))
        queues.setdefault(place, []).append(i)
    for queue in queues.values():
        queue.sort(key=lambda i: (values[i][0], i))
    smallest = min(range(len(values)), key=lambda i: (values[i][1], values[i][0], i))
    ranked = [(rank * (i != smallest), i) for queue in queues.values() for rank, i in enumerate(queue)]
    return [i for _, i in sorted(ranked)]


# Tenths, so that ties and equal points are common; and arbitrary values beside them.
tenths = st.tuples(st.integers(0, 10), st.integers(1, 10)).map(lambda p: (p[0] / 10, p[1] / 10))
coarse = st.tuples(st.integers(0, 2), st.integers(1, 3)).map(lambda p: (p[0] / 10, p[1] / 10))
fine = st.tuples(st.floats(0, 1), st.floats(0.01, 1))
point_lists = st.one_of(*(st.lists(point, min_size=1, max_size=24) for point in (coarse, tenths, fine)))
quick = settings(max_examples=80, deadline=None)


def draw(objectives, count, rule, seed=0):
    return select(np.array(objectives).reshape(-1, 2), count, rule, random.Random(seed))


# ---- Sorting and selection ----


@quick
@given(point_lists)
def test_fronts_agree_with_peeling_off_nondominated_points(points):
    assert fronts(points) == reference_fronts(points)


def test_equal_points_share_a_front():
    assert [sorted(front) for front in fronts([(1, 1), (2, 2), (1, 1), (2, 2), (1, 1)])] == [
        [0, 2, 4],
        [1, 3],
    ]


def test_ends_of_a_front_come_before_crowded_members():
    # Ends first (infinite distance, lower index first), then the lonely 3 and the crowded 1 and 2.
    points = [(0.0, 1.0), (0.1, 0.9), (0.15, 0.85), (0.6, 0.4), (1.0, 0.0)]
    assert fronts(points) == [[0, 4, 3, 2, 1]]


@quick
@given(point_lists, st.data())
def test_nsga2_and_auxiliary_take_the_best_of_their_sorting(points, data):
    count = data.draw(st.integers(0, len(points)))
    assert draw(points, count, "nsga2") == reference_ranking(points)[:count]
    assert draw(points, count, "auxiliary") == reference_ranking(reference_auxiliary(points))[:count]


@quick
@given(point_lists, st.data())
def test_alternate_takes_best_of_f1_then_f2_in_turn(points, data):
    count = data.draw(st.integers(0, len(points)))
    assert draw(points, count, "alternate") == reference_alternate(points, count)


@quick
@given(point_lists, st.integers(0, 3), st.data())
def test_cars_takes_unions_of_fronts_and_draws_from_the_last(points, seed, data):
    count = data.draw(st.integers(0, len(points)))
    certain, drawn = reference_cars(points, count)
    chosen = draw(points, count, "cars", seed)
    assert len(chosen) == len(set(chosen)) == count
    assert set(chosen[: len(certain)]) == certain
    assert set(chosen[len(certain) :]) <= drawn
    assert chosen == draw(points, count, "cars", seed)


def test_cars_draws_every_member_of_the_last_front_equally_often():
    # Three fronts, the same in both sortings: one point, one point, and four equal ones for the last place.
    points = [(0.1, 0.5), (0.2, 0.5)] + [(0.3, 0.5)] * 4
    counts = np.zeros(len(points))
    for seed in range(400):
        counts[draw(points, 3, "cars", seed)] += 1
    assert counts[0] == counts[1] == 400
    assert all(60 < count < 140 for count in counts[2:])


def test_only_cars_draws_from_the_generator():
    points = [(i / 10, j / 10) for i in range(1, 5) for j in range(1, 5)]
    for rule in RULES:
        rng = random.Random(5)
        select(points, 9, rule, rng)
        assert (rng.getstate() == random.Random(5).getstate()) == (rule != "cars")


def test_cars_draws_only_where_a_front_does_not_fit():
    points = [(0.1, 0.5), (0.2, 0.5), (0.2, 0.5), (0.3, 0.5)]
    for count in (0, 1, 3, 4):
        rng = random.Random(5)
        assert select(points, count, "cars", rng) == list(range(count))
        assert rng.getstate() == random.Random(5).getstate()


@pytest.mark.parametrize("rule", RULES)
def test_taking_all_takes_everyone_once(rule):
    points = [(i % 4 / 10, (i * 7 % 5 + 1) / 10) for i in range(17)]
    assert sorted(draw(points, 17, rule)) == list(range(17))
    assert draw(points, 0, rule) == []
    assert draw([], 0, rule) == []


# Two trained small networks, and a large one that is not trained yet: larger and worse.
SMALL, SMALLER, LARGE = (0.25, 0.2), (0.30, 0.1), (0.50, 0.9)


def test_auxiliary_keeps_the_larger_and_worse_network_that_nsga2_throws_away():
    points = [SMALL, SMALLER, LARGE]
    assert set(draw(points, 2, "nsga2")) == {0, 1}
    assert draw(points, 1, "auxiliary") == [2]
    assert 2 in draw(points, 2, "auxiliary")
    assert 2 in draw(points, 2, "alternate")


def test_auxiliary_still_prefers_the_better_of_two_equally_large_networks():
    assert draw([(0.5, 0.4), (0.3, 0.4)], 1, "auxiliary") == [1]


def test_alternate_begins_with_the_real_front():
    assert draw([LARGE, SMALL], 1, "alternate") == [1]
    assert draw([LARGE, SMALL, SMALLER], 2, "alternate") == [1, 0]


@quick
@given(point_lists, st.data())
def test_bins_take_the_best_of_every_size_in_turn(points, data):
    count = data.draw(st.integers(0, len(points)))
    assert draw(points, count, "bins") == reference_bins(points)[:count]


def test_bins_keep_every_size_whatever_the_errors():
    # Errors rise with size: a front by error and size is the smallest alone.
    points = [(i / 40, 1.1**i / 100) for i in range(40)]
    chosen = draw(points, 10, "bins")
    assert [points[i][1] for i in sorted(chosen)] == sorted(points[i][1] for i in chosen)
    assert max(chosen) >= 36
    assert draw(points, 1, "nsga2") == [0]


def test_bins_keep_the_best_of_the_smallest_though_larger_ones_of_its_bin_beat_it():
    points = [(0.3, 0.10), (0.2, 0.10), (0.1, 0.11), (0.05, 0.12), (0.0, 0.9)]
    assert draw(points, 3, "bins") == [1, 3, 4]


def test_bins_may_have_limits():
    points = [(0.2, 0.1), (0.1, 0.19), (0.3, 0.9)]
    assert bin_ranks(points, 2).tolist() == [0, 0, 0]
    assert bin_ranks(points, 2, (0.01, 100.0)).tolist() == [0, 0, 2]
    assert bin_ranks(points, 1).tolist() == [0, 0, 2]


def test_cars_protects_the_largest_network():
    # On (f1, 1/f2) the large network is on the first front; on (f1, f2) it is on the last one.
    points = [SMALL, SMALLER, (0.35, 0.15), LARGE]
    assert set(draw(points, 3, "cars")) == {0, 1, 3}


def test_auxiliary_objectives_follow_their_formula():
    np.testing.assert_allclose(
        auxiliary_objectives([(0.4, 0.25), (0.0, 0.5), (1.0, 0.0), (0.3, 1.0)]),
        [(0.3, 0.75), (0.0, 0.5), (1.0, 1.0), (0.0, 0.0)],
    )
    assert auxiliary_objectives(np.empty((0, 2))).shape == (0, 2)


def test_rule_is_auxiliary_for_the_first_half_and_alternate_after():
    assert [rule_of(TWO_STAGE, t, 6) for t in range(1, 7)] == ["auxiliary"] * 3 + ["alternate"] * 3
    assert [rule_of(TWO_STAGE, t, 5) for t in range(1, 6)] == ["auxiliary"] * 2 + ["alternate"] * 3
    assert rule_of(TWO_STAGE, 1, 1) == "alternate"
    for rule in RULES:
        assert [rule_of(rule, t, 4) for t in (1, 2, 3, 4)] == [rule] * 4


def test_mating_compares_by_the_sorting_of_the_rule():
    objectives = np.array([SMALL, LARGE])
    auxiliary = auxiliary_objectives(objectives)
    expected = {
        "nsga2": [objectives] * 3,
        "cars": [objectives] * 3,
        "auxiliary": [auxiliary] * 3,
        "alternate": [objectives, auxiliary, objectives],
        "bins": [np.zeros((2, 2))] * 3,
    }
    for rule, values in expected.items():
        for generation in (1, 2, 3):
            np.testing.assert_array_equal(
                Selection(rule, generation, 1).mating_values(objectives), values[generation - 1]
            )


@pytest.mark.parametrize(
    ("points", "count", "rule", "expected"),
    [
        ([SMALL], 1, "nsga3", "rule: expected one of nsga2, auxiliary, alternate, cars, bins, found 'nsga3'"),
        ([SMALL], 1, TWO_STAGE, "rule: expected one of"),
        ([SMALL], 2, "nsga2", "count: expected a number from 0 to 1, found 2"),
        ([SMALL], -1, "nsga2", "count: .* found -1"),
        ([(0.1, 0.0)], 1, "cars", "sizes above 0 for rule 'cars', found 0.0"),
        ([(0.1, 0.0)], 1, "bins", "sizes above 0 for rule 'bins', found 0.0"),
        ([(0.1, 1.1)], 1, "auxiliary", "sizes of at most 1, .* up to 1.1"),
        ([(-0.1, 0.1)], 1, "alternate", "errors of at least 0"),
        ([(0.1, math.nan)], 1, "nsga2", "objectives: expected finite values, found nan"),
        ([(math.inf, 0.1)], 1, "cars", "found inf"),
        ([(0.1, 0.2, 0.3)], 1, "nsga2", r"objectives: expected shape \[U, 2\], found \[1, 3\]"),
        ([0.1, 0.2], 1, "nsga2", r"found \[2\]"),
    ],
)
def test_select_refuses_bad_input(points, count, rule, expected):
    with pytest.raises(ValueError, match=expected):
        select(points, count, rule, random.Random(0))


def test_schedules_refuse_unknown_names_and_generations_out_of_range():
    with pytest.raises(ValueError, match=r"selection: expected one of .*, two_stage, found 'half'"):
        rule_of("half", 1, 2)
    for generation in (0, 3):
        with pytest.raises(ValueError, match=f"generation: expected a number from 1 to 2, found {generation}"):
            rule_of(TWO_STAGE, generation, 2)
    with pytest.raises(ValueError, match="rule: expected one of"):
        Selection(TWO_STAGE, 1, 1)
    with pytest.raises(ValueError, match="generation: expected at least 1, found 0"):
        Selection("nsga2", 0, 1)


@pytest.mark.parametrize("field", ["crossover", "mutation_rate", "random_share"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_probabilities_outside_zero_and_one_are_refused(field, value):
    arguments = {"crossover": 0.5, "mutation_rate": 0.1, "random_share": 0.2, field: value}
    with pytest.raises(ValueError, match=rf"VariationRates.{field}: expected a value in \[0, 1\], found {value}"):
        VariationRates(**arguments)


# ---- Offspring and the generation step, on a toy problem ----

SPACE = SearchSpace(nodes=2)
GENES = 4 * SPACE.nodes
MIXED = VariationRates(crossover=0.6, mutation_rate=0.1, random_share=0.125)


def weighted_ops(genotype):
    return 1 + sum(gene.op not in PARAMETER_FREE for gene in genotype.genes)


GAINS = {
    "bin_conv_3x3": 6,
    "bin_conv_5x5": 10,
    "bin_dil_conv_3x3": 3,
    "bin_dil_conv_5x5": 7,
    "max_pool_3x3": 1,
}
COSTS = {"bin_conv_3x3": 9, "bin_conv_5x5": 25, "bin_dil_conv_3x3": 9, "bin_dil_conv_5x5": 25}


def score_ops(networks):
    """Objectives [n, 2] of lists of operation names: error falls and size grows with each convolution."""
    return np.array(
        [
            (
                0.9 - sum(GAINS.get(op, 0) for op in ops) / 100,
                (10 + sum(COSTS.get(op, 0) for op in ops)) / 265,
            )
            for ops in networks
        ]
    )


def evaluate(genotypes):
    return score_ops([[gene.op for gene in genotype.genes] for genotype in genotypes])


def uniform(space=SPACE):
    return functools.partial(sample_uniform, space)


def setting(seed=0, space=SPACE, sampler=None, variation=MIXED, **changes):
    breeder = Breeder(space, sampler or uniform(space), variation)
    return {"breeder": breeder, "rng": random.Random(seed), **changes}


def born(size=16, count=16, seed=0, **changes):
    population = sample_uniform(SPACE, random.Random(100), size)
    return population, offspring(population, evaluate(population), count, **setting(seed, **changes))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 10, 16])
@pytest.mark.parametrize("count", [0, 1, 7, 24])
def test_offspring_are_as_many_as_asked_for_distinct_and_new(size, count):
    population, children = born(size, count)
    assert len(children) == len(set(children)) == count
    assert not set(children) & set(population)
    for child in children:
        SPACE.validate(child)


def test_offspring_depend_on_the_given_generator_alone():
    random.seed(1)
    _, first = born(seed=3)
    random.seed(2)
    assert born(seed=3)[1] == first
    assert born(seed=4)[1] != first


def test_the_global_generator_is_left_as_it_was():
    random.seed(1234)
    before = random.getstate()
    population, _ = born()
    step(population, evaluate, selection=Selection("cars", 1, 16), **setting())
    assert random.getstate() == before


def test_the_given_share_of_offspring_is_sampled_afresh():
    requests = []

    def sampler(rng, count):
        found = sample_uniform(SPACE, rng, count)
        requests.extend(found)
        return found

    for share, expected in [(0.0, 0), (0.25, 4), (1.0, 16)]:
        requests.clear()
        _, children = born(sampler=sampler, variation=VariationRates(0.5, 0.1, share))
        assert len(set(children) & set(requests)) == len(requests) == expected


def test_excluded_genotypes_are_not_born():
    _, wanted = born(seed=7)
    _, children = born(seed=7, exclude=frozenset(wanted))
    assert len(children) == len(wanted)
    assert not set(children) & set(wanted)


def test_a_known_draw_of_the_sampler_is_replaced():
    population = sample_uniform(SPACE, random.Random(100), 4)
    draws = iter([population[:2], population[2:], sample_uniform(SPACE, random.Random(1), 2)])
    everything_fresh = VariationRates(0.5, 0.1, 1.0)
    children = offspring(
        population,
        evaluate(population),
        2,
        **setting(variation=everything_fresh, sampler=lambda *_: next(draws)),
    )
    assert children == sample_uniform(SPACE, random.Random(1), 2)


def test_without_mutation_children_of_two_parents_are_made_of_their_nodes():
    only_crossed = VariationRates(crossover=1.0, mutation_rate=0.0, random_share=0.0)
    families = [born(count=32, seed=seed, variation=only_crossed) for seed in range(4)]

    def nodes(genotype):
        return set(enumerate(genotype.normal + genotype.reduction))

    pure = sum(
        nodes(child) <= set.union(*map(nodes, population)) for population, children in families for child in children
    )
    # About a third of the crosses copies a parent, and must be mutated.
    assert pure > 0.6 * 4 * 32


def test_a_cross_that_is_already_known_is_mutated():
    population, children = born(size=1, count=5, variation=VariationRates(1.0, 0.0, 0.0))
    assert len(children) == 5
    assert all(gene_changes(child, population[0]) <= 2 for child in children)


def gene_changes(child, parent):
    return len(set(child.genes) - set(parent.genes))


def test_without_crossover_children_are_mutants_of_one_parent():
    population, children = born(variation=VariationRates(crossover=0.0, mutation_rate=0.0, random_share=0.0))
    for child in children:
        assert min(gene_changes(child, parent) for parent in population) <= 2


def test_crossed_children_are_mutated_at_the_given_rate():
    def inherited(rate):
        """Share of the nodes of crossed children that some parent has at the same place."""
        population, children = born(count=64, variation=VariationRates(1.0, rate, 0.0))
        known = {place for parent in population for place in enumerate(parent.normal + parent.reduction)}
        nodes = [place for child in children for place in enumerate(child.normal + child.reduction)]
        return sum(place in known for place in nodes) / len(nodes)

    # A node of four integers stays as it is with a chance of about (1 - rate)^4, more with redrawn equals.
    assert inherited(0.0) > 0.85 > 0.8 > inherited(0.1) > 0.6 > 0.45 > inherited(1.0)


def children_per_parent(values, count=64):
    """How many of the unmixed children each member is the parent of; all parents are too far apart to confuse."""
    space = SearchSpace(nodes=4)
    population = sample_uniform(space, random.Random(100), len(values))
    assert min(gene_changes(a, b) for a, b in itertools.combinations(population, 2)) > 2
    children = offspring(population, values, count, **setting(space=space, variation=VariationRates(0.0, 0.0, 0.0)))
    parents = [min(range(len(values)), key=lambda i: gene_changes(child, population[i])) for child in children]
    return [parents.count(i) for i in range(len(values))]


@pytest.mark.parametrize(("best", "worst"), [(5, 6), (0, 15), (15, 0)])
def test_the_dominating_parent_has_twice_the_children_and_the_dominated_one_none(best, worst):
    values = [(0.5 + i / 100, 0.5 - i / 100) for i in range(16)]
    values[best], values[worst] = (0.1, 0.1), (0.9, 0.9)
    counts = children_per_parent(values)
    assert counts[worst] == 0
    assert counts[best] >= 6  # The average is 4.


@pytest.mark.parametrize("crowded", [3, 8, 12])
def test_the_most_crowded_parent_of_a_front_has_no_children(crowded):
    # Evenly spaced points, but for two that lean on the crowded one.
    positions = [crowded + (i - crowded) * (0.2 if abs(i - crowded) == 1 else 1.0) for i in range(16)]
    assert children_per_parent([(x, 15 - x) for x in positions])[crowded] == 0


def test_a_space_without_new_genotypes_ends_the_search_for_offspring_at_once():
    only = SearchSpace(ops=("skip_connect",), nodes=1)
    population = sample_uniform(only, random.Random(0), 1)

    def sampler(rng, count):
        raise AssertionError("there is nothing to sample")

    options = setting(space=only, sampler=sampler, variation=VariationRates(0.5, 0.1, 1.0))
    assert offspring(population, [SMALL], 8, **options) == []
    scores = np.array([SMALL])
    generation = step(population, lambda _: scores, selection=Selection("nsga2", 1, 8), **options)
    assert generation.population == generation.genotypes == tuple(population)
    assert scores.flags.writeable


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_almost_exhausted_space_gives_what_it_still_holds(share):
    tiny = SearchSpace(ops=("skip_connect",), nodes=2)
    members = sample_uniform(tiny, random.Random(0), 9)
    assert len(members) == tiny.size == 9
    options = setting(space=tiny, variation=VariationRates(0.5, 0.1, share), exclude=frozenset(members[4:7]))
    children = offspring(members[:4], np.array([SMALL] * 4), 20, **options)
    assert set(children) == set(members[7:])
    options["exclude"] = frozenset(members)
    assert offspring(members[:4], np.array([SMALL] * 4), 20, **options) == []


def test_offspring_refuse_values_that_do_not_belong_to_the_population():
    population = sample_uniform(SPACE, random.Random(0), 4)
    for members, values in [(population, [SMALL] * 3), ([], np.empty((0, 2)))]:
        with pytest.raises(ValueError, match="values: expected a non-empty population and one row"):
            offspring(members, values, 4, **setting())
    with pytest.raises(ValueError, match="count: expected at least 0, found -1"):
        offspring(population, [SMALL] * 4, -1, **setting())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("size", "count"), [(16, 16), (3, 8), (10, 4)])
def test_a_generation_is_parents_then_offspring_and_the_selected_of_both(rule, size, count):
    population = sample_uniform(SPACE, random.Random(1), size)
    seen = []

    def counted(genotypes):
        seen.append(tuple(genotypes))
        return evaluate(genotypes)

    generation = step(population, counted, selection=Selection(rule, 2, count), **setting())
    assert generation.genotypes[:size] == tuple(population)
    assert len(generation.genotypes) == size + count == len(set(generation.genotypes))
    assert seen == [generation.genotypes[:size], generation.genotypes[size:]]
    np.testing.assert_array_equal(generation.objectives, evaluate(generation.genotypes))
    assert len(generation.population) == count
    assert generation.population == tuple(generation.genotypes[i] for i in generation.survivors)
    np.testing.assert_array_equal(generation.survivor_objectives, evaluate(generation.population))
    if rule != "cars":
        assert list(generation.survivors) == select(generation.objectives, count, rule, random.Random())


def test_a_generation_breeds_by_the_values_of_its_rule():
    population = sample_uniform(SPACE, random.Random(1), 16)
    for rule, number in [("nsga2", 1), ("auxiliary", 1), ("alternate", 1), ("alternate", 2)]:
        generation = step(population, evaluate, selection=Selection(rule, number, 16), **setting(3))
        values = Selection(rule, number, 16).mating_values(evaluate(population))
        assert list(generation.genotypes[16:]) == offspring(population, values, 16, **setting(3))


def test_equal_seeds_give_equal_generations():
    population = sample_uniform(SPACE, random.Random(1), 16)
    first, again, other = (
        step(population, evaluate, selection=Selection("cars", 1, 16), **setting(seed)) for seed in (1, 1, 2)
    )
    assert (first.genotypes, first.survivors) == (again.genotypes, again.survivors)
    assert first.genotypes != other.genotypes


def test_a_step_respects_exclusions():
    population = sample_uniform(SPACE, random.Random(1), 8)
    free = step(population, evaluate, selection=Selection("nsga2", 1, 8), **setting())
    known = frozenset(free.genotypes[8:])
    restricted = step(population, evaluate, selection=Selection("nsga2", 1, 8), **setting(), exclude=known)
    assert not known & set(restricted.genotypes)


def screened(rule="nsga2", candidates=4, predict=evaluate, count=16):
    """A generation, the genotypes of each call of `evaluate`, and those of each prediction."""
    population = sample_uniform(SPACE, random.Random(1), 16)
    calls = {"evaluated": [], "predicted": []}

    def watched(name, function):
        def call(genotypes):
            calls[name].append(tuple(genotypes))
            return function(genotypes)

        return call

    screening = Screening(candidates, watched("predicted", predict))
    generation = step(
        population, watched("evaluated", evaluate), selection=Selection(rule, 1, count), **setting(),
        screening=screening,
    )  # fmt: skip
    return generation, calls["evaluated"], calls["predicted"]


@pytest.mark.parametrize("rule", ["nsga2", "auxiliary", "alternate"])
def test_of_more_candidates_those_are_evaluated_that_the_rule_selects_by_predictions(rule):
    generation, (parents, children), (candidates,) = screened(rule)
    assert len(candidates) == len(set(candidates)) == 64
    chosen = select(evaluate(candidates), 16, rule, random.Random())
    assert children == tuple(candidates[i] for i in chosen)
    assert generation.genotypes == (*parents, *children)
    np.testing.assert_array_equal(generation.objectives, evaluate(generation.genotypes))


def test_predictions_choose_who_is_evaluated_and_nothing_else():
    def worst(genotypes):
        return np.column_stack((1 - evaluate(genotypes)[:, 0], np.full(len(genotypes), 0.5)))

    good, bad = (screened(predict=predict)[0] for predict in (evaluate, worst))
    assert good.genotypes[:16] == bad.genotypes[:16]
    assert good.objectives[16:, 0].mean() < bad.objectives[16:, 0].mean()
    assert list(bad.survivors) == select(evaluate(bad.genotypes), 16, "nsga2", random.Random())


@pytest.mark.parametrize("looks", [1, 3])
def test_who_would_survive_is_looked_at_again_until_nobody_needs_it(looks):
    population = sample_uniform(SPACE, random.Random(0), 16)
    seen, asked = {}, []

    def lucky(genotypes):
        """What `evaluate` finds, a little too well before so many looks were taken."""
        true = evaluate(genotypes)
        return true * [[1.0 if seen.get(genotype, 0) >= looks else 0.95, 1.0] for genotype in genotypes]

    def second_look(survivors):
        asked.append(survivors)
        unsure = [genotype for genotype in survivors if seen.get(genotype, 0) < looks]
        seen.update((genotype, seen.get(genotype, 0) + 1) for genotype in unsure)
        return bool(unsure)

    generation = step(population, lucky, selection=Selection("nsga2", 1, 16), **setting(), second_look=second_look)
    assert all(seen[genotype] == looks for genotype in generation.population)
    assert tuple(asked[-1]) == generation.population
    assert len(asked) > looks
    np.testing.assert_array_equal(generation.objectives, lucky(generation.genotypes))
    assert generation.survivors == tuple(draw(generation.objectives, 16, "nsga2"))
    assert any(seen.get(genotype, 0) < looks for genotype in generation.genotypes)


def test_one_candidate_for_each_offspring_is_no_screening():
    population = sample_uniform(SPACE, random.Random(1), 16)
    plain = step(population, evaluate, selection=Selection("cars", 1, 16), **setting())
    generation, _, predicted = screened("cars", 1)
    assert (generation.genotypes, generation.survivors) == (plain.genotypes, plain.survivors)
    assert predicted == []


def test_too_few_candidates_and_wrong_predictions_are_refused():
    with pytest.raises(ValueError, match="candidates: expected at least 1, found 0"):
        Screening(0, evaluate)
    with pytest.raises(ValueError, match="expected 64 rows of objectives, found 65"):
        screened(predict=lambda genotypes: np.zeros((len(genotypes) + 1, 2)))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (lambda n: np.zeros((n + 1, 2)), "evaluate: expected 8 rows of objectives, found 9"),
        (lambda n: np.zeros((n, 3)), r"evaluate: expected shape \[U, 2\], found \[8, 3\]"),
        (lambda n: np.full((n, 2), np.nan), "evaluate: expected finite values, found nan"),
    ],
)
def test_a_step_refuses_scores_of_another_shape(result, expected):
    population = sample_uniform(SPACE, random.Random(1), 8)
    with pytest.raises(ValueError, match=expected):
        step(population, lambda g: result(len(g)), selection=Selection("nsga2", 1, 8), **setting())


def test_a_step_refuses_empty_and_repeated_populations_and_no_count():
    population = sample_uniform(SPACE, random.Random(1), 4)
    for members in ([], [*population, population[0]]):
        with pytest.raises(ValueError, match="population: expected at least one genotype and no duplicates"):
            step(members, evaluate, selection=Selection("nsga2", 1, 4), **setting())
    with pytest.raises(ValueError, match="count: expected at least 1, found 0"):
        step(population, evaluate, selection=Selection("nsga2", 1, 0), **setting())


def test_a_generation_that_contradicts_itself_is_refused():
    genotypes = tuple(sample_uniform(SPACE, random.Random(1), 3))
    good = evaluate(genotypes)
    for objectives, survivors, field in [
        (good[:2], (0,), "objectives"),
        (good, (0, 3), "survivors"),
        (good, (0, 0), "survivors"),
        (good, (-1,), "survivors"),
    ]:
        with pytest.raises(ValueError, match=f"Generation.{field}: expected"):
            Generation(genotypes, objectives, survivors)


def test_the_scores_of_a_generation_cannot_be_written_to():
    population = sample_uniform(SPACE, random.Random(1), 4)
    generation = step(population, evaluate, selection=Selection("nsga2", 1, 4), **setting())
    with pytest.raises(ValueError, match="read-only"):
        generation.objectives[0, 0] = 0.0


def evolved(selection, seed, generations=20, score=evaluate):
    stratified = functools.partial(sample_stratified, SPACE, weighted_ops)
    options = setting(seed, sampler=stratified)
    population = stratified(options["rng"], 24)
    history = []
    for t in range(1, generations + 1):
        rule = rule_of(selection, t, generations)
        generation = step(population, functools.partial(score, t), selection=Selection(rule, t, 24), **options)
        population = generation.population
        history.append(generation)
    return history


def constantly(_, genotypes):
    return evaluate(genotypes)


@functools.cache
def best_hypervolume():
    """That of the true front, found among all multisets of operations: sources do not matter here."""
    return hypervolume(score_ops(itertools.combinations_with_replacement(SPACE.ops, GENES)), (1, 1))


def reached(objectives):
    return hypervolume(objectives, (1, 1)) / best_hypervolume()


@functools.cache
def reached_at_random(seed):
    """With as many evaluations as twenty generations take."""
    rng = random.Random(seed)
    drawn = [sample_stratified(SPACE, weighted_ops, rng, 24) for _ in range(21)]
    return reached(np.concatenate([evaluate(batch) for batch in drawn]))


@pytest.mark.parametrize("selection", ["nsga2", "alternate", TWO_STAGE, "cars", "bins"])
def test_twenty_generations_approach_the_known_front_and_beat_random_search(selection):
    found = []
    for seed in range(3):
        history = evolved(selection, seed, score=constantly)
        found.append(reached(np.concatenate([generation.objectives for generation in history])))
    assert max(found) <= 1 + 1e-12
    assert np.mean(found) > 0.92 > 0.9 > np.mean([reached_at_random(seed) for seed in range(3)])


def test_auxiliary_objectives_alone_leave_the_small_end():
    # Why there is a second stage.
    small_end = {
        selection: min(map(weighted_ops, evolved(selection, 0, score=constantly)[-1].population))
        for selection in ("auxiliary", TWO_STAGE)
    }
    assert small_end["auxiliary"] > GENES // 2 > small_end[TWO_STAGE]


def test_two_stage_selection_finds_large_networks_that_train_late_and_nsga2_loses_them():
    # A small-model trap: convolutions are worth nothing to a network until half of the run is over.
    def score(t, genotypes):
        trained = evaluate(genotypes)
        return trained if t > 10 else np.column_stack((0.5 + 0.4 * trained[:, 1], trained[:, 1]))

    def largest_at_half(selection):
        return max(map(weighted_ops, evolved(selection, 0, score=score)[9].population))

    assert largest_at_half(TWO_STAGE) == 1 + GENES
    assert largest_at_half("nsga2") <= 1 + GENES // 2


def test_importing_the_generation_step_imports_no_torch_and_draws_nothing():
    code = (
        "import random, sys; random.seed(1); state = random.getstate();"
        "import bnas.search.generation, bnas.search.pareto;"
        "assert random.getstate() == state; print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
