"""How a stage of a transfer runs: as one of the main pipeline, in the folder `transfer/` [ours].

That folder has `data/` and `reports/` like the project's, so that what reads a search's results reads those of a
transfer, too. Paths in the parameters are relative to the project's folder.
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
    """Change from the project's folder to the transfer's. Ranks are started there already."""
    if "BNAS_LAUNCHER" in os.environ:
        return
    project = str(Path.cwd())
    os.environ.setdefault("DVC_ROOT", project)  # finished networks are shared with the main pipeline
    # Processes that are started in FOLDER have to import this checkout's code.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
    FOLDER.mkdir(exist_ok=True)
    os.chdir(FOLDER)


def parameters() -> TransferParams:
    """The parameters of the transfer, with paths relative to its folder."""
    params = load(PROJECT / PARAMS)
    runtime = params.runtime.model_copy(update={"data_root": str(PROJECT / params.runtime.data_root)})
    return params.model_copy(update={"runtime": runtime})
