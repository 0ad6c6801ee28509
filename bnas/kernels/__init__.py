"""Compiled kernels that training runs on (numba, without torch)."""
