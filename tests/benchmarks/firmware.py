"""What the networks of the finished run take on a microcontroller: exported C, emulated; equality first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bnas.data.split import Split
from bnas.packed.file import read
from bnas.packed.network import PackedNetwork
from bnas.packed.reference import run
from pipeline.config import dataset, files_root
from pipeline.params import load
from pipeline.stage import PREPARED
from tests.benchmarks.text import table
from tests.bnas.firmware.emulator import BOARDS, Firmware
from tests.bnas.firmware.emulator import firmware as built
from tests.bnas.firmware.host import FLAGS, SANITIZED, Program

EXPORT = Path("data/export")
IMAGES = 10


def firmware() -> list[dict[str, Any]]:
    """A row for each network, smallest first. Logits equal the reference: on this machine, compiled with and without
    sanitizers, for the whole test split; on each board for the first `IMAGES`."""
    params = load("params.yaml")
    test = Split.open(PREPARED / "test", files_root(dataset(), params.runtime))
    images = np.ascontiguousarray(test.images[: len(test.labels)].transpose(0, 3, 1, 2))
    contents = sorted(map(read, EXPORT.glob("*.bnn")), key=lambda content: content.file_bytes)
    wanted = []
    for content in contents:
        network = PackedNetwork(content, 1)
        wanted.append(run(network.steps, network.parameters, network.inputs(images)))
    for flags in (FLAGS, SANITIZED):
        with tempfile.TemporaryDirectory() as name:
            program = Program(Path(name), contents, flags)
            for which, logits in enumerate(wanted):
                assert program(which, images)[1].tobytes() == logits.tobytes()
    rows = []
    for content, logits in zip(contents, wanted, strict=True):
        found: dict[str, Firmware] = {}
        for board in BOARDS:
            with tempfile.TemporaryDirectory() as name:
                found[board] = built(Path(name), content, images[:IMAGES], board)
            assert found[board].logits.tobytes() == logits[:IMAGES].tobytes()
        m3, m4 = found.values()
        rows.append(
            {
                "network": content.card.network.name,
                "file": content.file_bytes,
                "wrong": content.card.network.wrong,
                "images": content.card.network.test_images,
                "flash, M3": m3.flash,
                "flash, M4": m4.flash,
                "RAM": max(m3.ram, m4.ram),
                "of it stack": max(m3.stack, m4.stack),
                "instructions, M3": m3.instructions,
                "instructions, M4": m4.instructions,
                "parameters": content.card.network.params,
            }
        )
    return rows


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as paragraphs of Markdown."""
    return [
        "## Microcontrollers",
        "Networks of the run as C (`bnas export-c`), compiled with `-Os` and run in QEMU's boards mps2-an385 "
        "(Cortex-M3, floats in software) and mps2-an386 (Cortex-M4, with its unit for floats). Logits were compared "
        "with the reference first, bit for bit: of the whole test split on this machine, compiled with and without "
        "sanitizers, "
        f"and of {IMAGES} images on each board. `python -m tests.benchmarks firmware` measures again.",
        "Bytes of flash hold code, constants and the compiler's functions for floats, but nothing that prints. Bytes "
        "of RAM hold the working memory and the stack (measured by painting it), but not the image and the logits. "
        "Instructions are counted (`-icount`), so they are no times. The last two columns are the weights alone, "
        "without code: 4 bytes or 1 for each parameter, as for float32 and for TensorFlow Lite's int8. Their maps "
        "would have as many values as ours, of 4 bytes or of 1.",
        table([row_text(row) for row in found["firmware"]]),
    ]


def row_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """A network's row as it is printed."""
    numbers = ("file", "flash, M3", "flash, M4", "RAM", "of it stack")
    return {
        "network": row["network"],
        "test error": f"{row['wrong'] / row['images']:.1%}",
        **{name: f"{row[name]:,}" for name in numbers},
        **{f"million {name}": f"{row[name] / 1e6:.1f}" for name in ("instructions, M3", "instructions, M4")},
        "weights as float32": f"{4 * row['parameters']:,}",
        "as int8": f"{row['parameters']:,}",
    }


MEASURES: Mapping[str, Callable[[], Any]] = {"firmware": firmware}
