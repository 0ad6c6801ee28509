"""What the trial's regression gains by seeing the supernet's errors: tau-b of its expectations with training losses.

On the networks that the trial of the last run trained (`make run` comes first), each tenth expected from the other
nine, in ten random divisions. Equal size: within equal bins of log size, as the report has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnas.records.trial import read_trial
from bnas.report.indicators import tau_at_equal_size
from bnas.search.network_regression import Features
from pipeline import build
from pipeline.config import dataset
from pipeline.params import load
from pipeline.trial import RESULT
from tests.benchmarks.measure import spread
from tests.benchmarks.ranking import left_out
from tests.benchmarks.text import table as markdown

DIVISIONS = 10


def regression() -> list[dict[str, Any]]:
    """A row for what the regression does today, and one for the supernet's error as a further column."""
    params = load("params.yaml")
    problem = build.problem(params, dataset())
    networks = [each for each in read_trial(RESULT / "networks.json") if each.epochs == params.trial.epochs]
    errors = np.array([np.nan if each.supernet_error is None else each.supernet_error for each in networks])
    if not networks or np.isnan(errors).any():
        raise SystemExit("regression: expected a trial with errors in a supernet: make run with trial.source: search")
    seen = Features(problem.space, (problem.costs.size, problem.costs.ops))([each.genotype for each in networks])
    losses, sizes = np.array([each.loss for each in networks]), [each.size_bytes for each in networks]
    edges = np.geomspace(*problem.costs.size_range(), params.trial.bins + 1)
    rows = {"cells, size, operations": seen, "the supernet's error, too": np.column_stack([seen, errors])}
    return [
        {
            "what it sees": name,
            "networks": len(networks),
            "tau, equal size (quartiles)": spread(
                [tau_at_equal_size(left_out(matrix, losses, seed), losses, sizes, edges) for seed in range(DIVISIONS)]
            ),
        }
        for name, matrix in rows.items()
    ]


def text(found: Mapping[str, Any]) -> list[str]:
    """The section of the report."""
    parts = [part.replace("\n", " ") for part in (__doc__ or "").strip().split("\n\n")]
    return ["## What the trial's regression sees", parts[1], markdown(found["regression"])]


MEASURES = {"regression": regression}
