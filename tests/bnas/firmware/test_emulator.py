"""Exported C in an emulated Cortex-M3 and Cortex-M4 equals the slow reference bit for bit."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest

from bnas.firmware.source import cortex_m, source
from tests import conftest
from tests.bnas.firmware.emulator import BOARDS, firmware, needed
from tests.bnas.firmware.networks import expected
from tests.bnas.packed.builders import same_bits
from tests.imports import ROOT

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


def test_the_example_runs_there_as_the_documentation_says(trained, tmp_path):
    needed()
    content, test = trained
    for file, text in {**source(content, "eye").files, **cortex_m()}.items():
        (tmp_path / file).write_text(text)
    image = np.asarray(test.images[:2])
    (tmp_path / "image.raw").write_bytes(image.tobytes())
    (block,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/microcontrollers.md").read_text(), re.DOTALL)
    commands = block[block.index("cd eye\n") + len("cd eye\n") :]
    shell = ["sh", "-e", "-c", commands]
    done = subprocess.run(shell, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith(content.card.classes)]
    here, there = lines[: len(image)], lines[len(image) :]
    assert here == there
    wanted = expected(content, image.transpose(0, 3, 1, 2))
    assert [[np.float32(word) for word in line.rsplit(maxsplit=10)[1:]] for line in there] == wanted.tolist()


@pytest.mark.parametrize(("value", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_without_an_emulator_the_tests_are_skipped_and_fail_in_ci(value, outcome, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", value)
    with pytest.raises(outcome, match="NO COMPILER OR NO EMULATOR"):
        needed()
    assert "NO FIRMWARE WAS RUN" in conftest.NO_EMULATOR
