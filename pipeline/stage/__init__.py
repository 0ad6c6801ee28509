"""A stage's run: its parameters, whole outputs or none, its metrics and times, one clear line for bad input."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from bnas.storage.complaints import properties
from bnas.storage.files import atomic_write as atomic_write  # also for those who import it from here
from bnas.storage.lock import lock
from bnas.storage.terminal import complain, one_line, set_up_stderr
from pipeline.params import Params, load
from pipeline.stage.compiled import borrow
from pipeline.stage.progress import ProgressBar

PREPARED = Path("data/prepared")
REPORTS = Path("reports")


@dataclass
class Stage:
    """One run of a stage: its parameters, a folder that becomes `data/<name>` on success, and its metrics."""

    name: str
    params: Params
    out: Path
    metrics: dict[str, float | int | None] = field(default_factory=dict)
    held: ExitStack = field(default_factory=ExitStack)
    """Locks and the like, released when the stage ends, whether it succeeds or not."""
    when_done: list[Callable[[], None]] = field(default_factory=list)
    """Functions that are called once the outputs are in their place."""
    earlier_seconds: Callable[[], float] = float
    """Returns the seconds of earlier, interrupted runs that this one continues."""
    _progress: ProgressBar | None = None

    def progress(self, total: float, done: float = 0.0) -> Callable[[float, str], None]:
        """Show progress from the work done already towards a total, of any unit.

        Returns the function that reports it: it takes the work done since the last call, and a note.
        """
        self.close()
        self._progress = ProgressBar(self.name, total, done)
        return self._progress.advance

    def close(self) -> None:
        """End the progress display, if there is one."""
        if self._progress is not None:
            self._progress.close()


def write_json(path: Path, value: Any) -> None:
    """`atomic_write` of a value as indented JSON; refuses nan and infinity."""
    atomic_write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def cache_root() -> Path:
    """`.cache` of the main workspace, also within the temporary copies that queued experiments run in."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".cache"


@contextmanager
def named(*sections: str) -> Iterator[None]:
    """Complete the key in a message of `bnas`, which names its own fields and knows no params.yaml.

    `ValueError("batch_size: expected ...")` raised within `named("search.evaluation")` becomes
    `search.evaluation.batch_size: expected ...`; of several sections the first that has the key is taken. An error
    that does not begin with one of their keys passes as it is.
    """
    fields = {field: section for section in reversed(sections) for field in properties(Params, section.split("."))}
    try:
        yield
    except ValueError as error:
        if section := fields.get(str(error).partition(":")[0].partition(".")[0]):
            error.args = (f"{section}.{error}",)
        raise


def sections_named(stage: str) -> list[str]:
    """The sections whose keys a stage's messages name without being told: its own, and `runtime`."""
    own = "data" if stage == "prepare" else stage
    return [section for section in (own, "runtime") if section in Params.model_fields]


def parameters() -> Params:
    """The parameters of the main pipeline."""
    return load("params.yaml")


def main(name: str, run: Callable[[Stage], None], read: Callable[[], Params] = parameters) -> int:
    """Run a stage and return its exit code: 0, 2 with one line on stderr for bad input, 130 or 143 if interrupted.

    Outputs are collected in a folder of their own and moved to `data/<name>` in the end, so that a stage that fails
    leaves nothing behind. The time it took goes to `reports/times/<name>.json`, a file that no stage depends on. A
    second run of the stage in the same folder is refused while the first lives. `read` returns the parameters.
    """

    def alone() -> None:
        with stage_lock(name):
            produce(name, run, read)

    return guarded(name, alone)


def guarded(name: str, call: Callable[[], None]) -> int:
    """Call a function, and turn its errors into the exit codes and lines of `main`."""
    # Objects made by imports are no garbage, and searching them for some holds all threads up.
    gc.freeze()
    signal.signal(signal.SIGTERM, _terminate)
    set_up_stderr()
    try:
        borrow(Path(__file__).resolve().parents[2])
        with named(*sections_named(name)):
            call()
    except (ValueError, OSError) as error:
        if os.environ.get("BNAS_TRACEBACK"):
            raise
        complain(name, error)
        return 2
    except KeyboardInterrupt:
        complain(name, "interrupted")
        return 130
    return 0


def stage_lock(name: str) -> AbstractContextManager[None]:
    """The lock of a stage in this folder."""
    return lock(Path(".cache/locks") / f"{name}.lock", f"stage {name}")


def produce(name: str, run: Callable[[Stage], None], read: Callable[[], Params] = parameters) -> None:
    """Run a stage whose lock is held, and put its outputs in their place."""
    stage, folder, start = Stage(name, read(), unfinished(name)), _folder(name), time.monotonic()
    with stage.held:
        try:
            shutil.rmtree(stage.out, ignore_errors=True)
            stage.out.mkdir(parents=True)
            run(stage)
            stage.close()
            if stage.metrics:
                write_json(REPORTS / "metrics" / f"{stage.name}.json", stage.metrics)
            seconds = round(stage.earlier_seconds() + time.monotonic() - start, 1)
            write_json(REPORTS / "times" / f"{stage.name}.json", {f"{stage.name}_seconds": seconds})
            if any(stage.out.iterdir()):
                _put(stage.out, folder)
            for call in stage.when_done:
                call()
        finally:
            stage.close()
            shutil.rmtree(stage.out, ignore_errors=True)


def _put(made: Path, folder: Path) -> None:
    """Rename a folder to the place of an earlier one, which stays if that fails."""
    before = folder.with_name(f".before-{folder.name}")
    if before.exists():
        shutil.rmtree(before)
    try:
        if folder.is_dir():
            folder.rename(before)
        made.rename(folder)
    except BaseException:
        if before.exists():
            before.rename(folder)
        raise
    try:
        shutil.rmtree(before)
    except OSError as error:
        if before.exists():  # there are earlier ones
            warnings.warn(f"earlier outputs stay: {one_line(error)}", stacklevel=1)


def unfinished(name: str) -> Path:
    """The folder that holds a stage's outputs until it is done."""
    return _folder(name).with_name(f".partial-{_folder(name).name}")


def _folder(name: str) -> Path:
    folder = PREPARED if name == "prepare" else Path("data") / name
    return folder.resolve() if folder.is_symlink() else folder


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
