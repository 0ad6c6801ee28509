"""`python -m tests.experiments_table`: runs three tiny experiments, and writes the table of them into README.md.

The table is what the README's command prints, and stands between two marks. Its figures are those of tiny parameters
(see `tests/pipeline`), so they show the columns, and say nothing of a search.
"""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

from tests.imports import ROOT
from tests.pipeline.workspace import Workspace

README = ROOT / "README.md"
BLOCK = re.compile(r"(?<=<!-- make experiments-table -->\n```\n).*?(?=```\n<!-- end -->\n)", re.DOTALL)
IMAGES = 120
"""Images of each class: with fewer, most networks of a run have one error."""


def command() -> list[str]:
    """The command of the README that lists experiments, by its arguments."""
    (text,) = re.findall(r"# the same as: (dvc exp show .*)", README.read_text(encoding="utf-8"))
    return shlex.split(text)


def table() -> str:
    """The table as it stands in the README. Raises ValueError if there are not just two marks around one."""
    tables: list[str] = BLOCK.findall(README.read_text(encoding="utf-8"))
    if len(tables) != 1:
        raise ValueError(f"{README}: expected one table between marks, found {len(tables)}")
    return tables[0]


def listed(workspace: Workspace) -> str:
    """What the command prints of a workspace's experiments, without spaces at the ends of lines."""
    lines = workspace.run(*command()).stdout.strip().splitlines()
    return "".join(f"{line.strip()}\n" for line in lines)


def columns(text: str) -> list[str]:
    """The headings of a table, from its second line."""
    return text.splitlines()[1].split()


def main() -> None:
    """Run the experiments in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        workspace.set("data.images_per_class", IMAGES)
        workspace.commit()
        workspace.repro()
        workspace.commit()
        for seed in (1, 2, 3):
            workspace.run("dvc", "exp", "run", "-S", f"search.seed={seed}")
        text = README.read_text(encoding="utf-8").replace(table(), listed(workspace))
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
