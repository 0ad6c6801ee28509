"""How numbers and tables are written as plain text."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping, Sequence

from bnas.storage.terminal import printable

NOT_RECORDED = "not recorded"

_MARKS = {ord(mark): f"&#{ord(mark)};" for mark in set(string.punctuation) - set(",.'()+-/%")}


def percent(share: float) -> str:
    """A share in [0, 1] in per cent: `0.0213` → `2.13`."""
    return f"{100 * share:.2f}"


def kib(size_bytes: float) -> str:
    """A size in KiB (1024 bytes): `12595` → `12.30`."""
    return f"{size_bytes / 1024:.2f}"


def duration(seconds: float | None) -> str:
    """`95.2` → `1 min 35 s`; None → `not recorded`."""
    if seconds is None:
        return NOT_RECORDED
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(seconds: float) -> str:
    """A short time: `0.000049` → `49 µs`, `0.0013` → `1.30 ms`."""
    return f"{1e6 * seconds:.0f} µs" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"


def literal(text: str) -> str:
    """Text that is not ours in sentences of the report: none of it is a mark of Markdown or HTML."""
    return printable(text).translate(_MARKS)


def code(text: str) -> str:
    """Text that is not ours as code in sentences of the report, which a back tick of its own would end."""
    return f"`{printable(text).replace('`', chr(39))}`"


def aligned(rows: Sequence[Mapping[str, str]], left: Collection[str] = ()) -> list[str]:
    """Lines of a table: headings, a rule, the rows; columns stand at the right except those named.

    All rows have the keys of the first, which are the headings; there must be one.
    """
    rows = [{name: printable(text) for name, text in row.items()} for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    table = [{name: name for name in widths}, {name: "-" * width for name, width in widths.items()}, *rows]

    def cell(name: str, text: str) -> str:
        return text.ljust(widths[name]) if name in left else text.rjust(widths[name])

    return ["  ".join(cell(name, row[name]) for name in widths).rstrip() for row in table]
