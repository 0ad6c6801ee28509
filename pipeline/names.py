"""Names files of a data set that DVC cannot read, before DVC fails with a message that does not name them."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from bnas.data.picture_files import is_utf8
from bnas.storage.terminal import complain, printable
from pipeline.params import load
from pipeline.tabular.stage import TABULAR
from pipeline.transfer.stage import TRANSFER

SHOWN = 3
"""The most files that a message names; the others are counted."""

NAMES = ("names in UTF-8", "rename them (convmv does)")
LINKS = ("files", "they are links that lead nowhere: remove them")
RIGHTS = ("files that may be read", "change their rights")
"""Expectations of DVC of all files, and what to do about a file that does not meet one."""


def unfit(folder: Path) -> dict[tuple[str, str], list[str]]:
    """Expectation and remedy → printable paths below a folder that do not meet it."""
    otherwise: dict[tuple[str, str], list[str]] = {NAMES: [], LINKS: [], RIGHTS: []}
    for place, folders, files in os.walk(folder):
        for path in (os.path.join(place, name) for name in (*folders, *files)):
            if not is_utf8(path):
                otherwise[NAMES].append(printable(path))
            elif not os.access(path, os.R_OK):
                otherwise[RIGHTS if os.path.exists(path) else LINKS].append(printable(path))
    return otherwise


def check(file: Path) -> str:
    """One line that names such files of the data set that a file of parameters chooses ("" if there are none)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stages read the parameters, too, and warn
        read = next((side.load for side in (TRANSFER, TABULAR) if side.params == file), load)
        params = read(file)
    for (expected, remedy), paths in unfit(Path(params.runtime.data_root) / params.data.name).items():
        if paths:
            more = f"; and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
            return f"expected {expected}, found {'; '.join(paths[:SHOWN])}{more}; {remedy}"
    return ""


if __name__ == "__main__":
    try:
        line = check(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("params.yaml"))
    except (ValueError, OSError):
        line = ""  # the stages say what is wrong with parameters
    if line:
        complain("prepare", line)
    sys.exit(2 if line else 0)
