"""Files that DVC would end at are named before."""

import os
import subprocess
import sys

from pipeline.names import LINKS, NAMES, REGULAR, RIGHTS, check, unfit
from tests.imports import ROOT


def test_names_that_are_not_utf8_are_found_in_files_and_folders(tmp_path):
    for name in (b"a/caf\xe9.jpg", b"f\xfcr/b.jpg", "a/ü.jpg".encode()):
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").close()
    shown = sorted(unfit(tmp_path)[NAMES])
    assert shown == [rf"{tmp_path}/a/caf\udce9.jpg", rf"{tmp_path}/f\udcfcr", rf"{tmp_path}/f\udcfcr/b.jpg"]


def locked(monkeypatch, *names):
    """Files and folders that may not be read, as for a user who is not root, whom no right stops."""
    access = os.access
    monkeypatch.setattr("os.access", lambda path, mode: os.path.basename(path) not in names and access(path, mode))


def test_links_that_lead_nowhere_and_files_that_may_not_be_read_are_found(tmp_path, monkeypatch):
    for folder in ("cat", "dog", "lost+found"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cat/good.jpg").touch()
    (tmp_path / "cat/link.jpg").symlink_to("good.jpg")
    (tmp_path / "cat/nowhere.jpg").symlink_to("nowhere at all")
    (tmp_path / "cat/locked.jpg").touch()
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    (tmp_path / "cat/link to a pipe.jpg").symlink_to("pipe.jpg")
    locked(monkeypatch, "locked.jpg", "dog", "lost+found")
    found = {unmet: sorted(paths) for unmet, paths in unfit(tmp_path).items()}
    assert found == {
        NAMES: [],
        LINKS: [f"{tmp_path}/cat/nowhere.jpg"],
        RIGHTS: [f"{tmp_path}/cat/locked.jpg", f"{tmp_path}/dog"],
        REGULAR: [f"{tmp_path}/cat/link to a pipe.jpg", f"{tmp_path}/cat/pipe.jpg"],
    }


def test_a_folder_of_data_that_may_not_be_read_is_found_and_one_that_is_not_there_is_not(tmp_path, monkeypatch):
    locked(monkeypatch, tmp_path.name)
    assert unfit(tmp_path)[RIGHTS] == [str(tmp_path)]
    assert not any(unfit(tmp_path / "nowhere").values())


def test_the_data_set_that_is_chosen_is_looked_at(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "data/raw/mnist5k").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert check(tmp_path / "params.yaml") == ""
    open(os.fsencode(tmp_path) + b"/data/raw/mnist5k/caf\xe9.jpg", "w").close()
    expected = r"expected names in UTF-8, found data/raw/mnist5k/caf\udce9.jpg; rename them (convmv does)"
    assert check(tmp_path / "params.yaml") == expected
    assert called() == (2, f"prepare: {expected}\n")


def called():
    command, environment = [sys.executable, "-m", "pipeline.names"], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_wrong_parameters_are_refused_before_dvc_deletes_an_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("name: mnist5k", "name: mnist"))
    code, line = called()
    assert code == 2
    assert line.startswith("prepare: params.yaml: data.name: expected one of mnist5k, ")
    assert line.count("\n") == 1
