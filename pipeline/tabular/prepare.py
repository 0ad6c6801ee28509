"""Stage `prepare` of a table: that of the main pipeline, on the table's data set."""

from __future__ import annotations

import sys

from pipeline import prepare
from pipeline.tabular.stage import TABULAR

if __name__ == "__main__":
    sys.exit(TABULAR.main("prepare", prepare.run))
