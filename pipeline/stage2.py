"""Stage `stage2`: the supernet and population of stage 1 go on for T/2 generations with path dropout."""

from __future__ import annotations

import sys
from pathlib import Path

from bnas.records.search import read_generations
from bnas.training.ranks import ALONE, Ranks
from pipeline import build, supernet
from pipeline.config import dataset
from pipeline.processes import main
from pipeline.stage import Stage

STAGE1 = Path("data/stage1")


def run(stage: Stage, ranks: Ranks = ALONE) -> None:
    """Continue from stage 1's weights, population and count of generations."""
    params, description = stage.params, dataset()
    problem = build.problem(params, description)
    weights = build.load_supernet(params, description, problem.space, STAGE1 / "supernet.safetensors")
    population = build.read_genotypes(STAGE1 / "population.json", problem.space)
    first = len(read_generations(STAGE1 / "generations.json")) + 1
    supernet.run(
        stage,
        params.stage2,
        weights,
        problem,
        population,
        first_generation=first,
        ranks=ranks,
        dropout=params.stage2.path_dropout,
    )


if __name__ == "__main__":
    sys.exit(main("stage2", run))
