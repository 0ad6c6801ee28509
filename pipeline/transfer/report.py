"""Stage `report` of a transfer: what became of the networks, as Markdown, page, pictures and metrics."""

from __future__ import annotations

import sys

from bnas.records.search import read_front, read_space
from bnas.report import plot_data
from bnas.report.story import TRANSFER_STAGES, transfer_story
from pipeline import report
from pipeline.stage import Stage
from pipeline.stage.side import PROJECT
from pipeline.transfer.params import TransferParams
from pipeline.transfer.stage import TRANSFER


def run(stage: Stage) -> None:
    """Read everything, draw everything, then write."""
    params = stage.params
    assert isinstance(params, TransferParams)
    source, bins = params.source.front, params.report.size_bins
    results = report.read_retrained(read_space(report.RETRAIN / "space.json"), TRANSFER_STAGES, params.network.shipped)
    handed = len(read_front(PROJECT / source).members)
    which, parameters = report.identity(stage), report.parameters_text(stage)
    report.write(stage, results, transfer_story(results, source, handed, bins, which, parameters), PROJECT)
    stage.metrics |= {f"transfer_{name}": value for name, value in plot_data.metrics(results).items()}


if __name__ == "__main__":
    sys.exit(TRANSFER.main("report", run))
