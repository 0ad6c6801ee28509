import pytest

from bnas.storage.cache import CHECKPOINTS, NETWORKS, entries, lock_of, remove
from bnas.storage.lock import lock


@pytest.fixture
def root(tmp_path):
    """A finished network, one in training, a stage's checkpoints, and what a killed process left."""
    for folder in ("networks/aa", "networks/.bb.partial", "checkpoints/network-bb", "checkpoints/stage1-cc-1"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_bytes(bytes(len(folder)))
    (tmp_path / "checkpoints/stage2-dd-1.lock").touch()
    return tmp_path


def test_everything_is_listed_with_kind_and_size(root):
    found = {(entry.kind, entry.path.relative_to(root).as_posix(), entry.size) for entry in entries(root)}
    assert found == {
        ("checkpoint", "checkpoints/network-bb", 22),
        ("checkpoint", "checkpoints/stage1-cc-1", 23),
        ("finished network", "networks/aa", 11),
        ("leftover", "networks/.bb.partial", 20),
    }


def test_an_empty_or_missing_cache_lists_nothing(tmp_path):
    assert entries(tmp_path) == []
    assert entries(tmp_path / "missing") == []


def test_what_is_removed_is_gone_and_the_rest_stays(root):
    chosen = [entry for entry in entries(root) if entry.kind != "finished network"]
    assert remove(chosen) == []
    assert [entry.kind for entry in entries(root)] == ["finished network"]


def test_what_a_process_is_at_work_on_stays(root):
    with lock(root / CHECKPOINTS / "network-bb.lock", "a worker"):
        kept = remove(entries(root))
    assert sorted(entry.path.name for entry in kept) == [".bb.partial", "network-bb"]
    assert sorted(entry.path.name for entry in entries(root)) == [".bb.partial", "network-bb"]


def test_a_network_and_its_checkpoints_have_one_lock(tmp_path):
    expected = tmp_path / CHECKPOINTS / "network-bb.lock"
    for folder in (f"{NETWORKS}/bb", f"{NETWORKS}/.bb.partial", f"{CHECKPOINTS}/network-bb"):
        assert lock_of(tmp_path / folder) == expected
