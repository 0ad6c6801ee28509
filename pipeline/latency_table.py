"""Stage `latency_table`: what every operation takes in time at every place, if the search is to minimise time.

Measured once and then frozen: the search depends on its file. With another resource the file says that nothing was
measured, the same on every machine.
"""

from __future__ import annotations

import sys
import warnings

from bnas.packed.latency import CHECKED, LEAST_CORRELATION, check, measure
from bnas.records.latencies import MeasuredLatencies
from pipeline.config import dataset, network_config, search_space
from pipeline.stage import Stage, main, write_json


def run(stage: Stage) -> None:
    """Measure if need be, and compare sums with whole networks."""
    params, description = stage.params, dataset()
    table, correlation = None, None
    if params.objectives.resource == "latency":
        space, config = search_space(params), network_config(params, description, params.network.final)
        image = description.image
        table = measure(config, space, image.height, image.width)
        correlation = check(table, config, space, image.height, image.width)
        if correlation is not None and correlation < LEAST_CORRELATION:
            warnings.warn(
                f"the table's sums correlate with {CHECKED} whole networks by {correlation:.3f}, expected at least "
                f"{LEAST_CORRELATION}: was the machine busy? `dvc repro -f -s latency_table` measures again",
                stacklevel=1,
            )
    stage.metrics["latency_correlation"] = None if correlation is None else round(correlation, 4)
    write_json(stage.out / "table.json", MeasuredLatencies(table).to_dict())


if __name__ == "__main__":
    sys.exit(main("latency_table", run))
