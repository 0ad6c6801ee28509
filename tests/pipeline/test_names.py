"""Files that DVC would end at are named before."""

import os
import subprocess
import sys

from pipeline.names import LINKS, NAMES, RIGHTS, check, unfit
from tests.imports import ROOT


def test_names_that_are_not_utf8_are_found_in_files_and_folders(tmp_path):
    for name in (b"a/caf\xe9.jpg", b"f\xfcr/b.jpg", "a/ü.jpg".encode()):
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    shown = sorted(unfit(tmp_path)[NAMES])
    assert shown == [rf"{tmp_path}/a/caf\udce9.jpg", rf"{tmp_path}/f\udcfcr", rf"{tmp_path}/f\udcfcr/b.jpg"]


def test_links_that_lead_nowhere_and_files_that_may_not_be_read_are_found(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/good.jpg").touch()
    (tmp_path / "cat/link.jpg").symlink_to("good.jpg")
    (tmp_path / "cat/nowhere.jpg").symlink_to("nowhere at all")
    (tmp_path / "cat/locked.jpg").touch()
    # As for a user who is not root, whom no right stops.
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: "locked" not in path and access(path, mode))
    assert unfit(tmp_path) == {
        NAMES: [],
        LINKS: [f"{tmp_path}/cat/nowhere.jpg"],
        RIGHTS: [f"{tmp_path}/cat/locked.jpg"],
    }


def test_the_data_set_that_is_chosen_is_looked_at(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "data/raw/mnist5k").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert check(tmp_path / "params.yaml") == ""
    open(os.fsencode(tmp_path) + b"/data/raw/mnist5k/caf\xe9.jpg", "w").close()
    expected = r"expected names in UTF-8, found data/raw/mnist5k/caf\udce9.jpg; rename them (convmv does)"
    assert check(tmp_path / "params.yaml") == expected
    command = [sys.executable, "-m", "pipeline.names"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, f"prepare: {expected}\n")
