import os
import random
import warnings

import pytest
import torch

from bnas.storage.cache import MARK
from bnas.storage.checkpoint import Checkpoints, State, random_state, set_random_state

KEY = "everything that determines the result"


def state(number):
    tensors = {"weights": torch.full((3, 2), float(number)), "step": torch.tensor(float(number))}
    return State(tensors, {"number": number, "list": [1, None, 0.1]})


def number(found):
    return None if found is None else found.plain["number"]


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "one", KEY)


def again(checkpoints, key=KEY):
    """What another process sees."""
    return Checkpoints(checkpoints.folder, key)


def files(checkpoints):
    assert checkpoints.folder.joinpath(MARK).is_file()
    return sorted(path.name for path in checkpoints.folder.iterdir() if path.name != MARK)


def test_nothing_is_found_where_nothing_was_saved(checkpoints):
    assert checkpoints.newest() is None
    assert checkpoints.count == 0
    assert not checkpoints.folder.exists()


def test_newest_state_comes_back_bit_for_bit(checkpoints):
    checkpoints.save(state(1))
    layout = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    values = {"channels last": layout, "bytes": torch.arange(5, dtype=torch.uint8), "empty": torch.empty(0)}
    checkpoints.save(State(values, {"number": 2}))
    found = again(checkpoints).newest()
    assert found is not None
    assert found.plain == {"number": 2}
    assert found.tensors.keys() == values.keys()
    assert all(torch.equal(found.tensors[name], values[name]) for name in values)
    assert all(found.tensors[name].dtype == values[name].dtype for name in values)


def test_the_previous_state_is_kept_and_no_more(checkpoints):
    for i in range(1, 6):
        checkpoints.save(state(i))
    assert files(checkpoints) == ["checkpoint-4", "checkpoint-5"]
    assert checkpoints.count == 5
    other = again(checkpoints)
    other.save(state(6))
    assert files(checkpoints) == ["checkpoint-5", "checkpoint-6"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: content[:20] + (b"1" if content[20:21] == b"0" else b"0") + content[21:],
        lambda content: b"\x80\x04\x95" + content,
        lambda content: content[83:],
    ],
    ids=["empty", "header only", "truncated", "longer", "flipped bit", "other hash", "pickle", "bare safetensors"],
)
def test_a_spoilt_state_is_named_removed_and_passed_over_for_the_previous(checkpoints, spoil):
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    newest = checkpoints.folder / "checkpoint-2"
    newest.write_bytes(spoil(newest.read_bytes()))
    with pytest.warns(UserWarning, match=r"checkpoint-2: expected a .*checkpoint, found .*; passed over") as caught:
        assert number(again(checkpoints).newest()) == 1
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert files(checkpoints) == ["checkpoint-1"]


def test_two_spoilt_states_are_none(checkpoints):
    for i in (1, 2):
        checkpoints.save(state(i))
        (checkpoints.folder / f"checkpoint-{i}").write_bytes(b"no")
    with pytest.warns(UserWarning, match="passed over") as caught:
        assert again(checkpoints).newest() is None
    assert len(caught) == 2
    checkpoints.save(state(3))
    assert number(again(checkpoints).newest()) == 3


def test_a_state_of_another_key_is_never_used(checkpoints):
    checkpoints.save(state(1))
    with pytest.warns(UserWarning, match="found one of another"):
        assert again(checkpoints, "other parameters").newest() is None


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_failing_write_leaves_the_states_before_it(checkpoints, monkeypatch, call):
    checkpoints.save(state(1))
    checkpoints.save(state(2))

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(OSError, match=r"checkpoint-3: cannot be written: No space left"):
            checkpoints.save(state(3))
    assert files(checkpoints) == ["checkpoint-1", "checkpoint-2"]
    assert number(again(checkpoints).newest()) == 2


def test_what_a_killed_write_leaves_is_no_state(checkpoints):
    checkpoints.save(state(1))
    (checkpoints.folder / f".checkpoint-2.{os.getpid()}.partial").write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert number(again(checkpoints).newest()) == 1


def test_removed_states_are_gone(checkpoints):
    checkpoints.save(state(1))
    checkpoints.remove()
    assert again(checkpoints).newest() is None
    assert not checkpoints.folder.exists()


def test_seconds_add_up_over_runs(checkpoints, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("bnas.storage.checkpoint.time.monotonic", lambda: clock[0])
    first = again(checkpoints)
    clock[0] += 7
    first.save(state(1))
    clock[0] += 5  # lost
    second = again(checkpoints)
    second.newest()
    clock[0] += 2
    assert (second.earlier_seconds, second.seconds) == (7, 9)


def test_a_random_generator_goes_on_where_it_was():
    rng, other = random.Random(3), random.Random(4)
    rng.gauss(0, 1)
    set_random_state(other, random_state(rng))
    assert [rng.random(), rng.gauss(0, 1)] == [other.random(), other.gauss(0, 1)]
