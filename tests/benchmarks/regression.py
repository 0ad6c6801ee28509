"""What the trial's regression gains by seeing the supernet's errors: tau-b of its expectations with training losses.

On the networks that the trial of the last run trained (`make run` comes first), each tenth expected from the other
nine, in ten random divisions. Equal size: within the trial's bins, weighted by the pairs in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.records.trial import read_trial
from bnas.search.network_regression import Features, NetworkRegression
from bnas.search.pareto import kendall_tau
from pipeline import build
from pipeline.config import dataset
from pipeline.params import load
from pipeline.trial import RESULT
from tests.benchmarks.measure import spread
from tests.benchmarks.text import table as markdown

DIVISIONS = 10
FOLDS = 10


def regression() -> list[dict[str, Any]]:
    """A row for what the regression does today, and one for the supernet's error as a further column."""
    params = load("params.yaml")
    problem = build.problem(params, dataset())
    networks = [each for each in read_trial(RESULT / "networks.json") if each.epochs == params.trial.epochs]
    errors = np.array([np.nan if each.supernet_error is None else each.supernet_error for each in networks])
    if not networks or np.isnan(errors).any():
        raise SystemExit("regression: expected a trial with errors in a supernet: make run with trial.source: search")
    seen = Features(problem.space, (problem.costs.size, problem.costs.ops))([each.genotype for each in networks])
    losses = np.array([each.loss for each in networks])
    low, high = problem.costs.size_range()
    edges = np.geomspace(low, high, params.trial.bins + 1)
    bins = np.searchsorted(edges[1:-1], [each.size_bytes for each in networks], side="right")
    rows = {"cells, size, operations": seen, "the supernet's error, too": np.column_stack([seen, errors])}
    return [
        {
            "what it sees": name,
            "networks": len(networks),
            "tau, equal size (quartiles)": spread(
                [within(bins, expected(matrix, losses, seed), losses) for seed in range(DIVISIONS)]
            ),
        }
        for name, matrix in rows.items()
    ]


def expected(matrix: NDArray[np.float64], losses: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """What is expected of every network by the other parts of a division."""
    part = np.random.default_rng(seed).permutation(len(losses)) % FOLDS
    values = np.zeros(len(losses))
    for each in range(FOLDS):
        inside = part == each
        values[inside] = NetworkRegression(matrix[~inside], losses[~inside].tolist())(matrix[inside])
    return values


def within(bins: NDArray[np.intp], values: NDArray[np.float64], losses: NDArray[np.float64]) -> float:
    """Tau within bins."""
    places = [bins == each for each in np.unique(bins)]
    places = [place for place in places if place.sum() > 1]
    taus = [kendall_tau(values[place], losses[place]) for place in places]
    return float(np.average(taus, weights=[place.sum() * (place.sum() - 1) for place in places]))


def text(found: Mapping[str, Any]) -> list[str]:
    """The section of the report."""
    parts = [part.replace("\n", " ") for part in (__doc__ or "").strip().split("\n\n")]
    return ["## What the trial's regression sees", parts[1], markdown(found["regression"])]


MEASURES = {"regression": regression}
