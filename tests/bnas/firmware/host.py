"""Exported networks compiled for this machine, many in one program."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas.firmware.source import source
from bnas.packed.content import PackedContent
from bnas.packed.parameters import Floats

FLAGS = ("-std=c99", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
SANITIZED = (*FLAGS, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
DRIVER = Path(__file__).with_name("driver.c")

TABLE = """struct network {{
  int (*predict)(const uint8_t *, void *, float *);
  uint32_t pixels, scratch, classes;
}};
static const struct network networks[] = {{
{rows}
}};
"""


class Program:
    """Networks as one program. `program(k, images)` is what network k answers, and its logits `[N, classes]`."""

    def __init__(self, folder: Path, contents: Sequence[PackedContent], flags: Sequence[str] = FLAGS) -> None:
        self.contents, self.path = contents, folder / "program"
        names = [f"n{k}" for k in range(len(contents))]
        for name, content in zip(names, contents, strict=True):
            for file, text in source(content, name).files.items():
                (folder / file).write_text(text)
        fields = ("predict", "PIXELS", "SCRATCH", "CLASSES")
        rows = ",\n".join(f"  {{{', '.join(f'bnas_{name}_{field}' for field in fields)}}}" for name in names)
        includes = "".join(f'#include "{name}.h"\n' for name in names)
        (folder / "networks.h").write_text(includes + TABLE.format(rows=rows))
        files = [f"{name}.c" for name in names]
        subprocess.run(["gcc", *flags, f"-I{folder}", DRIVER, *files, "-o", "program"], cwd=folder, check=True)

    def __call__(self, which: int, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], Floats]:
        given = np.array([which, len(images)], np.uint32).tobytes()
        given += np.ascontiguousarray(images.transpose(0, 2, 3, 1)).tobytes()
        done = subprocess.run([self.path], input=given, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        classes = len(self.contents[which].card.classes)
        rows = np.frombuffer(done.stdout, np.uint32).reshape(len(images), 1 + classes)
        return rows[:, 0].astype(np.int32), np.ascontiguousarray(rows[:, 1:]).view(np.float32)
