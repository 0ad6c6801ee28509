"""Names that are not UTF-8 are said before DVC ends at them."""

import os
import subprocess
import sys

from pipeline.names import check, foreign_names
from tests.imports import ROOT


def test_names_that_are_not_utf8_are_found_in_files_and_folders(tmp_path):
    for name in (b"a/caf\xe9.jpg", b"f\xfcr/b.jpg", "a/ü.jpg".encode()):
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    shown = sorted(foreign_names(tmp_path))
    assert shown == [rf"{tmp_path}/a/caf\udce9.jpg", rf"{tmp_path}/f\udcfcr", rf"{tmp_path}/f\udcfcr/b.jpg"]


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
