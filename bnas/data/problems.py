"""What can be wrong with data: one error for all of it, and one that names every file that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bnas.storage.terminal import printable


class DataError(ValueError):
    """Data that cannot be used; the message says what, where and what was expected."""


class FileProblem(NamedTuple):
    """What is wrong with a file of a data set: its path below the data set's folder ("" for all of it), and what.

    `skippable`: without that file nothing is wrong any more.
    """

    path: str
    text: str
    skippable: bool = True

    @property
    def kind(self) -> str:
        """The text without what concerns this file alone, which stands behind a colon or in brackets."""
        return re.split(r": | \(", self.text)[0]

    def __str__(self) -> str:
        """One line, whatever a file is called."""
        text = f"{self.path}: {self.text}" if self.path else self.text
        return printable(text)


class ProblemsError(DataError):
    """Everything that is wrong with the files in a folder; its text is one line, and says the first few only."""

    SHOWN = 10

    def __init__(self, root: Path, problems: Iterable[FileProblem]) -> None:
        self.root, self.problems = root, tuple(dict.fromkeys(problems))
        count = len(self.problems)
        shown = "; ".join(map(str, self.problems[: self.SHOWN]))
        more = f"; and {count - self.SHOWN} more" if count > self.SHOWN else ""
        super().__init__(f"{root}: found {count} problem{'s' * (count > 1)}: {shown}{more}")
