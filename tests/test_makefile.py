"""What `make` says before it does anything that takes long."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.imports import ROOT


def test_make_run_outside_git_says_git_init_before_it_installs(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "MAKE"))}
    done = subprocess.run(
        ["make", "run"],
        cwd=tmp_path,
        env=env | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    first, *_ = done.stderr.splitlines()
    assert first == "DVC needs a git repository, and this folder is none (a downloaded archive?): run 'git init' first"
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


def test_make_run_passes_on_what_else_git_says(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".git").write_text("gitdir: nowhere\n")
    done = subprocess.run(["make", "run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "nowhere" in done.stderr
