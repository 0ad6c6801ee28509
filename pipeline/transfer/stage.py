"""How the stages of a transfer run: in the folder `transfer/`."""

from __future__ import annotations

from pathlib import Path

from pipeline.stage.side import SidePipeline
from pipeline.transfer.params import load

TRANSFER = SidePipeline(Path("transfer"), Path("pipeline/transfer/params.yaml"), load)
