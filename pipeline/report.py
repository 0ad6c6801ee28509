"""Stage `report`: what the run came to, as Markdown with pictures, metrics and data for `dvc plots`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from bnas import analysis, cell_graph, figures, markdown, results
from bnas.arrays import open_array
from bnas.indexed import FILES, open_index
from bnas.page.build import page_html
from bnas.parts import weight_parts
from bnas.text import kib
from bnas.views import ImageArray
from pipeline.params import Runtime
from pipeline.stage import PREPARED, REPORTS, Stage, atomic_write, main, write_json
from pipeline.table import NETWORKS, PAGE, TIMES, network_seconds, table

SUPERNET_STAGES = ("stage1", "stage2")
SEARCH, RETRAIN, EXPORT = Path("data/search"), NETWORKS.parent, Path("data/export")
TEST = PREPARED / "test"
FIGURES = REPORTS / "figures"


def run(stage: Stage) -> None:
    """Read everything, draw everything, then write."""
    section, found = stage.params.report, read_run()
    drawn = pictures(found, section.size_bins)
    files = {name: figures.render(figure, section.figure_format) for name, figure in drawn.items()}
    used = {name: values for name, values in stage.params.as_dict().items() if name != "runtime"}
    parameters = yaml.safe_dump(used, sort_keys=False, default_flow_style=None, width=100)
    text = markdown.report_markdown(found, section.size_bins, section.figure_format, parameters)
    page = page_html(found, images(stage.params.runtime, found.dataset), section.size_bins, parameters)
    shutil.rmtree(FIGURES, ignore_errors=True)  # no picture of an earlier run may stay
    for name, content in files.items():
        atomic_write(FIGURES / f"{name}.{section.figure_format}", content)
    for name, rows in (
        ("pareto", analysis.pareto_rows(found)),
        ("losses", analysis.loss_rows(found)),
        ("confusion", analysis.confusion_rows(found)),
    ):
        write_json(REPORTS / "plots" / f"{name}.json", rows)
    atomic_write(REPORTS / "report.md", text)
    atomic_write(PAGE, page)
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
        packed=packed_files(),
        parts={path.parent.name: weight_parts(path) for path in sorted(RETRAIN.glob("*/weights.safetensors"))},
    )


def packed_files() -> dict[str, analysis.PackedFile]:
    """Network → its packed file, with how long it takes where that is recorded."""
    path = TIMES / "latency.json"
    latencies = {row.network: row for row in results.read_latencies(path)} if path.exists() else {}
    return {
        file.network: analysis.PackedFile(str(EXPORT / f"{file.network}.bnn"), file, latencies.get(file.network))
        for file in results.read_exported(EXPORT / "files.json")
    }


def images(runtime: Runtime, dataset: results.DatasetDescription) -> ImageArray | None:
    """Test images `[N, H, W, C]`, memory-mapped or read from their files; None where there are none."""
    if (TEST / FILES).exists():
        return open_index(TEST, Path(runtime.data_root) / dataset.name)
    if not (TEST / "images.npy").exists():
        return None
    return open_array(TEST / "images.npy")


def pictures(found: analysis.Run, bins: int) -> dict[str, Figure]:
    """File name without suffix → picture; the names are those that the text refers to."""
    networks = found.of_role(*results.ROLES)
    drawn = {
        "front": figures.front_figure(found.front, networks),
        "population": figures.population_figure(found.generations, found.front),
        "indicators": figures.indicators_figure(analysis.generation_indicators(found, bins)),
        "operations": figures.operations_figure(found.generations),
        "fidelity": figures.fidelity_figure(networks),
        "supernet": figures.supernet_figure(found.training),
        "retraining": figures.retraining_figure(networks, found.curves),
    }
    milliseconds = {name: 1000 * packed.latency.packed_1 for name, packed in found.packed.items() if packed.latency}
    if milliseconds:
        drawn["latency"] = figures.latency_figure(networks, milliseconds)
    for network in found.of_role("front"):
        title = f"{network.name} ({network.key}), {kib(network.size_bytes)} KiB"
        drawn[markdown.cells_name(network)] = cell_graph.cells_figure(network.genotype, title)
    return drawn


if __name__ == "__main__":
    sys.exit(main("report", run))
