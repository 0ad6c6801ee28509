"""What every stage shares: parameters, paths, one clear line for bad input, whole outputs or none, times, progress."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from pipeline.params import Params, load

PREPARED = Path("data/prepared")
REPORTS = Path("reports")
PLAIN_SECONDS = 10.0
"""Seconds between two lines of progress where there is no terminal."""


class Progress:
    """Work done of a known total: a bar on a terminal, else a plain line now and then, both with the time left."""

    def __init__(self, stage: str, total: float) -> None:
        self.stage, self.total, self.done = stage, total, 0.0
        self.start = self.last = time.monotonic()
        bar = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} < {remaining} {postfix}"
        self.bar = tqdm(total=total, desc=stage, bar_format=bar) if sys.stderr.isatty() else None

    def advance(self, work: float, note: str) -> None:
        """Count `work` more, of the same unit as the total, and show the note."""
        self.done = min(self.total, self.done + work)
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(self.done - self.bar.n)
            return
        now = time.monotonic()
        if now - self.last >= PLAIN_SECONDS and self.done:
            self.last = now
            left = (now - self.start) * (self.total / self.done - 1)
            share = 100 * self.done / self.total
            print(f"{self.stage}: {share:3.0f} %, about {left:.0f} s left - {note}", flush=True)

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        if self.bar is not None:
            self.bar.close()


@dataclass
class Stage:
    """One run of a stage: its parameters, a folder that becomes `data/<name>` on success, and its metrics."""

    name: str
    params: Params
    out: Path
    metrics: dict[str, float | int | None] = field(default_factory=dict)
    _progress: Progress | None = None

    def progress(self, total: float) -> Callable[[float, str], None]:
        """Start showing progress towards a total; returns the function to report with."""
        self.close()
        self._progress = Progress(self.name, total)
        return self._progress.advance

    def close(self) -> None:
        """End the progress display, if there is one."""
        if self._progress is not None:
            self._progress.close()


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: to a temporary name beside it, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`atomic_write` of a value as indented JSON; refuses nan and infinity."""
    atomic_write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def cache_root() -> Path:
    """`.cache` of the main workspace, also from the temporary copies that queued experiments run in."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".cache"


def main(name: str, run: Callable[[Stage], None]) -> int:
    """Run a stage and return its exit code: 0, 2 with one line on stderr for bad input, 130 or 143 if interrupted.

    Outputs are collected in a folder of their own and moved to `data/<name>` in the end, so that a stage that fails
    leaves nothing behind. The time it took goes to `reports/times/<name>.json`, a file that no stage depends on.
    """
    start = time.monotonic()
    folder = PREPARED if name == "prepare" else Path("data") / name
    partial = folder.with_name(f".partial-{folder.name}")
    signal.signal(signal.SIGTERM, _terminate)
    warnings.formatwarning = _one_line_warning
    stage: Stage | None = None
    try:
        stage = Stage(name, load("params.yaml"), partial)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        run(stage)
        stage.close()
        if stage.metrics:
            write_json(REPORTS / "metrics" / f"{name}.json", stage.metrics)
        seconds = round(time.monotonic() - start, 1)
        write_json(REPORTS / "times" / f"{name}.json", {f"{name}_seconds": seconds})
        if any(partial.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
            partial.replace(folder)
    except (ValueError, OSError) as error:
        if stage is not None:
            stage.close()
        if os.environ.get("BNAS_TRACEBACK"):
            raise
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return 0


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _one_line_warning(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    return f"warning: {message}\n"
