"""Stage `report` of a transfer: what became of the networks, as Markdown, page, pictures and metrics."""

from __future__ import annotations

import sys

from bnas.records.networks import ROLES
from bnas.records.search import read_front, read_space
from bnas.report import analysis, figures
from bnas.report.page.build import page_html
from bnas.report.transfer_text import STAGES, transfer_markdown, transferred
from pipeline import report
from pipeline.stage import Stage
from pipeline.transfer.params import TransferParams
from pipeline.transfer.stage import PROJECT, main


def run(stage: Stage) -> None:
    """Read everything, draw everything, then write."""
    params = stage.params
    assert isinstance(params, TransferParams)
    section, source = params.report, params.source.front
    found = report.read_retrained(read_space(report.RETRAIN / "space.json"), STAGES)
    handed, networks = len(read_front(PROJECT / source).members), found.of_role(*ROLES)
    drawn = {
        "front": figures.transfer_figure(networks, found.linear),
        "retraining": figures.retraining_figure(networks, found.curves),
        **report.latency_and_cells(found),
    }
    parameters = report.parameters_text(stage)
    text = transfer_markdown(found, source, handed, section.size_bins, section.figure_format, parameters)
    introduction = transferred(found, source, handed).replace("`", "")
    images = report.images(params.runtime, found.dataset)
    page = page_html(found, images, section.size_bins, parameters, introduction)
    report.write(stage, found, drawn, text, page, PROJECT)
    metrics = analysis.retrained_metrics(found, section.size_bins)
    stage.metrics |= {f"transfer_{name}": value for name, value in metrics.items()}


if __name__ == "__main__":
    sys.exit(main("report", run))
