"""Stage `report`: what the run came to, as Markdown with pictures, metrics and data for `dvc plots`."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from matplotlib.figure import Figure

from bnas.data.file_images import FILES, open_index
from bnas.data.image_array import ImageArray
from bnas.data.npy import open_array
from bnas.records.base import read_stage_times
from bnas.records.dataset import DatasetDescription, read_dataset
from bnas.records.export import read_exported, read_latencies
from bnas.records.latencies import read_latency_correlation
from bnas.records.networks import ROLES, read_linear, read_networks
from bnas.records.search import SpaceRange, read_front, read_generations, read_summary
from bnas.records.training import read_epochs, read_predictions
from bnas.report import analysis, cell_drawing, figures, search_text
from bnas.report.page.build import page_html
from bnas.report.text import kib
from bnas.report.weight_bytes import weight_parts
from pipeline.params.sections import RuntimeSection
from pipeline.stage import PREPARED, REPORTS, Stage, atomic_write, main, write_json
from pipeline.table import NETWORKS, PAGE, TIMES, network_seconds, table

SUPERNET_STAGES = ("stage1", "stage2")
SEARCH, RETRAIN, EXPORT = Path("data/search"), NETWORKS.parent, Path("data/export")
LINEAR = RETRAIN / "linear.json"
TEST = PREPARED / "test"
FIGURES = REPORTS / "figures"
CORRELATION = REPORTS / "metrics" / "latency_table.json"


def run(stage: Stage) -> None:
    """Read everything, draw everything, then write."""
    section, parameters = stage.params.report, parameters_text(stage)
    found = dataclasses.replace(read_run(), resource=stage.params.objectives.resource)
    text = search_text.report_markdown(found, section.size_bins, section.figure_format, parameters)
    page = page_html(found, images(stage.params.runtime, found.dataset), section.size_bins, parameters)
    write(stage, found, pictures(found, section.size_bins), text, page)
    stage.metrics |= analysis.metrics(found, section.size_bins)


def parameters_text(stage: Stage) -> str:
    """YAML of the parameters that the report may depend on."""
    used = {name: values for name, values in stage.params.as_dict().items() if name != "runtime"}
    return yaml.safe_dump(used, sort_keys=False, default_flow_style=None, width=100)


def write(
    stage: Stage, found: analysis.Retrained, drawn: Mapping[str, Figure], text: str, page: str, project: Path = Path()
) -> None:
    """Draw, then write all files, and print the table of networks with paths as seen from `project`."""
    suffix = stage.params.report.figure_format
    files = {name: figures.render(figure, suffix) for name, figure in drawn.items()}
    shutil.rmtree(FIGURES, ignore_errors=True)  # no picture of an earlier run may stay
    for name, content in files.items():
        atomic_write(FIGURES / f"{name}.{suffix}", content)
    for name, rows in (
        ("pareto", analysis.pareto_rows(found)),
        ("losses", analysis.loss_rows(found)),
        ("confusion", analysis.confusion_rows(found)),
    ):
        write_json(REPORTS / "plots" / f"{name}.json", rows)
    atomic_write(REPORTS / "report.md", text)
    atomic_write(PAGE, page)
    print(table(project))


def read_run() -> analysis.Run:
    """The files of the stages before."""
    front = read_front(SEARCH / "front.json")
    retrained = read_retrained(front.space, search_text.STAGES)
    return analysis.Run(
        **{field.name: getattr(retrained, field.name) for field in dataclasses.fields(retrained)},
        training={name: read_epochs(Path("data") / name / "training.json") for name in SUPERNET_STAGES},
        generations=read_generations(SEARCH / "generations.json"),
        front=front,
        summary=read_summary(SEARCH / "summary.json"),
    )


def read_retrained(space: SpaceRange, stages: Sequence[str]) -> analysis.Retrained:
    """The networks and all that is known of them.

    Times of the stages are read if they are there, but are no dependency in dvc.yaml: a stage must not re-run because
    another took longer.
    """
    networks = read_networks(NETWORKS)
    seconds: dict[str, float] = {}
    for name in stages:
        if (TIMES / f"{name}.json").exists():
            seconds |= read_stage_times(TIMES / f"{name}.json")
    return analysis.Retrained(
        dataset=read_dataset(PREPARED / "dataset.json"),
        space=space,
        networks=networks,
        curves={n.name: read_epochs(RETRAIN / n.name / "curve.json") for n in networks},
        predictions={n.name: read_predictions(RETRAIN / n.name / "predictions.csv") for n in networks},
        stage_seconds={name.removesuffix("_seconds"): value for name, value in seconds.items()},
        network_seconds=network_seconds(),
        packed=packed_files(),
        latency_correlation=read_latency_correlation(CORRELATION) if CORRELATION.exists() else None,
        parts={path.parent.name: weight_parts(path) for path in sorted(RETRAIN.glob("*/weights.safetensors"))},
        linear=read_linear(LINEAR) if LINEAR.exists() else None,
    )


def packed_files() -> dict[str, analysis.PackedFile]:
    """Network → its packed file, with how long it takes where that is recorded."""
    path = TIMES / "latency.json"
    latencies = {row.network: row for row in read_latencies(path)} if path.exists() else {}
    return {
        file.network: analysis.PackedFile(str(EXPORT / f"{file.network}.bnn"), file, latencies.get(file.network))
        for file in read_exported(EXPORT / "files.json")
    }


def images(runtime: RuntimeSection, dataset: DatasetDescription) -> ImageArray | None:
    """Test images `[N, H, W, C]`, memory-mapped or read from their files; None where there are none."""
    if (TEST / FILES).exists():
        return open_index(TEST, Path(runtime.data_root) / dataset.name)
    if not (TEST / "images.npy").exists():
        return None
    return open_array(TEST / "images.npy")


def pictures(found: analysis.Run, bins: int) -> dict[str, Figure]:
    """File name without suffix → picture; the names are those that the text refers to."""
    networks = found.of_role(*ROLES)
    drawn = {
        "front": figures.front_figure(found.front, networks, found.linear),
        "population": figures.population_figure(found.generations, found.front),
        "indicators": figures.indicators_figure(analysis.generation_indicators(found, bins)),
        "operations": figures.operations_figure(found.generations),
        "fidelity": figures.fidelity_figure(networks),
        "supernet": figures.supernet_figure(found.training),
        "retraining": figures.retraining_figure(networks, found.curves),
    }
    return drawn | latency_and_cells(found)


def latency_and_cells(found: analysis.Retrained) -> dict[str, Figure]:
    """Errors over times, if networks were timed, and a drawing of the cells of each front network."""
    networks = found.of_role(*ROLES)
    milliseconds = {name: 1000 * packed.latency.packed_1 for name, packed in found.packed.items() if packed.latency}
    drawn = {"latency": figures.latency_figure(networks, milliseconds)} if milliseconds else {}
    return drawn | {
        search_text.cells_name(network): cell_drawing.cells_figure(
            network.genotype, f"{network.name} ({network.key}), {kib(network.size_bytes)} KiB"
        )
        for network in found.of_role("front")
    }


if __name__ == "__main__":
    sys.exit(main("report", run))
