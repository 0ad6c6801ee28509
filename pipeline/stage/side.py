"""A pipeline beside the main one: stages that work in a folder of their own, with the code of the main pipeline [ours].

The folder has `data/` and `reports/` like the project's, so that what reads a search's results reads those, too. Paths
in the parameters are relative to the project's folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pipeline import stage
from pipeline.params import Params
from pipeline.stage import Stage

P = TypeVar("P", bound=Params)

PROJECT = Path("..")
"""The project's folder, seen from that of a side pipeline."""


@dataclass(frozen=True)
class SidePipeline(Generic[P]):
    """A side pipeline: its folder and its file of parameters, seen from the project's, and the reader of that file."""

    folder: Path
    params: Path
    load: Callable[[Path], P]

    def main(self, name: str, run: Callable[[Stage], None]) -> int:
        """`pipeline.stage.main`, started in the project's folder."""
        self.enter()
        return stage.main(name, run, self.parameters)

    def enter(self) -> None:
        """Change from the project's folder to the pipeline's. Ranks are started there already."""
        if "BNAS_LAUNCHER" in os.environ:
            return
        project = str(Path.cwd())
        os.environ.setdefault("DVC_ROOT", project)  # finished networks are shared with the main pipeline
        # Processes that are started in the folder have to import this checkout's code.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (project, os.environ.get("PYTHONPATH"))))
        self.folder.mkdir(exist_ok=True)
        os.chdir(self.folder)

    def parameters(self) -> P:
        """The parameters, with paths relative to the pipeline's folder."""
        params = self.load(PROJECT / self.params)
        runtime = params.runtime.model_copy(update={"data_root": str(PROJECT / params.runtime.data_root)})
        return params.model_copy(update={"runtime": runtime})
