"""Before DVC looks at a data set: files of it that DVC would end at, with words of its own or without their names."""

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
"""Files that a message names; the others are counted."""


NAMES = ("names in UTF-8", "rename them (convmv does)")
LINKS = ("files", "they are links that lead nowhere: remove them")
RIGHTS = ("files that may be read", "change their rights")
"""What DVC expects of all files, and what to do about others."""


def unfit(folder: Path) -> dict[tuple[str, str], list[str]]:
    """What is expected of files below a folder and what to do → the paths that are otherwise, as they are printed."""
    found: dict[tuple[str, str], list[str]] = {NAMES: [], LINKS: [], RIGHTS: []}
    for place, folders, files in os.walk(folder):
        for path in (os.path.join(place, name) for name in (*folders, *files)):
            if not is_utf8(path):
                found[NAMES].append(printable(path))
            elif not os.access(path, os.R_OK):
                found[RIGHTS if os.path.exists(path) else LINKS].append(printable(path))
    return found


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
