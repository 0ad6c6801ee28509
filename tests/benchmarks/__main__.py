"""`make bench`: measure everything and write `reports/benchmarks.json` and `reports/benchmarks.md`."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bnas.packed.latency import LEAST_CORRELATION
from bnas.tables import markdown_table
from pipeline.stage import atomic_write
from tests.benchmarks import packed, training
from tests.benchmarks.measure import machine

JSON, MARKDOWN = Path("reports/benchmarks.json"), Path("reports/benchmarks.md")


MEASURED: Mapping[str, Callable[[], Any]] = {
    "layers": packed.layers,
    "networks": packed.networks,
    "latency_table": packed.latency_table,
    "compilation": packed.compilation,
    "training": training.training,
}


def main() -> None:
    """Run all benchmarks, or those that are named and keep the other figures; a line of progress for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *MEASURED], help=", ".join(MEASURED))
    names = parser.parse_args().names or list(MEASURED)
    found: dict[str, Any] = json.loads(JSON.read_text()) if set(names) != set(MEASURED) else {}
    found["machine"] = machine()
    for name in names:
        print(f"bench: {name}", flush=True)
        found[name] = MEASURED[name]()
    atomic_write(JSON, json.dumps(found, indent=1) + "\n")
    if set(found) >= set(MEASURED):
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
        "against PyTorch's bare float32 convolution in the better memory format, on the same number of threads. The "
        "bounds are exclusive or, popcount and addition alone, by thread: in 64-bit words, and in the widest vectors.",
        table(found["layers"]),
        worst(found["layers"]),
        "## Whole networks",
        "The networks of the default run, all cores, milliseconds per call.",
        table(found["networks"]),
        slowest(found["networks"]),
        "## Latency table",
        "Sums of a table of the default space's edges, as `objectives.resource: latency` minimises them, correlate "
        f"with {found['latency_table']['networks']} measured whole networks by {found['latency_table']['correlation']} "
        f"(demanded: {LEAST_CORRELATION}).",
        "## Compilation",
        f"Loading a network and predicting once in a fresh process takes {found['compilation']['empty cache']} s with "
        f"an empty cache and {found['compilation']['cached']} s after that, whatever the network.",
        *training_text(found["training"]),
    ]
    return "\n\n".join(parts) + "\n"


def training_text(found: Mapping[str, Any]) -> list[str]:
    """The figures of training."""
    return [
        "## Training step",
        f"Forward, loss, backward and optimiser on {training.BATCH} images and {training.GENOTYPES} paths of a "
        "supernet. The floor is the same convolutions, forward and backward, as bare calls in the better memory "
        "format; the lowered floor those that are computed instead (strides taken before the convolution). Plain: the "
        f"blocks' layers one by one. Demanded: fused / floor at most {training.DEMANDED} in the reference, peak memory "
        f"at most {training.MOST_MEMORY} of plain. Peaks: high-water mark of the resident set over a step, above what "
        "was there before it, in a process of its own. Ratios are medians over neighbours in time.",
        *(transposed(row) for row in found["steps"]),
        "Where the reference's time goes, by operator, from a profile:",
        table(found["shares"]),
        "Growth: milliseconds per step of the reference with other widths and depths, and multiplications and "
        "additions of its convolutions a second; cost is linear where the next to last column stands still.",
        table(found["growth"]),
        f"Retraining: {training.NETWORKS} stand-alone networks laid over the cores.",
        table(found["layouts"]),
        "Data in memory: drawing, augmenting and normalising a mini-batch against the step it feeds, one thread.",
        table(found["feeding"]),
    ]


def transposed(row: Mapping[str, Any]) -> str:
    """A row as a table of its figures."""
    return table([{"figure": name, "value": cell(value)} for name, value in row.items()])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown; a median with its quartiles in one cell."""
    frame = pd.DataFrame([{name: cell(value) for name, value in row.items()} for row in rows])
    return markdown_table(frame)


def cell(value: Any) -> str:
    """One figure."""
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['low']:.3g}–{value['high']:.3g})"
    return str(value)


def worst(rows: Sequence[Mapping[str, Any]]) -> str:
    """The least and the median ratio of each number of channels and threads, beside what is demanded."""
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["threads"], row["channels"]), []).append(row)
    summary = [
        {
            "threads": str(threads),
            "channels": str(channels),
            "least ratio": f"{min(row['ratio'] for row in group):.2f}",
            "median": f"{statistics.median(row['ratio'] for row in group):.2f}",
            "demanded": f"{group[0]['demanded']}",
            "met": "yes" if all(row["ratio"] >= row["demanded"] for row in group) else "NO",
        }
        for (threads, channels), group in groups.items()
    ]
    return markdown_table(pd.DataFrame(summary))


def slowest(rows: Sequence[Mapping[str, Any]]) -> str:
    """The least ratios over all networks, beside what is demanded."""
    demanded = {"torch": 2, "onnxruntime": 1}
    summary = [
        {
            "rival": rival,
            "batch": str(count),
            "least ratio": f"{(least := min(row[f'{rival} / packed, batch {count}'] for row in rows)):.2f}",
            "demanded": str(demanded[rival]),
            "met": "yes" if least >= demanded[rival] else "NO",
        }
        for rival in demanded
        for count in (1, 64)
    ]
    return markdown_table(pd.DataFrame(summary), left=("rival",))


if __name__ == "__main__":
    main()
