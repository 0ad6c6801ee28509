"""How the stages of a table run: in the folder `tabular/`."""

from __future__ import annotations

from pathlib import Path

from pipeline.stage.side import SidePipeline
from pipeline.tabular.params import load

TABULAR = SidePipeline(Path("tabular"), Path("pipeline/tabular/params.yaml"), load)
