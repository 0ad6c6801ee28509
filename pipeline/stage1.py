"""Stage `stage1`: warm-up on uniform paths, then co-evolution for the first T/2 generations."""

from __future__ import annotations

import sys

from bnas.training.ranks import ALONE, Ranks
from pipeline import build, supernet
from pipeline.config import dataset
from pipeline.processes import main
from pipeline.stage import Stage


def run(stage: Stage, ranks: Ranks = ALONE) -> None:
    """Train a new supernet and evolve a new population with it."""
    params, description = stage.params, dataset()
    problem = build.problem(params, description)
    weights = build.new_supernet(params, description, problem.space, params.stage1.seed)
    supernet.run(stage, params.stage1, weights, problem, [], first_generation=1, ranks=ranks)


if __name__ == "__main__":
    sys.exit(main("stage1", run))
