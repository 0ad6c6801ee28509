"""Names wrong parameters, and files of a data set that DVC cannot read, before DVC touches anything.

DVC deletes the outputs of a stage before it runs, and fails on such files with a message that does not name them.
"""

from __future__ import annotations

import os
import stat
import sys
import warnings
from itertools import chain
from pathlib import Path

from bnas.data.picture_files import is_junk, is_utf8
from bnas.storage.terminal import complain, printable
from pipeline.params import load
from pipeline.tabular.stage import TABULAR
from pipeline.transfer.stage import TRANSFER

SHOWN = 3
"""The most files that a message names; the others are counted."""

NAMES = ("names in UTF-8", "rename them (convmv does)")
LINKS = ("files", "they are links that lead nowhere: remove them")
RIGHTS = ("files that may be read", "change their rights")
REGULAR = ("regular files", "they are pipes, sockets or devices: remove them")
"""Expectations of DVC of all files, and what to do about a file that does not meet one."""


def unfit(folder: Path) -> dict[tuple[str, str], list[str]]:
    """Expectation and remedy → printable paths of the folder, or below it, that do not meet it."""
    otherwise: dict[tuple[str, str], list[str]] = {NAMES: [], LINKS: [], RIGHTS: [], REGULAR: []}
    within = (os.path.join(place, name) for place, *names in os.walk(folder) for name in chain(*names))
    for path in chain([str(folder)] if folder.exists() else [], within):
        if unmet := _unmet(path):
            otherwise[unmet].append(printable(path))
    return otherwise


def _unmet(path: str) -> tuple[str, str] | None:
    """The expectation that a file or folder does not meet."""
    if not is_utf8(path):
        return NAMES
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return RIGHTS if isinstance(error, PermissionError) else LINKS
    if stat.S_ISDIR(mode):  # DVC passes over those that it cannot list; what systems leave may be so
        return None if os.access(path, os.R_OK | os.X_OK) or is_junk(os.path.basename(path)) else RIGHTS
    if not stat.S_ISREG(mode):
        return REGULAR
    return None if os.access(path, os.R_OK) else RIGHTS


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
    except (ValueError, OSError) as error:
        line = str(error)
    if line:
        complain("prepare", line)
    sys.exit(2 if line else 0)
