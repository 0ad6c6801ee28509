"""Shared by all tests: one thread for torch, before it is imported; what takes long first; what was not looked at."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import pytest

# The tensors here are tiny: two threads wait for each other most of the time, and xdist has the other core.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

LONGEST = (
    "test_dvc_runs",
    "test_page",
    "test_dvc_reruns",
    "test_bad_files",
    "test_processes",
    "test_transfer",
    "test_darts",
    "test_source",
    "test_disk",
    "test_resume",
)
"""Files whose tests take longest: a process that began with one of them last would keep the other waiting.

The first two are begun side by side: one makes the run that the third needs, too, and compiles the kernels.
"""

NO_BROWSER = "NO CHROMIUM IS INSTALLED: THE PAGE WAS NOT LOOKED AT (apt-get install chromium)"
NO_EMULATOR = (
    "NO COMPILER OR NO EMULATOR FOR CORTEX-M IS INSTALLED: NO FIRMWARE WAS RUN "
    "(apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm)"
)
UNTESTED = {NO_BROWSER: "THE REPORT'S PAGE", NO_EMULATOR: "FIRMWARE"}
"""Why tests are skipped where a program is missing, and of what they are."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`--dist loadfile --no-loadscope-reorder` hands files out in this order."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> Generator[None, None, None]:
    """The last lines before the count of tests say what a green run has not tested."""
    yield
    for line in not_looked_at(terminalreporter.stats):
        terminalreporter.write_sep("!", line, red=True, bold=True)


def not_looked_at(stats: Mapping[str, Sequence[Any]]) -> list[str]:
    """A line on the tests that were skipped for want of each program, if there are any."""
    skipped = [str(report.longrepr) for report in stats.get("skipped", ())]
    counts = {reason: sum(reason in text for text in skipped) for reason in UNTESTED}
    return [f"{n} TESTS OF {UNTESTED[reason]} DID NOT RUN. {reason}" for reason, n in counts.items() if n]
