"""Functions compiled by numba and kept on disk, until anything that they are made of changes."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core import sigutils
from numba.core.ccallback import CFunc

from bnas.storage.source_code import source_hash


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


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: `njit(nogil=True, error_model="numpy", **options)` with a cache on disk that can be trusted.

    numba compiles a function again when its own file has changed, and does not see a change of a module that the
    file imports from. Here the hash of all of them (`source_hash`) stands beside the file's stamp.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(cache=keeps(), nogil=True, error_model="numpy", **options)(function)
        if keeps():
            _stamp(dispatcher._cache, function)
        return dispatcher

    return decorate


def compiled_for_c(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: `numba.cfunc(signature, error_model="numpy")` with the same cache; compiles at once."""

    def decorate(function: Callable[..., Any]) -> Any:
        made: Any = CFunc(function, sigutils.normalize_signature(signature), {}, {"error_model": "numpy"})
        if keeps():
            made.enable_caching()
            _stamp(made._cache, function)
        made.compile()
        return made

    return decorate


def _stamp(cache: Any, function: Callable[..., Any]) -> None:
    """numba has no public way to say what a compiled function depends on."""
    index = cache._cache_file
    index._source_stamp = (index._source_stamp, source_hash(function.__module__))
