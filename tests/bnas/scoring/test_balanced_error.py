"""Balanced errors: every class counts the same, however many images it has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.data.batches import MiniBatches
from bnas.data.split import Split
from bnas.data.split_rows import balancing
from bnas.scoring.supernet_scorer import ScoringData, supernet_scorer
from bnas.search.pareto import guessing_error
from tests.bnas import tiny

LABELS = np.repeat([0, 1, 2, 3], [30, 12, 4, 2])
UNEVEN = Split(np.random.default_rng(0).integers(0, 255, (48, 8, 8, 1)).astype(np.uint8), LABELS)


def scorer_of(net, split=UNEVEN, **changes):
    data = ScoringData(tiny.split(40, seed=2), split, tiny.NORMALISE)
    return supernet_scorer(net, tiny.scoring(**changes), data, 0)


def class_errors(net, scorer, genotype):
    """Class → the share of its images that a path gets wrong, on the mini-batches as they are cut."""
    wrong, images = np.zeros(4), np.zeros(4)
    with torch.no_grad():
        for index in range(len(scorer.batches)):
            x, y = scorer.batches[index]
            np.add.at(wrong, y.numpy(), (net(x, genotype).argmax(1) != y).numpy())
            np.add.at(images, y.numpy(), 1)
    return wrong / images


def test_the_balanced_error_on_the_whole_split_is_the_mean_of_the_errors_within_each_class():
    net = tiny.trained_supernet(2)
    scorer = scorer_of(net, balanced=True)
    everything = len(scorer.batches)
    for genotype in tiny.genotypes(4):
        expected = class_errors(net, scorer, genotype).mean()
        assert scorer.error(genotype, everything) == pytest.approx(expected, abs=1e-12)
        counted = round(float((class_errors(net, scorer, genotype) * np.bincount(LABELS)).sum()))
        assert scorer.wrong(genotype, everything) == counted


@pytest.mark.parametrize("named", range(4))
def test_whoever_always_names_one_class_has_the_error_of_guessing_and_on_a_part_what_the_others_weigh(named):
    def net(x, genotype):
        return torch.eye(4)[named].expand(len(x), 4)

    batches = MiniBatches(UNEVEN, 24, tiny.NORMALISE, 0, balanced=True)
    scorer = tiny.scorer(net, batches)
    (genotype,) = tiny.genotypes(1)
    assert scorer.error(genotype, 2) == pytest.approx(0.75, abs=1e-12)
    images = np.bincount(batches[0][1].numpy(), minlength=4)
    weights = images / np.bincount(LABELS)
    assert scorer.error(genotype, 1) == pytest.approx(1 - weights[named] / weights.sum(), abs=1e-12)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(0, 99), st.booleans())
@settings(max_examples=30, deadline=None)
def test_all_wrong_is_an_error_of_exactly_one_and_nothing_wrong_of_zero(counts, seed, right):
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.broadcast_to(labels[:, None, None, None], (len(labels), 8, 8, 1)).astype(np.uint8)
    batches = MiniBatches(Split(images, labels), min(7, len(labels)), tiny.NORMALISE, seed, balanced=True)

    def net(x, genotype):
        y = torch.tensor(tiny.numbers(x))
        return torch.nn.functional.one_hot(y if right else (y + 1) % len(counts), len(counts)).float()

    (genotype,) = tiny.genotypes(1)
    scorer = tiny.scorer(net, batches)
    assert {scorer.error(genotype, count) for count in range(1, len(batches) + 1)} == {0.0 if right else 1.0}
    assert batches.weight(len(batches)) == pytest.approx(len(labels))


def test_a_weight_makes_all_classes_weigh_the_same_and_images_one_on_average():
    weights = balancing(LABELS)
    assert [weights[label == LABELS].sum() for label in range(4)] == pytest.approx([12] * 4)
    assert weights.mean() == pytest.approx(1)
    assert balancing(np.arange(8) % 4).tolist() == [1.0] * 8


def test_the_plain_error_is_the_share_of_wrong_answers_to_the_last_bit():
    net = tiny.trained_supernet(2)
    scorer = scorer_of(net)
    for genotype in tiny.genotypes(4):
        for count in (1, 3, len(scorer.batches)):
            assert scorer.error(genotype, count) == scorer.wrong(genotype, count) / scorer.batches.images(count)


def test_the_error_of_guessing_is_that_of_always_naming_the_largest_class():
    labels = np.repeat([0, 1], [380, 20])
    assert guessing_error(labels) == pytest.approx(0.05)
    assert guessing_error(labels, balanced=True) == 0.5
    for classes in (2, 3, 7, 10, 100):
        even = np.arange(classes * 30) % classes
        assert guessing_error(even) == guessing_error(even, balanced=True) == 1 - 1 / classes, "to the last bit"
