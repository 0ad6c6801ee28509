"""What rounding the numbers of a file costs and saves: error by format, image by image, and bytes.

On the networks of the finished run, and of the transfer if there is one. `data/retrain` holds weights as they were
trained, so that every format is made from the same; the answers are those of the files.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.data.split import Split
from bnas.nn.network import Network
from bnas.packed.content import PackedContent
from bnas.packed.fold import save
from bnas.packed.network import load as load_network
from bnas.records.dataset import DatasetDescription
from bnas.records.networks import RetrainedNetwork, read_networks
from bnas.space.shipped import SHIPPED
from pipeline.config import dataset, files_root
from pipeline.export import RETRAIN, card, trained
from pipeline.params import Params, load
from pipeline.stage import PREPARED
from pipeline.transfer.stage import TRANSFER
from tests.benchmarks.text import table

BASE, *ROUNDED = SHIPPED
AT_ONCE = 1000


def shipped() -> dict[str, list[dict[str, Any]]]:
    """Rows of networks, smallest first, and of data sets."""
    found: dict[str, list[dict[str, Any]]] = {"networks": [], "sets": []}
    runs = {Path(): lambda: load("params.yaml"), TRANSFER.folder: lambda: TRANSFER.load(TRANSFER.params)}
    for folder, parameters in runs.items():
        if (folder / RETRAIN / "networks.json").exists():
            params = parameters()
            with contextlib.chdir(folder):
                networks, sets = of_run(params)
            found["networks"] += networks
            found["sets"] += sets
    return found


def of_run(params: Params) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the run in the working directory, of networks and of its data set by format."""
    description = dataset()
    test = Split.open(PREPARED / "test", files_root(description, params.runtime))
    networks, rows = sorted(read_networks(RETRAIN / "networks.json"), key=lambda found: found.params), []
    wrong: dict[str, list[NDArray[np.bool_]]] = {form: [] for form in SHIPPED}
    changed = dict.fromkeys(SHIPPED, 0)
    for found in networks:
        network = trained(found, params, description)
        row: dict[str, Any] = {"data": description.title, "network": found.name}
        given: dict[str, NDArray[np.int64]] = {}
        for form in SHIPPED:
            content, given[form] = answers(form, network, found, description, test)
            wrong[form].append(given[form] != test.labels)
            changed[form] += int((given[form] != given[BASE]).sum())
            row[f"{form}, bytes"] = content.payload_bytes
            row[f"{form}, header"] = content.header_bytes
            row[f"{form}, wrong"] = int(wrong[form][-1].sum())
            row[f"{form}, changed"] = int((given[form] != given[BASE]).sum())
        rows.append(row)
    sets = [
        {
            "data": description.title,
            "format": form,
            "networks": len(networks),
            "images": len(test.labels),
            "wrong answers": int(np.sum(wrong[form])),
            "changed answers": changed[form],
            **difference(np.array(wrong[BASE]), np.array(wrong[form])),
        }
        for form in SHIPPED
    ]
    return rows, sets


def answers(
    form: str, network: Network, found: RetrainedNetwork, description: DatasetDescription, test: Split
) -> tuple[PackedContent, NDArray[np.int64]]:
    """The file of a trained network in that format, and its answers to the test images."""
    network.config = replace(network.config, shipped=form)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.bnn"
        save(network, path, card(replace(found, rounded=None), network.config, description))
        file = load_network(path)
    parts = [
        file(np.ascontiguousarray(test.images[start : start + AT_ONCE].transpose(0, 3, 1, 2))).argmax(1)
        for start in range(0, len(test.labels), AT_ONCE)
    ]
    return file.content, np.concatenate(parts)


def difference(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> dict[str, float]:
    """The difference of mean test errors in points and its 95 % interval over images; bool `[networks, images]`."""
    by_image = 100 * (after.mean(axis=0) - before.mean(axis=0))
    mean, half = float(by_image.mean()), 1.96 * float(by_image.std(ddof=1)) / len(by_image) ** 0.5
    return {"points": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as paragraphs of Markdown."""
    measured = found["shipped"]
    return [
        "## Numbers in files",
        "The same trained networks as files of every format: what rounding changes, image by image. Answers are those "
        "of the packed runtime to the test images, which chose nothing here; intervals are of the difference of mean "
        "errors to float32, over images. `python -m tests.benchmarks shipped` measures again.",
        table([set_row(row) for row in measured["sets"]]),
        "Bytes of a file's numbers, and of its header in parentheses.",
        table([network_row(row) for row in measured["networks"]]),
    ]


def set_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A data set's row as it is printed."""
    shown = {name: value for name, value in row.items() if name not in ("points", "low", "high")}
    if row["format"] == BASE:
        return {**shown, "difference, points": "", "within the interval": ""}
    inside = "yes" if row["low"] <= 0 <= row["high"] else "NO"
    interval = f"{row['points']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
    return {**shown, "difference, points": interval, "within the interval": inside}


def network_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A network's row as it is printed."""
    shown: dict[str, Any] = {"data": row["data"], "network": row["network"]}
    for form in SHIPPED:
        shown[f"bytes, {form}"] = f"{row[f'{form}, bytes']:,} ({row[f'{form}, header']})"
    for form in ROUNDED:
        shown[f"fewer, {form}"] = f"{1 - row[f'{form}, bytes'] / row[f'{BASE}, bytes']:.0%}"
    for form in SHIPPED:
        shown[f"wrong, {form}"] = row[f"{form}, wrong"]
    for form in ROUNDED:
        shown[f"changed, {form}"] = row[f"{form}, changed"]
    return shown


MEASURES: Mapping[str, Callable[[], Any]] = {"shipped": shipped}
