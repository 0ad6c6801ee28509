"""`make bench`: measure everything and write `reports/benchmarks.json` and `reports/benchmarks.md`.

`python -m tests.benchmarks NAME …` measures some sections again and keeps the others' figures; the studies, which
take longer, run only when named.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.stage import atomic_write
from tests.benchmarks import (
    firmware,
    folder,
    packed,
    processes,
    ranking,
    regression,
    scoring,
    shipped,
    simulation,
    streaming,
    supernet,
    threads,
    training,
)
from tests.benchmarks.measure import machine

JSON, MARKDOWN = Path("reports/benchmarks.json"), Path("reports/benchmarks.md")

SECTIONS: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "packed": packed.MEASURES,
    "threads": threads.MEASURES,
    "scoring": scoring.MEASURES,
    "training": training.MEASURES,
    "streaming": streaming.MEASURES,
    "processes": processes.MEASURES,
}
"""What `make bench` runs: section → name of the figures → what measures them."""

STUDIES: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "shipped": shipped.MEASURES,
    "folder": folder.MEASURES,
    "ranking": ranking.MEASURES,
    "regression": regression.MEASURES,
    "simulation": simulation.MEASURES,
    "supernet": supernet.MEASURES,
    "firmware": firmware.MEASURES,
}

TEXTS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "packed": packed.text,
    "threads": threads.text,
    "scoring": scoring.text,
    "training": training.text,
    "streaming": streaming.text,
    "processes": processes.text,
    "shipped": shipped.text,
    "folder": folder.text,
    "ranking": ranking.text,
    "regression": regression.text,
    "simulation": simulation.text,
    "supernet": supernet.text,
    "firmware": firmware.text,
}


def main() -> None:
    """Run all benchmarks, or the named sections or figures and keep the others; a line of progress for each."""
    known = {**SECTIONS, **STUDIES}
    figures = {name: measure for measures in known.values() for name, measure in measures.items()}
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *known, *figures], help=", ".join(known))
    chosen = parser.parse_args().names or list(SECTIONS)
    found: dict[str, Any] = json.loads(JSON.read_text()) if JSON.exists() else {}
    machines = found.setdefault("machines", {})
    for name in [name for each in chosen for name in known.get(each, [each])]:
        start = time.monotonic()
        found[name], machines[name] = figures[name](), machine()
        print(f"bench: {name}, {time.monotonic() - start:.0f} s", flush=True)
    atomic_write(JSON, json.dumps(found, indent=1) + "\n")
    atomic_write(MARKDOWN, text(found))
    print(f"written to {MARKDOWN} and {JSON}")


def text(found: Mapping[str, Any]) -> str:
    """The figures as Markdown: every section all of whose figures there are."""
    parts = [
        "# Benchmarks",
        "Medians of alternating rounds, with quartiles, each table from one run; results were checked for equality "
        "first. Regenerate with `make bench` after `make run`.",
    ]
    for section, measures in {**SECTIONS, **STUDIES}.items():
        if all(name in found for name in measures):
            heading, *rest = TEXTS[section](found)
            parts += [heading, *where({name: found["machines"][name] for name in measures}), *rest]
    return "\n\n".join(parts) + "\n"


def where(machines: Mapping[str, Mapping[str, object]]) -> list[str]:
    """A line for each machine that figures of a section were measured on; with their names if there are several."""
    names: dict[str, list[str]] = {}
    for figure, values in machines.items():
        names.setdefault(", ".join(f"{name} {value}" for name, value in values.items()), []).append(figure)
    several = len(names) > 1
    return [f"Machine{' of ' + ', '.join(those) if several else ''}: {line}." for line, those in names.items()]


if __name__ == "__main__":
    main()
