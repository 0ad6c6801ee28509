"""`make bench`: measure everything and write `reports/benchmarks.json` and `reports/benchmarks.md`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bnas.tables import markdown_table
from pipeline.stage import atomic_write
from tests.benchmarks import packed
from tests.benchmarks.measure import machine

JSON, MARKDOWN = Path("reports/benchmarks.json"), Path("reports/benchmarks.md")


def main() -> None:
    """Run all benchmarks, a line of progress for each."""
    found: dict[str, Any] = {"machine": machine()}
    for name, measure in (
        ("layers", packed.layers),
        ("networks", packed.networks),
        ("compilation", packed.compilation),
    ):
        print(f"bench: {name}", flush=True)
        found[name] = measure()
    atomic_write(JSON, json.dumps(found, indent=1) + "\n")
    atomic_write(MARKDOWN, text(found))
    print(f"written to {MARKDOWN} and {JSON}")


def text(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    parts = [
        "# Benchmarks",
        "Medians of alternating rounds in one run, with quartiles; results were checked for equality first. "
        "Regenerate with `make bench` after `make run`.",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in found["machine"].items()) + ".",
        "## Packed layers",
        f"A whole packed block (signs, packing, convolution, BatchNorm, shortcut, PReLU) on {packed.IMAGES} images, "
        "against PyTorch's bare float32 convolution in the better memory format; one thread each. The bounds are "
        "exclusive or, popcount and addition alone: in 64-bit words, and in the widest vectors.",
        table(found["layers"]),
        worst(found["layers"], "ratio", "channels"),
        "## Whole networks",
        "The networks of the default run, all cores, milliseconds per call.",
        table(found["networks"]),
        "## Compilation",
        f"Loading a network and predicting once in a fresh process takes {found['compilation']['empty cache']} s with "
        f"an empty cache and {found['compilation']['cached']} s after that, whatever the network.",
    ]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown; a median with its quartiles in one cell."""
    frame = pd.DataFrame([{name: cell(value) for name, value in row.items()} for row in rows])
    return markdown_table(frame)


def cell(value: Any) -> str:
    """One figure."""
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['low']:.3g}–{value['high']:.3g})"
    return str(value)


def worst(rows: Sequence[Mapping[str, Any]], figure: str, by: str) -> str:
    """The least and the median of a figure, by another."""
    groups: dict[Any, list[float]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row[figure])
    return "; ".join(
        f"{key} {by}: least {figure} {min(values)}, median {statistics.median(values):.3g}"
        for key, values in groups.items()
    )


if __name__ == "__main__":
    main()
