"""The command `bnas export-c`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bnas.storage.terminal import printable


def add_arguments(made: argparse.ArgumentParser) -> None:
    """What it takes beside the network."""
    made.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a folder for the files")
    made.add_argument(
        "--emulator", action="store_true", help="with start-up file and linker script for QEMU's boards of a Cortex-M"
    )
    made.add_argument("--name", help="of files and functions, a C identifier (default: MODEL's, with _ for -)")


def run(arguments: argparse.Namespace) -> int:
    """Write the files; raises ValueError for bad input, before anything is written."""
    from bnas.firmware.source import cortex_m, source
    from bnas.packed import read
    from bnas.storage.files import write_folder

    content = read(arguments.model)
    name = arguments.model.stem.replace("-", "_") if arguments.name is None else arguments.name
    made = source(content, name)
    write_folder(arguments.output, {**made.files, **(cortex_m() if arguments.emulator else {})}, cortex_m())
    print(
        f"written to {printable(str(arguments.output))}: bnas_{name}_predict, {made.constants:,} bytes of constants, "
        f"{made.scratch:,} bytes of working memory"
    )
    return 0
