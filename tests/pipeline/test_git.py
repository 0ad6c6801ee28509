"""Git's own reasons reach the user; tests of who reads a repository through it."""

import subprocess

import pytest

from pipeline import compare, preset
from pipeline.git import GitError, git


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder that is in no repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return tmp_path


@pytest.fixture
def of_another(outside, monkeypatch):
    """A repository that git takes for another user's."""
    subprocess.run(["git", "init", "-q"], check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    return outside


def test_what_git_prints_or_why_not(outside):
    assert git("--version").startswith(b"git version")
    with pytest.raises(GitError, match="not a git repository"):
        git("status")


def test_no_git_is_said(outside, monkeypatch):
    monkeypatch.setenv("PATH", str(outside))
    with pytest.raises(GitError, match="expected the program git, found none"):
        git("status")


def refused(capsys, run, *arguments):
    """The one line of a command that cannot be done."""
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.usefixtures("outside")
def test_no_repository_is_no_unknown_revision(capsys):
    assert "compare: main: fatal: not a git repository" in refused(capsys, compare.main, "main")


@pytest.mark.usefixtures("of_another")
def test_a_repository_of_another_owner_is_no_unknown_revision(capsys):
    line = refused(capsys, compare.main, "main")
    assert "dubious ownership" in line
    assert "safe.directory" in line
    assert "expected a git revision" not in line


@pytest.mark.usefixtures("of_another")
def test_edits_in_a_repository_of_another_owner_are_not_called_uncommitted_without_a_reason(capsys):
    preset.TARGETS[0].file.write_text(preset.text_of("cifar10") + "# an edit\n")
    line = refused(capsys, preset.main, "mnist5k")
    assert "dubious ownership" in line
    assert line.endswith("give --force\n")


def test_a_damaged_repository_is_no_unfinished_run(outside, capsys):
    identity = ("-c", "user.email=test@example.org", "-c", "user.name=test")
    subprocess.run(["git", "init", "-q"], check=True)
    compare.PARETO.parent.mkdir(parents=True)
    compare.PARETO.write_text("[]")
    subprocess.run(["git", "add", "."], check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "a run"], check=True)
    blob = git("rev-parse", f"HEAD:{compare.PARETO}").decode().strip()
    (outside / ".git/objects" / blob[:2] / blob[2:]).unlink()
    line = refused(capsys, compare.main, "HEAD")
    assert blob in line
    assert "found no reports" not in line
