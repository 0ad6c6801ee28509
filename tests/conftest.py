"""Shared by all tests: one thread for torch, before it is imported."""

import os

# The tensors here are tiny: two threads wait for each other most of the time, and xdist has the other core.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
