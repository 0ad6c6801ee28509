"""Stage `latency_table`: what every operation takes in time at every place, if the search is to minimise time.

Measured once and then frozen: the search depends on its file. With another resource the file says that nothing was
measured, the same on every machine.
"""

from __future__ import annotations

import random
import sys

import numpy as np

from bnas.edges import latency_table
from bnas.packed.latency import measure, network_seconds
from bnas.results import MeasuredLatencies
from bnas.space import distinct
from pipeline.config import dataset, network_config, search_space
from pipeline.stage import Stage, main, write_json

CHECKED = 24
"""Whole networks that the sums are compared with."""


def run(stage: Stage) -> None:
    """Measure if need be, and compare sums with whole networks."""
    params, description = stage.params, dataset()
    table, correlation = None, None
    if params.objectives.resource == "latency":
        space, config = search_space(params), network_config(params, description, params.network.final)
        image = description.image
        table = measure(config, space, image.height, image.width)
        sums = latency_table(table, space)
        rng = random.Random(0)
        genotypes = distinct(lambda: space.sample_mixed(rng), CHECKED)
        whole = [network_seconds(config, g, image.height, image.width) for g in genotypes]
        if len(genotypes) > 2:
            correlation = round(float(np.corrcoef([sums(g) for g in genotypes], whole)[0, 1]), 4)
    stage.metrics["latency_correlation"] = correlation
    write_json(stage.out / "table.json", MeasuredLatencies(table).to_dict())


if __name__ == "__main__":
    sys.exit(main("latency_table", run))
