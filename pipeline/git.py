"""What git prints, or its own reason for not doing it."""

from __future__ import annotations

import subprocess
from pathlib import Path


class GitError(ValueError):
    """Git cannot do what it was asked; the message is git's."""


def git(*arguments: str, folder: Path = Path()) -> bytes:
    """What a git command prints in a folder. Raises GitError, with no text where git says nothing."""
    try:
        done = subprocess.run(("git", *arguments), cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        raise GitError("expected the program git, found none") from None
    if done.returncode:
        raise GitError(" ".join(done.stderr.decode(errors="surrogateescape").split()))
    return done.stdout
