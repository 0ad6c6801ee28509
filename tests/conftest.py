"""Shared by all tests: one thread for torch, before it is imported, and what takes long first."""

from __future__ import annotations

import os

import pytest

# The tensors here are tiny: two threads wait for each other most of the time, and xdist has the other core.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

LONGEST = ("test_dvc_runs", "test_dvc_reruns", "test_bad_files", "test_page")
"""Files whose tests take minutes together: a process that began with one of them last would keep the other waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`--dist loadfile --no-loadscope-reorder` hands files out in this order."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
