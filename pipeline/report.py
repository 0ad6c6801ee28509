"""Stage `report`: what the run came to, as Markdown with pictures, metrics and data for `dvc plots`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from bnas import analysis, cell_graph, figures, markdown, results
from bnas.text import kib
from pipeline.stage import PREPARED, REPORTS, Stage, atomic_write, main, write_json
from pipeline.table import NETWORKS, REPORT, TIMES, network_seconds, table

SUPERNET_STAGES = ("stage1", "stage2")
SEARCH, RETRAIN = Path("data/search"), NETWORKS.parent
FIGURES = REPORTS / "figures"


def run(stage: Stage) -> None:
    """Read everything, draw everything, then write."""
    section, found = stage.params.report, read_run()
    drawn = pictures(found, section.size_bins)
    files = {name: figures.render(figure, section.figure_format) for name, figure in drawn.items()}
    used = {name: values for name, values in stage.params.as_dict().items() if name != "runtime"}
    parameters = yaml.safe_dump(used, sort_keys=False, default_flow_style=None, width=100)
    text = markdown.report_markdown(found, section.size_bins, section.figure_format, parameters)
    shutil.rmtree(FIGURES, ignore_errors=True)  # no picture of an earlier run may stay
    for name, content in files.items():
        atomic_write(FIGURES / f"{name}.{section.figure_format}", content)
    write_json(REPORTS / "plots" / "pareto.json", analysis.pareto_rows(found))
    atomic_write(REPORT, text)
    stage.metrics |= analysis.metrics(found, section.size_bins)
    print(table())


def read_run() -> analysis.Run:
    """The files of the stages before.

    Times are read if they are there, but are no dependency in dvc.yaml: a stage must not re-run because
    another took longer.
    """
    networks = results.read_networks(NETWORKS)
    seconds: dict[str, float] = {}
    for name in markdown.STAGES:
        if (TIMES / f"{name}.json").exists():
            seconds |= results.read_stage_times(TIMES / f"{name}.json")
    return analysis.Run(
        dataset=results.read_dataset(PREPARED / "dataset.json"),
        training={name: results.read_epochs(Path("data") / name / "training.json") for name in SUPERNET_STAGES},
        generations=results.read_generations(SEARCH / "generations.json"),
        front=results.read_front(SEARCH / "front.json"),
        summary=results.read_summary(SEARCH / "summary.json"),
        networks=networks,
        curves={n.name: results.read_epochs(RETRAIN / n.name / "curve.json") for n in networks},
        predictions={n.name: results.read_predictions(RETRAIN / n.name / "predictions.csv") for n in networks},
        stage_seconds={name.removesuffix("_seconds"): value for name, value in seconds.items()},
        network_seconds=network_seconds(),
    )


def pictures(found: analysis.Run, bins: int) -> dict[str, Figure]:
    """File name without suffix → picture; the names are those that the text refers to."""
    networks = found.of_role("front", "random", "hand")
    drawn = {
        "front": figures.front_figure(found.front, networks),
        "population": figures.population_figure(found.generations, found.front),
        "indicators": figures.indicators_figure(analysis.generation_indicators(found, bins)),
        "operations": figures.operations_figure(found.generations),
        "fidelity": figures.fidelity_figure(networks),
        "supernet": figures.supernet_figure(found.training),
        "retraining": figures.retraining_figure(networks, found.curves),
    }
    for network in found.of_role("front"):
        title = f"{network.name} ({network.key}), {kib(network.size_bytes)} KiB"
        drawn[markdown.cells_name(network)] = cell_graph.cells_figure(network.genotype, title)
    return drawn


if __name__ == "__main__":
    sys.exit(main("report", run))
