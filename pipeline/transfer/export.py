"""Stage `export` of a transfer: that of the main pipeline, on the transfer's networks."""

from __future__ import annotations

import sys

from pipeline import export
from pipeline.transfer.stage import main

if __name__ == "__main__":
    sys.exit(main("export", export.run))
