import dataclasses
import math
import random

import pytest

from bnas.records.networks import Rounded
from bnas.report.indicators import GenerationIndicators, network_hypervolume
from bnas.report.paired import Interval, PairedTest
from bnas.report.sentences import course_sentences, other_sentences, pair_sentence, rounding, verdict, worth
from tests import finished_run
from tests.finished_run import front, networks


def row(stage, generation, then, now, population=0.5):
    return GenerationIndicators(stage, generation, then, now, 0.4, 0.4, population, 0.3)


@pytest.mark.parametrize("observed", [-0.01, 0.0, 0.01])
def test_no_victory_is_claimed_where_the_interval_holds_zero(observed):
    said = verdict(Interval(observed, -0.02, 0.0, 0.02), 750)
    assert "within what 750 test images can tell" in said
    assert "beat" not in said


def test_a_victory_and_a_defeat_beyond_the_interval_are_said_plainly():
    won = verdict(Interval(0.02, 0.01, 0.02, 0.03), 750)
    assert "0.0200 above" in won
    assert "the front beats the random networks" in won
    lost = verdict(Interval(-0.02, -0.03, -0.02, -0.01), 750)
    assert "0.0200 **below**" in lost
    assert "the front is beaten by the random networks" in lost


def test_the_first_sentence_says_what_the_search_was_worth_and_whether_that_is_proven(tmp_path):
    finished_run.write(tmp_path)
    run = finished_run.read(tmp_path)
    unsure = worth(run, Interval(-0.002, -0.01, -0.002, 0.006))
    assert "by 0.20 points less often than random networks" in unsure
    assert "-1.00 to +0.60 points" in unsure
    assert "no difference is proven" in unsure
    lost = worth(run, Interval(0.02, 0.01, 0.02, 0.03))
    assert "by 2.00 points **more** often" in lost
    assert "outside the test split's uncertainty" in lost
    assert "not known" in worth(run, None)


def test_without_random_networks_nothing_is_compared():
    assert "nothing to compare" in verdict(None, 750)


def test_pairs_are_counted_each_way():
    tests = [PairedTest("a", "b", *wrong, 100) for wrong in ((0, 9), (1, 3), (4, 2), (5, 5))]
    said = pair_sentence(tests)
    assert "Of 4 pairs the front network is better in 2, worse in 1, equal in 1; 1 differ" in said
    assert "not corrected" in said


def test_the_course_is_told_from_the_numbers():
    rows = [row("stage1", 1, 0.1, 0.5), row("stage1", 2, 0.2, 0.7, 0.2), row("search", 3, 0.6, 0.6)]
    then, again, coverage = course_sentences(rows)
    assert "from 0.100 to 0.600" in then
    assert "0.500 in generation 1, 0.700 at the end of stage 1, 0.600 in the last, generation 3" in again
    assert "higher in the end than at the start" in again
    assert "rose in 1 of 2 steps; its maximum 0.700 was in generation 2" in again
    assert "lowest 0.20 in generation 2 (stage 1)" in coverage


def test_nothing_is_said_of_scores_that_were_not_taken():
    assert not any("final supernet" in said for said in course_sentences([row("search", 1, 0.1, math.nan)]))


def test_what_rounding_changed_is_said_over_all_networks_that_were_rounded():
    made = networks(front(random.Random(0)), random.Random(0))
    assert rounding(made) == ""
    made[0] = dataclasses.replace(made[0], rounded=Rounded(100, 4, 10, 12))
    made[1] = dataclasses.replace(made[1], rounded=Rounded(100, 1, 20, 19))
    said = rounding(made)
    assert "Errors are those of the files" in said
    assert "5 of 200 answers to validation images, which the training saw, changed: 30 were wrong before, 31" in said


def test_families_of_others_are_told_with_their_hypervolume(tmp_path):
    finished_run.write(tmp_path)
    run = finished_run.read(tmp_path)
    best = run.best
    same = dataclasses.replace(best, name="hand-8", role="hand", matched=None)
    large = dataclasses.replace(same, name="hand-64", size_bytes=run.space.largest_bytes + 1)
    small = dataclasses.replace(same, name="ebnas-1", role="published", size_bytes=run.space.smallest_bytes - 1)
    networks = (*(n for n in run.networks if n.role == "front"), same, large, small)
    answers = run.predictions | {network.name: run.predictions[best.name] for network in networks[-3:]}
    hand, published = other_sentences(dataclasses.replace(run, networks=networks, predictions=answers))
    assert hand.startswith("Designed by hand: hand-8 (")
    assert f"Hypervolume of these 2: {network_hypervolume(run, [best]):.4f}, of the front: " in hand
    # Smaller than everything in the space: as good as its smallest with that error.
    least = dataclasses.replace(best, size_bytes=run.space.smallest_bytes)
    assert f"Hypervolume of these 1: {network_hypervolume(run, [least]):.4f}, of the front: " in published
    assert "dominated by no network of the front" in published
