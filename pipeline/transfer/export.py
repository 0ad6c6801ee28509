"""Stage `export` of a transfer: that of the main pipeline, on the transfer's networks."""

from __future__ import annotations

import sys

from pipeline import export
from pipeline.transfer.stage import TRANSFER

if __name__ == "__main__":
    sys.exit(TRANSFER.main("export", export.run))
