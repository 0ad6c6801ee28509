"""Stages shared by several processes and hosts: such a stage starts itself as the ranks of a `torchrun`.

The long stages call `main` of this module instead of `pipeline.stage.main`, which does the same with one process on one
host. The others do not import it, since it takes long.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

from bnas.storage.terminal import complain, one_line, one_line_warning
from bnas.training.ranks import ALONE, LAUNCHER, LOST, LostRankError, Ranks, give_up, is_rank, join, leave
from pipeline import stage as stages
from pipeline.params import Params
from pipeline.stage import Stage, guarded, named, produce, sections_named, stage_lock, unfinished

HOSTS = {
    "NNODES": "--nnodes",
    "NODE_RANK": "--node-rank",
    "MASTER_ADDR": "--master-addr",
    "MASTER_PORT": "--master-port",
}
"""Environment variables of a run on several hosts, and the options of `torchrun` that they stand for."""

BAD_INPUT, BROKEN = 2, 1
"""Exit codes: for errors that the user can mend, and for others."""

AFTER_OTHERS = 1.0
"""Seconds that a rank waits before it ends with an error that another rank may share or have caused."""

Run = Callable[[Stage, Ranks], None]


def main(name: str, run: Run, read: Callable[[], Params] = stages.parameters, module: str = "") -> int:
    """`pipeline.stage.main` for a stage that ranks can share.

    The first process holds the stage's lock, starts `runtime.processes` ranks of the module (default: the stage's in
    the main pipeline) and waits. The main rank does what a process alone would do; the others help and write nothing.
    When a rank ends before its work is done, all end, and a line says which rank it was, and why.
    """
    if is_rank():
        return _rank(name, run, read)
    codes: list[int] = []

    def start() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the process that does the work reads them, too, and warns
            params = read()
        if params.runtime.processes == 1 and hosts(os.environ) == 1:
            codes.append(stages.main(name, lambda stage: run(stage, ALONE), read))
            return
        # Other hosts may share this folder; only the first host's ranks write to it.
        first = os.environ.get("NODE_RANK", "0") == "0"
        with stage_lock(name) if first else nullcontext():
            codes.append(_launch(name, params, first, module or f"pipeline.{name}"))

    return guarded(name, start) or codes[0]


def hosts(environment: Mapping[str, str]) -> int:
    """The number of hosts that the stage is started on. Raises ValueError for variables that make no sense."""
    text = environment.get("NNODES", "1")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"NNODES: expected the number of hosts, found {text!r}")
    if int(text) > 1 and (missing := [name for name in HOSTS if name not in environment]):
        raise ValueError(f"NNODES: {text} hosts need {', '.join(missing)} in the environment, too")
    return int(text)


def _launch(name: str, params: Params, first: bool, module: str) -> int:
    """Start the ranks of this host, wait for them, and return the exit code."""
    options = [f"--nproc-per-node={params.runtime.processes}", "--max-restarts=0", "--monitor-interval=0.1"]
    if hosts(os.environ) > 1:
        options += [f"{option}={os.environ[variable]}" for variable, option in HOSTS.items()]
    else:
        options += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", f"--rdzv-id=bnas-{os.getpid()}"]
    os.environ[LAUNCHER] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(params.runtime.threads))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.disable(logging.CRITICAL)  # torchrun logs pages; its error says all that is needed
    with tempfile.TemporaryDirectory(prefix="bnas-ranks-") as folder:
        config, command, arguments = config_from_args(
            parse_args(  # type: ignore[no-untyped-call]
                [*options, f"--log-dir={folder}", "-m", module]
            )
        )
        try:
            elastic_launch(config, command)(*arguments)
        except ChildFailedError as error:
            line, code = explained(error.failures)
            complain(name, line)
            return code
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None
        finally:
            logging.disable(logging.NOTSET)
            if first:
                shutil.rmtree(unfinished(name), ignore_errors=True)
    return 0


def explained(failures: Mapping[int, ProcessFailure]) -> tuple[str, int]:
    """The line and the exit code for failed ranks: those of the first to fail, which the others followed."""

    def follows(item: tuple[int, ProcessFailure]) -> tuple[bool, int]:
        return item[1].exitcode in (LOST, -signal.SIGTERM), item[1].timestamp

    rank, failure = min(failures.items(), key=follows)
    who, code = f"rank {rank} (process {failure.pid})", BAD_INPUT if failure.exitcode == BAD_INPUT else BROKEN
    if failure.exitcode < 0:
        return f"{who} was ended by {failure.signal_name()}", code
    if "timestamp" not in failure.error_file_data:  # it did not write the file
        return f"{who} ended with exit code {failure.exitcode}", code
    return failure.message if code == BAD_INPUT and rank == 0 else f"{who}: {failure.message}", code


def _rank(name: str, run: Run, read: Callable[[], Params]) -> int:
    """Run one rank. A signal ends it at once, without tidying up, since it may be waiting for other ranks."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        with named(*sections_named(name)):
            cuda = torch.cuda.is_available() and read().runtime.device != "cpu"
            with _quiet():
                ranks = join(cuda=cuda)
            if ranks.is_main:
                warnings.formatwarning = one_line_warning
                with nullcontext() if LAUNCHER in os.environ else stage_lock(name):
                    produce(name, lambda stage: run(stage, ranks), read)
            else:
                warnings.simplefilter("ignore")
                run(Helper(name, read(), unfinished(name)), ranks)
            leave(ranks)
    except Exception as error:
        if os.environ.get("BNAS_TRACEBACK"):
            sys.excepthook(type(error), error, error.__traceback__)
        expected = isinstance(error, (ValueError, OSError))
        lost = isinstance(error, LostRankError)
        if lost or os.environ["RANK"] != "0":
            time.sleep(AFTER_OTHERS)
        give_up(
            one_line(error) if expected or lost else f"{type(error).__name__}: {' '.join(str(error).split())}",
            BAD_INPUT if expected else LOST if lost else BROKEN,
        )
    return 0


class Helper(Stage):
    """The stage on a rank that is not the main one: its progress and metrics go nowhere."""

    def progress(self, total: float, done: float = 0.0) -> Callable[[float, str], None]:
        """Returns a function that shows nothing."""
        return lambda work, note: None


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard standard output, where gloo prints its connections."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
