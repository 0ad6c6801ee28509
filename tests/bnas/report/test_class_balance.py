"""What is told of classes that differ in size: counts, the largest, balanced errors; nothing where they are even."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bnas.records.training import Predictions
from bnas.report import indicators, paired, plot_data, sentences
from bnas.report.network_tables import network_table
from bnas.report.page.network_views import picks
from bnas.report.story import search_story
from tests import finished_run

LABELS = np.repeat([0, 1], [380, 20])


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finished_run.write(folder)
    return finished_run.read(folder)


def uneven(run, mistakes, error="plain"):
    """The run on 380 cats and 20 dogs; network → (cats, dogs) taken for the other, those not named always say cat."""
    networks, predictions = [], {}
    for network in run.networks:
        cats, dogs = mistakes.get(network.name, (0, 20))
        answers = LABELS.copy()
        answers[:cats] = 1
        answers[380 : 380 + dogs] = 0
        predictions[network.name] = Predictions(LABELS, answers)
        networks.append(dataclasses.replace(network, wrong=cats + dogs))
    dataset = dataclasses.replace(run.dataset, classes=("cat", "dog"))
    space = dataclasses.replace(run.space, chance_error=0.5 if error == "balanced" else 0.05)
    made = {"networks": tuple(networks), "predictions": predictions, "dataset": dataset, "space": space}
    return dataclasses.replace(run, **made, error=error)


def named(run, name):
    return next(network for network in run.networks if network.name == name)


def text(run):
    return search_story(run, 10, "", "").markdown("svg")


def test_a_balanced_error_is_the_mean_of_the_errors_within_each_class(even):
    run = uneven(even, {"front-1": (38, 5)})
    assert run.balanced_error(named(run, "front-1")) == pytest.approx((38 / 380 + 5 / 20) / 2)
    assert run.balanced_error(named(run, "front-2")) == pytest.approx(0.5)
    for network in even.networks:  # 40 images of each class
        assert even.balanced_error(network) == pytest.approx(network.test_error)


def test_counts_the_largest_class_and_the_lowest_balanced_error_are_told(even):
    (said,) = sentences.class_sentences(uneven(even, {"front-1": (0, 10), "front-2": (19, 1)}))
    assert "Test images by class: cat 380, dog 20." in said
    assert "Always naming the largest, cat, is 5.00 % test error and 50.00 % balanced error" in said
    assert said.endswith("Lowest balanced error: front-2, 5.00 %.")
    run = uneven(even, {"front-1": (0, 10), "front-2": (19, 1)})
    rows = {row["network"].split()[0]: row["balanced error, %"] for row in network_table(run).rows}
    assert (rows["front-1"], rows["front-2"], rows["front-3"]) == ("25.00", "5.00", "50.00")
    metrics = plot_data.metrics(run)
    assert (metrics["best_error"], metrics["best_balanced_error"], metrics["majority_error"]) == (0.025, 0.05, 0.05)
    points = {row["network"]: row.get("balanced_error") for row in plot_data.pareto_rows(run)}
    assert (points["front-1"], points["front-2"], points["front-3"]) == (0.25, 0.05, 0.5)
    assert not any("balanced_error" in row for row in plot_data.pareto_rows(even))


@pytest.mark.parametrize("error", ["plain", "balanced"])
def test_a_front_no_better_than_naming_the_largest_class_is_said_plainly(even, error):
    warning = "**No network of the front is better than always naming one class, cat: "
    kind = (
        "5.00 % test error against 5.00 %.**" if error == "plain" else "50.00 % balanced test error against 50.00 %.**"
    )
    assert f"{warning}{kind}" in text(uneven(even, {}, error))
    # 21 and 47 % of mistakes look useful only beside one half.
    assert ("**No network" in text(uneven(even, {f"front-{i}": (70, 10) for i in (1, 2, 3, 4)}, error))) == (
        error == "plain"
    )
    assert "**No network" not in text(uneven(even, {"front-3": (2, 10)}, error))


def test_even_classes_make_no_further_words_columns_or_metrics(even):
    assert not even.shows_balanced
    assert sentences.class_sentences(even) == []
    assert "balanced" not in text(even)
    assert not {"best_balanced_error", "majority_error"} & plot_data.metrics(even).keys()


def test_the_hypervolume_is_of_the_error_that_was_minimised(even):
    mistakes = {"front-1": (38, 0), "front-2": (0, 10)}
    plain, balanced = (uneven(even, mistakes, error) for error in ("plain", "balanced"))
    only = [named(plain, "front-1")]
    assert indicators.network_hypervolume(plain, only) == 0.0  # 9.5 % of all, where naming cats is 5 %
    size = only[0].size_bytes
    share = 1 - np.log(size / 4000) / np.log(4)
    assert indicators.network_hypervolume(balanced, only) == pytest.approx((1 - 0.05 / 0.5) * share)
    assert "balanced error divided by that of guessing (50 %)" in text(balanced)
    interval = paired.hypervolume_difference(balanced, resamples=50)
    sides = [
        indicators.network_hypervolume(balanced, side)
        for side in (balanced.of_role("front"), balanced.of_role("random"))
    ]
    assert interval.observed == pytest.approx(sides[0] - sides[1])


def test_the_network_that_is_picked_by_its_error_is_picked_by_the_one_that_was_minimised(even):
    mistakes = {"front-1": (0, 10), "front-2": (38, 0)}
    plain, balanced = (uneven(even, mistakes, error) for error in ("plain", "balanced"))
    assert (plain.best.name, balanced.best.name) == ("front-1", "front-2")
    assert "front-2 †" in text(balanced)
    assert "lowest balanced test error of 4 networks" in text(balanced)
    assert {row["network"] for row in plot_data.confusion_rows(balanced)} == {"front-2"}
    assert "most accurate" in next(pick.reasons for pick in picks(balanced) if pick.network.name == "front-2")


def test_of_many_classes_the_ends_and_the_median_are_named(even):
    labels = np.repeat(np.arange(20), np.arange(1, 21))
    answers = Predictions(labels, labels)
    run = dataclasses.replace(
        even,
        dataset=dataclasses.replace(even.dataset, classes=tuple(f"c{i}" for i in range(20))),
        networks=tuple(dataclasses.replace(n, wrong=0, test_images=len(labels)) for n in even.networks),
        predictions={network.name: answers for network in even.networks},
    )
    (said,) = sentences.class_sentences(run)
    assert "Test images by class: c19 20 to c0 1 (median 10.5, 20 classes)." in said
