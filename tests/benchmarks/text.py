"""Figures as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bnas.report.network_tables import markdown_table


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as Markdown; a median with its quartiles in one cell."""
    frame = pd.DataFrame([{name: cell(value) for name, value in row.items()} for row in rows])
    return markdown_table(frame)


def cell(value: Any) -> str:
    """One figure."""
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['low']:.3g}–{value['high']:.3g})"
    return str(value)


def transposed(row: Mapping[str, Any]) -> str:
    """A row as a table of its figures."""
    return table([{"figure": name, "value": cell(value)} for name, value in row.items()])
