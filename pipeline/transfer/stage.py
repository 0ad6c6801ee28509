"""The stages of a transfer work as those of the main pipeline, in a folder of their own: `transfer/` [ours].

It is a run's folder like the project's: `data/` and `reports/` are in it under the same names, so that whatever reads
a search's results reads those of a transfer. Paths in the parameters are relative to the project's folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pipeline import stage
from pipeline.stage import Stage
from pipeline.transfer.params import TransferParams, load

FOLDER = Path("transfer")
PROJECT = Path("..")
"""The project's folder, seen from `FOLDER`."""
PARAMS = Path("pipeline/transfer/params.yaml")


def main(name: str, run: Callable[[Stage], None]) -> int:
    """`pipeline.stage.main`, started in the project's folder."""
    enter()
    return stage.main(name, run, parameters)


def enter() -> None:
    """Go from the project's folder to the transfer's; ranks are started there."""
    if "BNAS_LAUNCHER" in os.environ:
        return
    project = str(Path.cwd())
    os.environ.setdefault("DVC_ROOT", project)  # finished networks are shared with the main pipeline
    # Processes that are started in FOLDER have to import this checkout's code.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
    FOLDER.mkdir(exist_ok=True)
    os.chdir(FOLDER)


def parameters() -> TransferParams:
    """Those of the transfer, seen from its folder."""
    found = load(PROJECT / PARAMS)
    runtime = found.runtime.model_copy(update={"data_root": str(PROJECT / found.runtime.data_root)})
    return found.model_copy(update={"runtime": runtime})
