import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.search.pareto import (
    front_hypervolume,
    hypervolume,
    kendall_tau,
    nondominated,
    normalise,
    size_coverage,
    wilson_interval,
)
from bnas.space.baselines import spread

# Small grids, so that ties and duplicates are common.
grid_points = st.integers(1, 3).flatmap(
    lambda d: st.lists(st.tuples(*[st.integers(0, 6)] * d), min_size=1, max_size=20)
)
quick = settings(max_examples=80, deadline=None)


def dominates(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@quick
@given(grid_points)
def test_nondominated_agrees_with_comparing_every_pair(points):
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert nondominated(points).tolist() == expected


def test_all_copies_of_a_nondominated_point_are_kept():
    assert nondominated([[1, 2], [1, 2], [2, 1], [2, 2], [2, 2]]).tolist() == [True, True, True, False, False]


def test_no_points_give_an_empty_mask_and_no_volume():
    for none in (np.empty((0, 2)), []):
        assert nondominated(none).shape == (0,)
        assert nondominated(none).dtype == bool
        assert hypervolume(none, (1, 1)) == 0.0


def test_hypervolume_of_three_steps_is_the_sum_of_their_rectangles():
    # Below (10, 10), from the left: 2 wide and 2 high, then 4 wide and 5 high, then 2 wide and 9 high.
    assert hypervolume([(2, 8), (4, 5), (8, 1)], (10, 10)) == 2 * 2 + 4 * 5 + 2 * 9


def test_points_beyond_the_reference_contribute_nothing():
    inside = [(2, 8), (4, 5)]
    expected = hypervolume(inside, (10, 10))
    for beyond in [(0, 11), (11, 0), (0, 10), (10, 0), (12, 12), (-100, 10)]:
        assert hypervolume([*inside, beyond], (10, 10)) == expected
        assert hypervolume([beyond], (10, 10)) == 0.0


@quick
@given(grid_points, st.integers(1, 7))
def test_hypervolume_counts_the_dominated_cells_of_a_grid(points, side):
    dimensions = len(points[0])
    dominated = sum(
        any(all(x <= y for x, y in zip(point, cell, strict=True)) for point in points)
        for cell in np.ndindex(*[side] * dimensions)
    )
    assert hypervolume(points, [side] * dimensions) == pytest.approx(dominated)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([1.0, 2.0], r"points: expected shape \[n, d\] .* found \[2\]"),
        (np.zeros((2, 2, 2)), r"found \[2, 2, 2\]"),
        (np.zeros((3, 0)), r"found \[3, 0\]"),
        ([[1.0, math.nan]], "points: expected finite values, found nan"),
        ([[-math.inf, 1.0]], "found -inf"),
    ],
)
def test_points_that_are_no_finite_matrix_are_refused(points, expected):
    with pytest.raises(ValueError, match=expected):
        nondominated(points)
    with pytest.raises(ValueError, match=expected):
        hypervolume(points, (1, 1))


@pytest.mark.parametrize("ref", [(1,), (1, 1, 1), 1, (1, math.inf)])
def test_a_reference_of_another_shape_or_not_finite_is_refused(ref):
    with pytest.raises(ValueError, match="ref: expected"):
        hypervolume([[0, 0]], ref)


def test_each_bin_of_size_coverage_counts_once():
    assert size_coverage([1, 1.1, 1.9], 1, 1024) == 0.1
    assert size_coverage([1, 2, 4, 1000], 1, 1024) == 0.4
    assert size_coverage([], 1, 1024) == 0.0


def test_a_bin_owns_its_lower_edge_and_the_last_one_the_largest_size():
    edges = [2.0**k for k in range(11)]
    for pair in itertools.pairwise(edges[:-1]):
        assert size_coverage(pair, 1, 1024) == 0.2
    assert size_coverage(edges, 1, 1024) == 1.0
    assert size_coverage([1024], 1, 1024) == 0.1
    assert size_coverage([512, 1024], 1, 1024) == 0.1
    # An edge that no binary fraction meets exactly: 3 · 10^(k/10).
    assert size_coverage([3 * 10 ** (k / 10) for k in range(10)], 3, 30) == 1.0


@pytest.mark.parametrize("bins", [1, 3, 10, 64])
def test_size_coverage_of_sizes_spread_evenly_in_log_is_complete(bins):
    assert size_coverage(np.geomspace(7, 9001, 3 * bins), 7, 9001, bins) == 1.0


def test_size_coverage_forgives_rounding_and_nothing_else():
    assert size_coverage([10 * (1 - 1e-12), 20 * (1 + 1e-12)], 10, 20) == 0.2
    for size in (9.99, 20.01):
        with pytest.raises(ValueError, match=f"sizes: expected values from 10 to 20, found {size}"):
            size_coverage([size, 15], 10, 20)


@pytest.mark.parametrize(
    ("sizes", "low", "high", "bins", "field"),
    [
        ([1], 0, 2, 10, "low, high"),
        ([1], 2, 1, 10, "low, high"),
        ([1], 1, 1, 10, "low, high"),
        ([1], 1, math.inf, 10, "low, high"),
        ([1], 1, 2, 0, "bins"),
        ([0], 1, 2, 10, "sizes"),
        ([math.nan], 1, 2, 10, "sizes"),
        ([[1]], 1, 2, 10, "sizes"),
    ],
)
def test_size_coverage_refuses_what_has_no_log_range(sizes, low, high, bins, field):
    with pytest.raises(ValueError, match=rf"^{field}: expected"):
        size_coverage(sizes, low, high, bins)


def test_normalised_points_are_shares_of_chance_error_and_of_the_log_range():
    points = normalise([0.9, 0.45, 0.0, 1.0], [100, 1000, 10_000, 100], 0.9, 100, 10_000)
    np.testing.assert_allclose(points, [[1, 0], [0.5, 0.5], [0, 1], [10 / 9, 0]], atol=1e-12)


def test_front_hypervolume_is_one_for_the_ideal_and_zero_at_chance():
    assert front_hypervolume([0.0], [100], 0.9, 100, 10_000) == 1.0
    assert front_hypervolume([0.9], [100], 0.9, 100, 10_000) == 0.0
    assert front_hypervolume([0.95], [100], 0.9, 100, 10_000) == 0.0
    assert front_hypervolume([], [], 0.9, 100, 10_000) == 0.0
    # Half of the error over all sizes, and no error over the upper half of the sizes.
    assert front_hypervolume([0.45, 0.0], [100, 1000], 0.9, 100, 10_000) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("errors", "sizes", "chance", "field"),
    [
        ([0.1], [1, 2], 0.9, "sizes"),
        ([-0.1], [1], 0.9, "errors"),
        ([math.nan], [1], 0.9, "errors"),
        ([0.1], [1], 0.0, "chance_error"),
        ([0.1], [1], 1.1, "chance_error"),
        ([0.1], [5], 0.9, "sizes"),
    ],
)
def test_normalise_refuses_bad_input(errors, sizes, chance, field):
    with pytest.raises(ValueError, match=rf"^{field}: expected"):
        normalise(errors, sizes, chance, 1, 4)


@quick
@given(st.lists(st.integers(1, 500), min_size=1, max_size=30), st.integers(1, 12))
def test_spread_takes_distinct_members_with_both_ends_in_increasing_size(sizes, count):
    chosen = spread(sizes, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(sizes))
    assert [sizes[i] for i in chosen] == sorted(sizes[i] for i in chosen)
    assert sizes[chosen[0]] == min(sizes)
    if count >= 2:
        assert sizes[chosen[-1]] == max(sizes)


def test_spread_is_even_in_log_size():
    sizes = [4096.0, 1.0, 2048.0, 64.0, 100.0, 8.0, 3000.0, 512.0, 9.0]
    assert [sizes[i] for i in spread(sizes, 5)] == [1, 8, 64, 512, 4096]
    # Even in size instead of log size would take 2048.
    assert [sizes[i] for i in spread(sizes, 3)] == [1, 64, 4096]
    assert [sizes[i] for i in spread(sizes, 1)] == [1]


def test_spread_gives_each_target_a_member_of_its_own():
    # The target 10 is nearest to 31, as is 100, which must then go on to 990.
    sizes = [1, 1000, 31, 990, 2]
    assert [sizes[i] for i in spread(sizes, 4)] == [1, 31, 990, 1000]
    assert spread([7, 7, 7, 7], 3) == [0, 1, 3]
    # Equally near: the smaller one.
    assert [[1, 10, 1000, 10_000][i] for i in spread([1, 10, 1000, 10_000], 3)] == [1, 10, 10_000]


def test_spread_of_fewer_members_than_asked_for_is_all_of_them():
    assert spread([30, 10, 20], 5) == [1, 2, 0]
    assert spread([], 2) == []


@pytest.mark.parametrize(
    ("sizes", "count", "field"), [([1, 2], 0, "count"), ([1, 0], 2, "sizes"), ([1, math.inf], 2, "sizes")]
)
def test_spread_refuses_bad_input(sizes, count, field):
    with pytest.raises(ValueError, match=rf"^{field}: expected"):
        spread(sizes, count)


@pytest.mark.parametrize(("wrong", "total"), [(0, 10), (1, 1), (3, 17), (500, 1000), (10_000, 10_000)])
@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959963984540054), (0.99, 2.5758293035489004)])
def test_wilson_interval_follows_its_formula(wrong, total, confidence, z):
    rate = wrong / total
    centre = (rate + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(rate * (1 - rate) / total + z**2 / (4 * total**2))
    low, high = wilson_interval(wrong, total, confidence)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert low <= rate <= high


@pytest.mark.parametrize(
    ("wrong", "total", "confidence", "field"),
    [(0, 0, 0.95, "total"), (-1, 5, 0.95, "wrong"), (6, 5, 0.95, "wrong"), (1, 5, 1.0, "confidence")],
)
def test_wilson_interval_refuses_impossible_counts(wrong, total, confidence, field):
    with pytest.raises(ValueError, match=rf"^{field}: expected"):
        wilson_interval(wrong, total, confidence)


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_kendall_tau_counts_concordant_and_discordant_pairs(pairs):
    a, b = zip(*pairs, strict=True)
    score = untied_a = untied_b = 0
    for i, (x, y) in enumerate(pairs):
        for u, v in pairs[:i]:
            score += np.sign(x - u) * np.sign(y - v)
            untied_a += x != u
            untied_b += y != v
    if untied_a and untied_b:
        assert kendall_tau(a, b) == pytest.approx(score / math.sqrt(untied_a * untied_b))
    else:
        assert math.isnan(kendall_tau(a, b))


def test_kendall_tau_of_fewer_than_two_things_is_nan():
    assert math.isnan(kendall_tau([], []))
    assert math.isnan(kendall_tau([1], [2]))


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1]), ([1, 2], [1, math.nan])])
def test_kendall_tau_refuses_what_cannot_be_compared(a, b):
    with pytest.raises(ValueError, match=r"^b: expected"):
        kendall_tau(a, b)
