"""The progress of a stage, as a bar on a terminal or as lines."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from bnas.storage.terminal import printable, say

PLAIN_SECONDS = 10.0
"""Seconds between two lines of progress where there is no terminal."""


class ProgressBar:
    """Work done of a known total: a bar on a terminal, else a plain line now and then, both with the time left.

    `done` is the work of an interrupted run, which does not count for the speed.
    """

    def __init__(self, stage: str, total: float, done: float = 0.0) -> None:
        self.stage, self.total, self.done, self.before = stage, total, done, done
        self.start = self.last = time.monotonic()
        bar = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} < {remaining} {postfix}"
        self.bar = tqdm(total=total, initial=done, desc=stage, bar_format=bar) if sys.stderr.isatty() else None

    def advance(self, work: float, note: str) -> None:
        """Add `work`, in the unit of the total, and show the note."""
        self.done = min(self.total, self.done + work)
        if self.bar is not None:
            self.bar.set_postfix_str(printable(note), refresh=False)
            self.bar.update(self.done - self.bar.n)
            return
        now = time.monotonic()
        if now - self.last >= PLAIN_SECONDS and self.done > self.before:
            self.last = now
            left = (now - self.start) * (self.total - self.done) / (self.done - self.before)
            share = 100 * self.done / self.total
            say(f"{self.stage}: {share:3.0f} %, about {left:.0f} s left - {printable(note)}")

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        if self.bar is not None:
            self.bar.close()
