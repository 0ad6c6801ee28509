"""Locks between processes: `flock` on a file that names its holder, so that a lock ends with the process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockedError(ValueError):
    """Another process holds the lock; the message names it."""


@contextmanager
def lock(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is there only while it is held.

    Where another process holds it, waits until that ends (`wait`) or raises LockedError with `what` is locked and the
    holder's pid. However a holder ends, even killed, its lock ends with it.
    """
    descriptor = _acquire(path, what, wait)
    try:
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        except OSError as error:
            raise OSError(f"{path}: cannot be written: {error.strerror}") from error
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, what: str, wait: bool) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _names(path, descriptor):
                return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise LockedError(f"{what} is at work already in process {holder} ({path} is locked)") from None
        except OSError as error:  # some servers of files keep no locks
            os.close(descriptor)
            raise OSError(f"{path}: cannot be locked: {error.strerror}; is it on a local disk?") from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the file between our opening and our locking it


def _names(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
