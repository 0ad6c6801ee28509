"""Stage `retrain` of a transfer: members of a front from elsewhere and baselines of their sizes, on other images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas.nn.cost import CostTable
from bnas.records.search import Front, SpaceRange, read_front
from bnas.search.pareto import guessing_error
from bnas.space.search_space import SearchSpace
from bnas.training.ranks import ALONE, Ranks
from pipeline import build, retrain
from pipeline.config import dataset
from pipeline.processes import main
from pipeline.stage import Stage, write_json
from pipeline.stage.side import PROJECT
from pipeline.transfer.params import TransferParams
from pipeline.transfer.stage import TRANSFER


def run(stage: Stage, ranks: Ranks = ALONE) -> None:
    """Choose networks by their size at the transfer's scale, and train them as the main pipeline does."""
    params, description = stage.params, dataset()
    assert isinstance(params, TransferParams)
    path = PROJECT / params.source.front
    front = read_front(path)
    costs = build.cost_table(params, description, space(front, params.source.operations, path))
    test = build.split("test", description, stage.params.runtime)  # so that a broken one is refused before the training
    chosen = retrain.of_front([each.genotype for each in front.members], params.retrain, costs, lambda genotype: None)
    retrain.train(stage, chosen, description, ranks)
    if not ranks.is_main:
        return
    write_json(stage.out / "space.json", space_range(costs, test.labels).to_dict())


def space(front: Front, operations: tuple[str, ...], path: Path) -> SearchSpace:
    """The space that the front was searched in. Raises ValueError for a member outside it."""
    first = front.members[0].genotype
    searched = SearchSpace(operations, first.nodes, first.space)
    for member in front.members:
        try:
            searched.validate(member.genotype)
        except ValueError as error:
            raise ValueError(f"{path}: {member.key}: {error} (see transfer.source.operations)") from None
    return searched


def space_range(costs: CostTable, labels: NDArray[np.int64]) -> SpaceRange:
    """The fixed frame of the indicators for images of these labels `[N]`, and this scale."""
    smallest, largest = costs.size_range()
    return SpaceRange(smallest, largest, guessing_error(labels))


if __name__ == "__main__":
    TRANSFER.enter()
    sys.exit(main("retrain", run, TRANSFER.parameters, "pipeline.transfer.retrain"))
