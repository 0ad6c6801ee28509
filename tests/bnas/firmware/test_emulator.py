"""Exported C in an emulated Cortex-M3 and Cortex-M4 equals the slow reference bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from tests import conftest
from tests.bnas.firmware.emulator import BOARDS, firmware, needed
from tests.bnas.firmware.networks import expected
from tests.bnas.packed.builders import same_bits

IMAGES = 10


@pytest.mark.parametrize("board", BOARDS)
def test_a_microcontroller_answers_as_the_reference(board, trained, tmp_path):
    needed()
    content, test = trained
    images = np.asarray(test.images[:IMAGES]).transpose(0, 3, 1, 2)
    found = firmware(tmp_path, content, images, board)
    wanted = expected(content, images)
    assert same_bits(found.logits, wanted)
    assert found.best.tolist() == wanted.argmax(axis=1).tolist()
    assert found.flash < 12_000
    assert 0 < found.stack < 512
    assert 100_000 < found.instructions < 100_000_000


@pytest.mark.parametrize(("value", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_an_emulator_the_tests_are_skipped_and_fail_in_ci(value, outcome, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", value)
    with pytest.raises(outcome, match="NO COMPILER OR NO EMULATOR"):
        needed()
    assert "NO FIRMWARE WAS RUN" in conftest.NO_EMULATOR
