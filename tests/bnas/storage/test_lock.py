import os
import signal
import subprocess
import sys

import pytest

from bnas.storage.lock import LockedError, lock
from tests.imports import ROOT


def holder(path, *, then="time.sleep(60)"):
    """A process that holds the lock and says so."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom bnas.storage.lock import lock\n"
        f"with lock(Path(sys.argv[1]), 'x', wait=True):\n    print('held', flush=True)\n    {then}\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_held_lock_is_refused_and_names_the_holder(tmp_path):
    path = tmp_path / "below" / "stage1.lock"
    with holder(path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        expected = f"stage stage1 is at work already in process {process.pid} "
        with pytest.raises(LockedError, match=expected), lock(path, "stage stage1"):
            pytest.fail("two holders")
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock(path, "stage stage1"):
            assert path.read_text() == str(os.getpid()), "a lock ends with its holder, however that ends"


def test_a_lock_is_waited_for(tmp_path):
    path = tmp_path / "lock"
    with holder(path, then="time.sleep(0.2)") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with lock(path, "x", wait=True):
            assert process.wait() == 0


def test_a_lock_leaves_no_file_and_can_be_taken_again(tmp_path):
    path = tmp_path / "lock"
    for _ in range(2):
        with lock(path, "x"):
            assert path.exists()
        assert not path.exists()


def test_within_one_process_a_lock_is_held_once(tmp_path):
    with lock(tmp_path / "lock", "x"), pytest.raises(LockedError, match=str(os.getpid())), lock(tmp_path / "lock", "x"):
        pass


def test_a_removed_lock_file_is_not_mistaken_for_the_one_that_is_there(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    with holder(path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        path.unlink()
        with lock(path, "x"), pytest.raises(LockedError), lock(path, "x"):
            pass
        process.kill()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(OSError, match=r"a.lock: cannot be locked: No locks available; is it on a local disk"):
        lock(tmp_path / "a.lock", "x").__enter__()
