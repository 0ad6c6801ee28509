"""Exported networks in an emulated microcontroller: QEMU's boards of a Cortex-M3 and a Cortex-M4."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bnas.firmware.source import cortex_m, source
from bnas.packed.content import PackedContent
from bnas.packed.parameters import Floats
from tests.conftest import NO_EMULATOR

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"
FLAGS = ("-mthumb", "-std=c99", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Os", "-ffunction-sections")
NAME = "network"
HERE = Path(__file__).parent

BOARDS = {
    "mps2-an385": ("-mcpu=cortex-m3",),
    "mps2-an386": ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
}
"""Board → what its processor is compiled for."""


@dataclass(frozen=True)
class Firmware:
    """Answers and logits of images, and what they took: bytes of program and constants, of stack, instructions."""

    best: NDArray[np.int64]
    logits: Floats
    instructions: int
    flash: int
    stack: int
    ram: int


def needed() -> None:
    """Where compiler or emulator is missing, the test that asks for them is skipped, and fails in CI."""
    if all(map(shutil.which, (COMPILER, EMULATOR))):
        return
    if os.environ.get("CI", "").lower() in ("", "0", "false"):
        pytest.skip(NO_EMULATOR)
    pytest.fail(NO_EMULATOR, pytrace=False)


def firmware(folder: Path, content: PackedContent, images: NDArray[np.uint8], board: str) -> Firmware:
    """Build the network for a board with images `[N, C, H, W]`, run it there, and measure."""
    made = source(content, NAME)
    for file, text in {**made.files, **cortex_m()}.items():
        (folder / file).write_text(text)
    (folder / "images.h").write_text(_header(images))
    build = [COMPILER, *BOARDS[board], *FLAGS, f"-I{folder}"]
    common = ["startup.c", "-T", "mps2.ld", "-nostartfiles", "--specs=rdimon.specs", "-o", "measure.elf"]
    subprocess.run([*build, HERE / "measure.c", f"{NAME}.c", *common], cwd=folder, check=True)
    bare = ["-nostdlib", "-Wl,--gc-sections", "-Wl,--entry=start", "-o", "bare.elf"]
    subprocess.run([*build, HERE / "bare.c", f"{NAME}.c", *bare, "-lc_nano", "-lgcc"], cwd=folder, check=True)
    run = [EMULATOR, "-M", board, "-nographic", "-semihosting", "-icount", "shift=0", "-kernel", "measure.elf"]
    done = subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True, timeout=300)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == len(images), done.stdout
    bits = [[int(word, 16) for word in row[3:]] for row in rows]
    sizes = subprocess.run(["arm-none-eabi-size", "bare.elf"], cwd=folder, check=True, capture_output=True, text=True)
    text, data, bss = map(int, sizes.stdout.splitlines()[1].split()[:3])
    stack = max(int(row[2]) for row in rows)
    pointers = 12  # of bare.c
    return Firmware(
        np.array([int(row[0]) for row in rows]),
        np.array(bits, np.uint32).view(np.float32),
        max(int(row[1]) for row in rows),
        text + data,
        stack,
        data + bss - pointers + made.scratch + stack,
    )


def _header(images: NDArray[np.uint8]) -> str:
    rows = images.transpose(0, 2, 3, 1).reshape(len(images), -1)
    lines = ",\n".join("{" + ", ".join(map(str, row)) + "}" for row in rows)
    return (
        f'#include "{NAME}.h"\n#define NETWORK(what) bnas_{NAME}_##what\n#define IMAGES {len(images)}\n'
        f"extern const uint8_t images[IMAGES][NETWORK(PIXELS)];\n#ifdef WITH_IMAGES\n"
        f"const uint8_t images[IMAGES][NETWORK(PIXELS)] = {{\n{lines}\n}};\n#endif\n"
    )
