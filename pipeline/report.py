"""Stage `report`: what the run came to, as Markdown with pictures, page, metrics and data for `dvc plots`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from bnas.data.file_images import FILES, open_index
from bnas.data.image_array import ImageArray
from bnas.data.npy import open_array
from bnas.records.base import read_stage_times
from bnas.records.dataset import DatasetDescription, read_dataset
from bnas.records.export import read_exported, read_latencies
from bnas.records.latencies import read_latency_correlation
from bnas.records.networks import read_linear, read_network_times, read_networks
from bnas.records.search import SpaceRange, read_front, read_generations, read_summary
from bnas.records.training import read_epochs, read_predictions
from bnas.records.trial import read_trial
from bnas.report import plot_data, results
from bnas.report.charts import render
from bnas.report.page.build import page_html
from bnas.report.story import STAGES, Story, search_story
from bnas.report.weight_bytes import weight_parts
from bnas.storage.terminal import say
from pipeline.params.sections import RuntimeSection
from pipeline.stage import PREPARED, REPORTS, Stage, atomic_write, main, write_json

SUPERNET_STAGES = ("stage1", "stage2")
SEARCH, TRIAL, RETRAIN, EXPORT = (Path("data") / name for name in ("search", "trial", "retrain", "export"))
LINEAR = RETRAIN / "linear.json"
TEST = PREPARED / "test"
FIGURES, PAGE, TIMES = REPORTS / "figures", REPORTS / "index.html", REPORTS / "times"
CORRELATION = REPORTS / "metrics" / "latency_table.json"


def run(stage: Stage) -> None:
    """Read everything, draw everything, then write."""
    bins = stage.params.report.size_bins
    objectives, trial_bins = stage.params.objectives, stage.params.trial.bins
    finished = read_run(stage.params.network.shipped)
    results = dataclasses.replace(finished, resource=objectives.resource, error=objectives.error, trial_bins=trial_bins)
    write(stage, results, search_story(results, bins, identity(stage), parameters_text(stage)))
    stage.metrics |= plot_data.metrics(results)
    write_json(TIMES / "total.json", {"seconds": round(sum(results.stage_seconds.values()), 1)})


def parameters_text(stage: Stage) -> str:
    """YAML of the parameters that the report may depend on."""
    used = {name: values for name, values in stage.params.as_dict().items() if name != "runtime"}
    return yaml.safe_dump(used, sort_keys=False, default_flow_style=None, width=100)


def identity(stage: Stage) -> str:
    """Which run the report is of: its data set, its seeds, and a hash that only equal parameters share."""
    sections = stage.params.as_dict()
    seeds = ", ".join(f"{name} {values['seed']}" for name, values in sections.items() if "seed" in values)
    digest = hashlib.sha256(parameters_text(stage).encode()).hexdigest()[:10]
    return f"This run: data set `{stage.params.data.name}`, seeds {seeds}; parameters `{digest}`."


def write(stage: Stage, results: results.Retrained, story: Story, project: Path = Path()) -> None:
    """Draw, then write all files, and print where the page is as seen from `project`."""
    suffix = stage.params.report.figure_format
    files = {picture.name: render(picture.draw(), suffix) for picture in story.pictures}
    page = page_html(results, story, images(stage.params.runtime, results.dataset))
    shutil.rmtree(FIGURES, ignore_errors=True)  # no picture of an earlier run may stay
    for name, content in files.items():
        atomic_write(FIGURES / f"{name}.{suffix}", content)
    for name, rows in (
        ("pareto", plot_data.pareto_rows(results)),
        ("losses", plot_data.loss_rows(results)),
        ("confusion", plot_data.confusion_rows(results)),
    ):
        write_json(REPORTS / "plots" / f"{name}.json", rows)
    atomic_write(REPORTS / "report.md", story.markdown(suffix))
    atomic_write(PAGE, page)
    say(f"Report: {Path(os.path.relpath(PAGE, project)).as_posix()}")


def read_run(shipped: str) -> results.Run:
    """The files of the stages before."""
    front = read_front(SEARCH / "front.json")
    retrained = read_retrained(front.space, STAGES, shipped)
    return results.Run(
        **{field.name: getattr(retrained, field.name) for field in dataclasses.fields(retrained)},
        training={name: read_epochs(Path("data") / name / "training.json") for name in SUPERNET_STAGES},
        generations=read_generations(SEARCH / "generations.json"),
        front=front,
        summary=read_summary(SEARCH / "summary.json"),
        trial=read_trial(TRIAL / "networks.json"),
        handed_over=len(read_front(TRIAL / "front.json").members),
    )


def read_retrained(space: SpaceRange, stages: Sequence[str], shipped: str) -> results.Retrained:
    """The networks and all that is known of them.

    Times are read if they are there, but are no dependency in dvc.yaml: a stage must not re-run because another took
    longer.
    """
    networks = read_networks(RETRAIN / "networks.json")
    seconds: dict[str, float] = {}
    for name in stages:
        if (TIMES / f"{name}.json").exists():
            seconds |= read_stage_times(TIMES / f"{name}.json")
    training = TIMES / "networks.json"
    return results.Retrained(
        dataset=read_dataset(PREPARED / "dataset.json"),
        space=space,
        networks=networks,
        curves={n.name: read_epochs(RETRAIN / n.name / "curve.json") for n in networks},
        predictions={n.name: read_predictions(RETRAIN / n.name / "predictions.csv") for n in networks},
        stage_seconds={name.removesuffix("_seconds"): value for name, value in seconds.items()},
        network_seconds={r.network: r.seconds for r in read_network_times(training)} if training.exists() else {},
        packed=shipped_files(),
        latency_correlation=read_latency_correlation(CORRELATION) if CORRELATION.exists() else None,
        parts={path.parent.name: weight_parts(path, shipped) for path in sorted(RETRAIN.glob("*/weights.safetensors"))},
        linear=read_linear(LINEAR) if LINEAR.exists() else None,
    )


def shipped_files() -> dict[str, results.ShippedFile]:
    """Network → its packed file, with how long it takes where that is recorded."""
    path = TIMES / "latency.json"
    latencies = {row.network: row for row in read_latencies(path)} if path.exists() else {}
    return {
        file.network: results.ShippedFile(str(EXPORT / f"{file.network}.bnn"), file, latencies.get(file.network))
        for file in read_exported(EXPORT / "files.json")
    }


def images(runtime: RuntimeSection, dataset: DatasetDescription) -> ImageArray | None:
    """Test images `[N, H, W, C]`, memory-mapped or read from their files; None where there are none."""
    if (TEST / FILES).exists():
        return open_index(TEST, Path(runtime.data_root) / dataset.name)
    if not (TEST / "images.npy").exists():
        return None
    return open_array(TEST / "images.npy")


if __name__ == "__main__":
    sys.exit(main("report", run))
