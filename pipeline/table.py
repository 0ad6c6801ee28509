"""`python -m pipeline.table`: name the report and print the table of finished networks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bnas.records.networks import read_network_times, read_networks
from bnas.report.tables import finished_networks
from pipeline.stage import REPORTS

NETWORKS = Path("data/retrain/networks.json")
PAGE = REPORTS / "index.html"
TIMES = REPORTS / "times"


def network_seconds() -> dict[str, float]:
    """Network → seconds its training took; empty where times are not recorded."""
    path = TIMES / "networks.json"
    return {row.network: row.seconds for row in read_network_times(path)} if path.exists() else {}


def table(project: Path = Path()) -> str:
    """The text to print, paths as seen from `project`; raises ValueError, one line, without a finished run."""
    if not NETWORKS.exists():
        raise ValueError(f"no finished run found: {NETWORKS} does not exist; run `dvc repro` first")
    shown = Path(os.path.relpath(PAGE, project)).as_posix()
    report = f"Report: {shown}" if PAGE.exists() else f"Report: {shown} (not written yet)"
    return f"{report}\n{finished_networks(read_networks(NETWORKS), network_seconds())}"


def main() -> int:
    """Print it; 1 with one line on stderr if there is nothing to print."""
    try:
        print(table())
    except (ValueError, OSError) as error:
        print(f"table: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
