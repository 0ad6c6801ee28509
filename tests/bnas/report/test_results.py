import dataclasses
import math
import random

import numpy as np
import pytest

from bnas.records.training import Predictions
from bnas.report import indicators, paired, plot_data, sentences
from bnas.report.paired import PairedTest
from bnas.search import pareto
from tests import finished_run
from tests.finished_run import IMAGES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    finished_run.write(root)
    return finished_run.read(root)


def exact_p(first, second):
    """Two-sided binomial test with probability 1/2, from its definition."""
    total = first + second
    outcomes = [math.comb(total, k) for k in range(total + 1)]
    return sum(ways for ways in outcomes if ways <= math.comb(total, first)) / 2**total


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 1), (0, 6), (2, 9), (10, 4), (15, 16)])
def test_mcnemar_equals_the_count_by_hand(first, second):
    assert PairedTest("a", "b", first, second, 100).p_value == pytest.approx(exact_p(first, second))


def test_networks_that_never_disagree_do_not_differ():
    test = PairedTest("a", "b", 0, 0, 100)
    assert (test.p_value, test.difference) == (1.0, 0.0)


def test_a_paired_test_counts_the_images_that_one_network_alone_gets_wrong(run):
    first, (other,) = run.matched[0]
    labels = np.arange(IMAGES) % 10
    one, two = labels.copy(), labels.copy()
    one[:7] += 1
    two[4:6] += 1
    answers = {**run.predictions, first.name: Predictions(labels, one), other.name: Predictions(labels, two)}
    networks = tuple(
        dataclasses.replace(n, wrong={first.name: 7, other.name: 2}.get(n.name, n.wrong)) for n in run.networks
    )
    test = paired.paired_test(dataclasses.replace(run, predictions=answers, networks=networks), first.name, other.name)
    assert (test.only_first_wrong, test.only_second_wrong) == (5, 0)
    assert test.difference == pytest.approx(5 / IMAGES)


def test_the_interval_of_a_front_and_its_exact_copy_has_no_width(run):
    copies = {other.name: run.predictions[first.name] for first, (other,) in run.matched}
    wrong = {other.name: first.wrong for first, (other,) in run.matched}
    networks = tuple(dataclasses.replace(n, wrong=wrong.get(n.name, n.wrong)) for n in run.networks)
    same = dataclasses.replace(run, predictions={**run.predictions, **copies}, networks=networks)
    interval = paired.hypervolume_difference(same, resamples=50)
    assert interval == paired.Interval(0.0, 0.0, 0.0, 0.0)
    assert not interval.excludes_zero


def test_the_interval_holds_the_observed_difference_and_is_seeded(run):
    interval = paired.hypervolume_difference(run, resamples=200)
    assert interval.low < interval.observed < interval.high
    assert interval.low < interval.median < interval.high
    assert interval == paired.hypervolume_difference(run, resamples=200)
    assert interval != paired.hypervolume_difference(run, resamples=200, seed=1)


def test_the_observed_difference_is_that_of_the_two_hypervolumes(run):
    space = run.front.space
    sides = run.of_role("front"), run.of_role("random")
    front, other = (
        pareto.front_hypervolume(
            [n.test_error for n in side],
            [n.size_bytes for n in side],
            space.chance_error,
            space.smallest_bytes,
            space.largest_bytes,
        )
        for side in sides
    )
    interval = paired.hypervolume_difference(run, resamples=2)
    assert interval.observed == pytest.approx(front - other)
    metrics = plot_data.metrics(run)
    assert metrics["hypervolume"] == pytest.approx(front, abs=1e-6)
    assert metrics["hypervolume_random"] == pytest.approx(other, abs=1e-6)
    assert metrics["margin_low"] <= metrics["hypervolume"] - metrics["hypervolume_random"] <= metrics["margin_high"]
    others = [indicators.family_hypervolume(run, run.of_role(role)) for role in ("hand", "published")]
    assert metrics["hv_others"] == pytest.approx(max(others), abs=1e-6)


def test_the_gain_is_the_mean_over_pairs_of_the_difference_of_errors(run):
    expected = np.mean([first.test_error - other.test_error for first, (other,) in run.matched])
    interval = paired.error_difference(run, resamples=200)
    assert interval.observed == pytest.approx(expected)
    assert interval.low <= interval.median <= interval.high
    assert interval == paired.error_difference(run, resamples=200)
    assert plot_data.metrics(run)["gain"] == round(-100 * expected, 2)


def test_the_gain_of_a_front_over_its_exact_copy_is_zero_without_a_sign(run):
    copies = {other.name: run.predictions[first.name] for first, (other,) in run.matched}
    wrong = {other.name: first.wrong for first, (other,) in run.matched}
    networks = tuple(dataclasses.replace(n, wrong=wrong.get(n.name, n.wrong)) for n in run.networks)
    same = dataclasses.replace(run, predictions={**run.predictions, **copies}, networks=networks)
    assert str(plot_data.metrics(same)["gain"]) == "0.0"


def test_several_random_networks_of_a_size_count_by_their_mean(run):
    (_, (other,)), *_ = run.matched
    wrong = run.predictions[other.name]
    again = dataclasses.replace(other, name="random-1-2")
    more = dataclasses.replace(
        run, networks=(*run.networks, again), predictions={**run.predictions, "random-1-2": wrong}
    )
    assert [len(others) for _, others in more.matched] == [2, 1, 1, 1]
    assert paired.error_difference(more, resamples=2).observed == pytest.approx(
        paired.error_difference(run, resamples=2).observed
    )
    assert more.random_fronts == run.random_fronts, "hypervolumes are compared at equal counts"


def test_hypervolume_is_compared_with_the_mean_of_as_many_random_fronts_as_there_are_of_each_size(run):
    perfect = Predictions(run.labels, run.labels)
    twins = [dataclasses.replace(n, name=f"{n.name}-2", wrong=0) for n in run.of_role("random")]
    answers = {**run.predictions, **{twin.name: perfect for twin in twins}}
    more = dataclasses.replace(run, networks=(*run.networks, *twins), predictions=answers)
    first, second = more.random_fronts
    assert (first, second) == (run.of_role("random"), tuple(twins))
    one, two = (indicators.network_hypervolume(more, front) for front in (first, second))
    assert one < two
    metrics = plot_data.metrics(more)
    assert metrics["hypervolume_random"] == pytest.approx((one + two) / 2, abs=1e-6)
    observed = paired.hypervolume_difference(more, resamples=2).observed
    assert observed == pytest.approx(metrics["hypervolume"] - (one + two) / 2, abs=1e-6)


def test_relative_improvement_is_of_accuracies(run):
    front = np.mean([1 - first.test_error for first, _ in run.matched])
    other = np.mean([1 - second.test_error for _, (second,) in run.matched])
    assert paired.relative_improvement(run) == pytest.approx(100 * (front - other) / other)


def test_beside_random_networks_that_are_always_wrong_there_is_no_relative_improvement(run):
    always = Predictions(run.labels, (run.labels + 1) % 10)
    answers = {**run.predictions, **{n.name: always for n in run.of_role("random")}}
    networks = tuple(dataclasses.replace(n, wrong=IMAGES) if n.role == "random" else n for n in run.networks)
    hopeless = dataclasses.replace(run, networks=networks, predictions=answers)
    assert math.isnan(paired.relative_improvement(hopeless))
    sentence = sentences.worth(hopeless, paired.error_difference(hopeless, resamples=200))
    assert "relative" not in sentence
    assert "nan" not in sentence
    assert "% relative)" in sentences.worth(run, paired.error_difference(run, resamples=200))


def test_an_interval_on_one_side_of_zero_excludes_it():
    assert paired.Interval(0.2, 0.1, 0.2, 0.3).excludes_zero
    assert paired.Interval(-0.2, -0.3, -0.2, -0.1).excludes_zero
    assert not paired.Interval(0.1, -0.1, 0.1, 0.3).excludes_zero


def test_a_run_without_random_networks_is_not_compared(run):
    alone = dataclasses.replace(run, networks=run.of_role("front", "hand"))
    assert alone.matched == alone.random_fronts == ()
    assert paired.hypervolume_difference(alone) is None
    assert paired.error_difference(alone) is None
    assert math.isnan(paired.relative_improvement(alone))
    assert plot_data.metrics(alone)["gain"] is None
    assert plot_data.metrics(alone)["hypervolume_random"] is None


def tried(run, **columns):
    """The run with a trial of networks that differ from its first one in these columns."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return dataclasses.replace(run, trial=tuple(dataclasses.replace(run.trial[0], **row) for row in rows))


def test_losses_by_origin_are_above_those_of_their_size(run):
    sizes = [5000.0 * 1.1**i for i in range(12)]
    usual = [1 + (math.log(size) - 9) ** 2 for size in sizes]
    better = [0.1 * (-1) ** (i // 2 % 2) for i in range(12)]
    origins = ["random" if shift > 0 else "offspring" for shift in better]
    losses = [loss + shift for loss, shift in zip(usual, better, strict=True)]
    found = indicators.loss_by_origin(tried(run, size_bytes=sizes, loss=losses, origin=origins))
    assert found == pytest.approx({"random": 0.1, "offspring": -0.1}, abs=0.03)
    assert indicators.loss_by_origin(tried(run, size_bytes=sizes[:2], loss=[1.0, 2.0])) == {}


def test_the_supernet_s_score_is_compared_with_losses_over_all_sizes_and_within_bins(run):
    # Two sizes: small networks have lower losses and higher scores; within each size the scores order the losses.
    small, large = run.space.smallest_bytes, run.space.largest_bytes
    columns = {
        "size_bytes": [small] * 3 + [large] * 3,
        "loss": [1.0, 1.1, 1.2, 2.0, 2.1, 2.2],
        "supernet_error": [0.7, 0.8, 0.9, 0.1, 0.2, 0.3],
    }
    everywhere, equal = indicators.supernet_worth(tried(run, **columns))
    assert equal == 1.0
    assert everywhere == pytest.approx((6 - 9) / 15)


def test_metrics_are_those_of_the_front_networks(run):
    front = run.of_role("front")
    metrics = plot_data.metrics(run)
    assert metrics["best_error"] == min(n.test_error for n in front)
    assert metrics["smallest_kib"] == pytest.approx(front[0].size_bytes / 1024)
    assert -1 <= metrics["tau"] <= 1


def test_an_undefined_tau_is_no_number(run):
    unscored = tuple(dataclasses.replace(network, supernet_error=None) for network in run.networks)
    assert plot_data.metrics(dataclasses.replace(run, networks=unscored))["tau"] is None


def test_only_networks_with_a_partner_are_paired_and_sizes_agree(run):
    assert len(run.matched) == 4
    for first, (other,) in run.matched:
        assert (first.role, other.role) == ("front", "random")
        assert other.matched == first.name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: {"networks": run.of_role("random")}, "at least one of the front"),
        (lambda run: {"predictions": {}}, "found none"),
        (
            lambda run: {"networks": (dataclasses.replace(run.networks[0], wrong=1), *run.networks[1:])},
            "expected 1 mistakes",
        ),
        (
            lambda run: {
                "predictions": {
                    **run.predictions,
                    "hand-4": Predictions(np.zeros(IMAGES, int), np.zeros(IMAGES, int)),
                }
            },
            "expected the labels that front-1 was tested on",
        ),
    ],
)
def test_records_that_contradict_each_other_are_refused(run, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(run, **change(run))


def test_generations_are_measured_by_their_front_and_their_population(run):
    rows = indicators.generation_indicators(run, 10)
    space = run.front.space
    for row, record in zip(rows, run.generations, strict=True):
        sizes = [m.size_bytes for m in record.members]
        bounds = (space.chance_error, space.smallest_bytes, space.largest_bytes)
        assert row.hypervolume == pareto.front_hypervolume([m.error for m in record.members], sizes, *bounds)
        assert row.rescored_hypervolume == pareto.front_hypervolume(
            [m.rescored_error for m in record.members], sizes, *bounds
        )
        assert row.size_coverage <= row.population_coverage
        assert 0 <= row.parameter_free_share <= 1


def test_a_generation_that_was_not_rescored_has_no_rescored_indicators(run):
    first = run.generations[0]
    members = tuple(dataclasses.replace(m, rescored_error=None) for m in first.members)
    changed = dataclasses.replace(run, generations=(dataclasses.replace(first, members=members),))
    (row,) = indicators.generation_indicators(changed, 10)
    assert math.isnan(row.rescored_hypervolume)
    assert not math.isnan(row.hypervolume)


def test_operation_shares_add_up_to_one():
    for record in finished_run.generations(random.Random(3)):
        assert sum(indicators.operation_shares(record).values()) == pytest.approx(1.0)


def test_an_answer_that_is_no_class_is_refused(run):
    name = run.networks[0].name
    answers = run.predictions[name]
    spoilt = answers.predictions.copy()
    spoilt[np.flatnonzero(~answers.correct)[0]] = len(run.dataset.classes)
    predictions = {**run.predictions, name: dataclasses.replace(answers, predictions=spoilt)}
    with pytest.raises(ValueError, match=rf"predictions of {name}: expected classes below 10, found 10"):
        dataclasses.replace(run, predictions=predictions)
