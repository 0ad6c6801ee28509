"""Whether numba can keep on disk what it compiles: asked once, said once."""

from __future__ import annotations

import functools
import warnings

from numba import njit


@functools.cache
def keeps() -> bool:
    """True if there is a folder for compiled code: beside the source, in the user's cache, or in NUMBA_CACHE_DIR.

    Otherwise a RuntimeWarning says so, once in a process, and every process compiles anew.
    """
    try:
        njit(cache=True)(lambda: None)
    except RuntimeError:  # numba found no folder that it may write to
        warnings.warn(
            "no folder to keep compiled code in: every process compiles for some seconds; set NUMBA_CACHE_DIR",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True
