"""Before DVC looks at a data set: names of its files that are not UTF-8, which DVC would end at without naming them."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from bnas.data.picture_files import is_utf8
from bnas.data.problems import FileProblem
from pipeline.params import load
from pipeline.tabular.stage import TABULAR
from pipeline.transfer.stage import TRANSFER

SHOWN = 3
"""Names that a message says; the others are counted."""


def foreign_names(folder: Path) -> list[str]:
    """Paths below a folder with a name that is not UTF-8, each in printable characters."""
    paths = (os.path.join(place, name) for place, folders, files in os.walk(folder) for name in (*folders, *files))
    return [str(FileProblem("", path)) for path in paths if not is_utf8(path)]


def check(file: Path) -> str:
    """One line that names such files of the data set that a file of parameters chooses ("" if there are none)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stages read the parameters, too, and warn
        read = next((side.load for side in (TRANSFER, TABULAR) if side.params == file), load)
        params = read(file)
    names = foreign_names(Path(params.runtime.data_root) / params.data.name)
    if not names:
        return ""
    more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"expected names in UTF-8, found {'; '.join(names[:SHOWN])}{more}; rename them (convmv does)"


if __name__ == "__main__":
    try:
        line = check(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("params.yaml"))
    except (ValueError, OSError):
        line = ""  # the stages say what is wrong with parameters
    if line:
        print(f"prepare: {line}", file=sys.stderr)
    sys.exit(2 if line else 0)
