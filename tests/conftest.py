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
    "test_disk",
    "test_resume",
)
"""Files whose tests take longest: a process that began with one of them last would keep the other waiting.

The first two are begun side by side: one makes the run that the third needs, too, and compiles the kernels.
"""

NO_BROWSER = "NO CHROMIUM IS INSTALLED: THE PAGE WAS NOT LOOKED AT (apt-get install chromium)"


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
    """A line on the tests that were skipped for want of a browser, if there are any."""
    count = sum(NO_BROWSER in str(report.longrepr) for report in stats.get("skipped", ()))
    return [f"{count} TESTS OF THE REPORT'S PAGE DID NOT RUN. {NO_BROWSER}"] if count else []
