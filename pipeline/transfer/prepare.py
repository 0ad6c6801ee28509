"""Stage `prepare` of a transfer: that of the main pipeline, on the transfer's data set."""

from __future__ import annotations

import sys

from pipeline import prepare
from pipeline.transfer.stage import TRANSFER

if __name__ == "__main__":
    sys.exit(TRANSFER.main("prepare", prepare.run))
