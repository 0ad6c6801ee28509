import shutil

import pytest

from bnas.storage.cache import CHECKPOINTS, MARK, NETWORKS, entries, lock_of, mark, remove
from bnas.storage.lock import lock

OURS = ("networks/aa", "networks/.bb.partial", "checkpoints/network-bb", "checkpoints/stage1-cc-1")


@pytest.fixture
def root(tmp_path):
    """A finished network, one in training, a stage's checkpoints, and what a killed process left."""
    for folder in OURS:
        mark(tmp_path / folder)
        (tmp_path / folder / "file").write_bytes(bytes(1000))
    (tmp_path / "checkpoints/stage2-dd-1.lock").touch()
    return tmp_path


@pytest.fixture
def foreign(root):
    """What others keep in the same places: a folder, a file, links to a folder of ours and to one of others."""
    folder = root / "checkpoints/thesis"
    folder.mkdir()
    (folder / "chapter").write_text("years of work")
    (root / "networks/notes.txt").touch()
    (root / "checkpoints/link").symlink_to(folder)
    (root / "checkpoints/ours").symlink_to(root / "networks/aa")
    return {folder, root / "networks/notes.txt", root / "checkpoints/link", root / "checkpoints/ours"}


def chosen(root, *kinds):
    return [entry for entry in entries(root) if entry.kind in kinds]


def test_everything_is_listed_with_kind_and_size(root):
    size = 1000 + (root / OURS[0] / MARK).stat().st_size
    found = {(entry.kind, entry.path.relative_to(root).as_posix(), entry.size) for entry in entries(root)}
    assert found == {
        ("checkpoint", "checkpoints/network-bb", size),
        ("checkpoint", "checkpoints/stage1-cc-1", size),
        ("finished network", "networks/aa", size),
        ("leftover", "networks/.bb.partial", size),
    }


def test_an_empty_cache_lists_nothing(tmp_path):
    assert entries(tmp_path) == []


def test_what_is_removed_is_gone_and_the_rest_stays(root):
    assert remove(chosen(root, "checkpoint", "leftover")) == {}
    assert [entry.kind for entry in entries(root)] == ["finished network"]


def test_what_was_not_written_here_is_foreign_and_stays(root, foreign):
    assert {entry.path for entry in chosen(root, "foreign")} == foreign
    kept = remove(entries(root))
    assert kept == dict.fromkeys(foreign, "not written by bnas")
    assert (root / "checkpoints/thesis/chapter").read_text() == "years of work"
    assert {entry.path for entry in entries(root)} == foreign


def test_what_cannot_be_removed_is_named_and_known_again(root, monkeypatch):
    stuck = root / "checkpoints/network-bb/in"
    stuck.mkdir()
    rmtree = shutil.rmtree

    def refuse(path):
        if path == stuck:
            raise PermissionError(13, "Permission denied", str(path))
        rmtree(path)

    monkeypatch.setattr("shutil.rmtree", refuse)
    kept = remove(chosen(root, "checkpoint"))
    assert kept == {stuck.parent: f"{stuck}: Permission denied"}
    assert [entry.path for entry in chosen(root, "checkpoint")] == [stuck.parent]


def test_what_another_process_has_removed_meanwhile_is_no_failure(root):
    before = chosen(root, "checkpoint")
    shutil.rmtree(before[0].path)
    assert remove(before) == {}


def test_what_a_process_is_at_work_on_stays(root):
    with lock(root / CHECKPOINTS / "network-bb.lock", "a worker"):
        kept = remove(entries(root))
    assert sorted(path.name for path in kept) == [".bb.partial", "network-bb"]
    assert set(kept.values()) == {"a running process is at work on it"}
    assert sorted(entry.path.name for entry in entries(root)) == [".bb.partial", "network-bb"]


def test_a_network_and_its_checkpoints_have_one_lock(tmp_path):
    expected = tmp_path / CHECKPOINTS / "network-bb.lock"
    for folder in (f"{NETWORKS}/bb", f"{NETWORKS}/.bb.partial", f"{CHECKPOINTS}/network-bb"):
        assert lock_of(tmp_path / folder) == expected
