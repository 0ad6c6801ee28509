"""Runs git: its output, or an error with its own message."""

from __future__ import annotations

import subprocess
from pathlib import Path


class GitError(ValueError):
    """Git cannot do what it was asked; the message is git's."""


def git(*arguments: str, folder: Path = Path()) -> bytes:
    """The output of a git command in a folder. Raises GitError with git's message, which may be empty."""
    try:
        done = subprocess.run(("git", *arguments), cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        raise GitError("expected the program git, found none") from None
    if done.returncode:
        raise GitError(" ".join(done.stderr.decode(errors="surrogateescape").split()))
    return done.stdout
