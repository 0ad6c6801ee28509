"""The studies of the trial judge by what they have not seen, and put random networks at zero."""

from __future__ import annotations

import random

import numpy as np
import pytest

from bnas.report.indicators import tau_at_equal_size
from bnas.search.trial import TrialPlan
from pipeline.params import load
from pipeline.trial import plan_of
from tests.benchmarks import simulation
from tests.benchmarks.ranking import left_out
from tests.bnas.search.test_trial import PROBLEM, loss
from tests.imports import ROOT


def test_what_is_expected_of_a_row_does_not_know_its_result() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(30, 3))
    results = matrix @ [1.0, 2.0, 0.0]
    values = left_out(matrix, results, 1)
    assert np.corrcoef(values, results)[0, 1] > 0.9
    changed = results.copy()
    changed[4] += 5
    again = left_out(matrix, changed, 1)
    assert again[4] == pytest.approx(values[4])
    assert abs(again - values).max() > 0.01, "others learn from it"


def test_tau_at_equal_size_does_not_see_what_size_alone_decides() -> None:
    edges = np.array([1.0, 10.0, 100.0])
    sizes, losses = [2, 3, 4, 20, 30, 40], [1.0, 2.0, 3.0, 11.0, 12.0, 13.0]
    assert tau_at_equal_size(losses, losses, sizes, edges) == pytest.approx(1)
    assert tau_at_equal_size([3, 2, 1, 13, 12, 11], losses, sizes, edges) == pytest.approx(-1)
    assert np.isnan(tau_at_equal_size([1, 2], [1, 2], [2, 20], edges))


def test_in_a_simulated_world_random_networks_lie_at_zero_and_a_trial_finds_better_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = PROBLEM.sampler(random.Random(1), 60)
    world = simulation.World(PROBLEM, {each: loss(each, 1) for each in drawn})
    assert abs(world.below_random(PROBLEM.sampler(random.Random(2), 300))) < 0.2
    monkeypatch.setattr(simulation, "first", lambda plan, *_: dict.fromkeys(drawn[: plan.population], "random"))
    plan: TrialPlan = plan_of(load(ROOT / "params.yaml").trial)
    assert simulation.found(world, PROBLEM, plan) > 0.5
