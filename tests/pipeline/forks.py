"""Stages run, and killed, in forks of one process that has imported torch already: seconds less for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.imports import ROOT

_SERVER = """
import contextlib, importlib, io, json, os, random, resource, signal, sys, traceback, warnings
import torch
from bnas.kernels import passes
from bnas.scoring import shared_paths, ways
from bnas.storage import checkpoint
from bnas.nn.network import NetworkConfig, Supernet
from bnas.space.search_space import SearchSpace
from bnas.scoring.answers import answers_on
from pipeline import export, prepare, processes, report, retrain, search, stage, stage1, stage2, trial

MODULES = {"prepare": prepare, "stage1": stage1, "stage2": stage2, "search": search, "trial": trial, "retrain": retrain}
MODULES |= {"export": export, "report": report}

weight = torch.nn.Parameter(torch.zeros(1))
weight.sum().backward()
torch.optim.Adam([weight], fused=True).step()  # imports what takes long once, before there are forks

space = SearchSpace(("skip_connect", "max_pool_3x3", "bin_conv_3x3"), 2)
paths, x = shared_paths.Paths(Supernet(NetworkConfig(1, 2, 2, 3), space)), torch.zeros(2, 1, 8, 8)
for plan in paths.plans([space.sample(random.Random(seed)) for seed in range(9)], x):
    list(paths.logits(plan, x))  # loads the compiled kernels

def limit(order):
    os.environ.update(order["environment"])
    if order["megabytes"]:  # more of address space than now
        pages = int(open("/proc/self/statm").read().split()[0])
        most = pages * resource.getpagesize() + order["megabytes"] * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if order["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], resource.RLIM_INFINITY))
    if order["as_nobody"] and os.geteuid() == 0:  # root may write to whatever is read-only
        os.setuid(65534)

def main(name, folder):
    os.chdir(folder)
    # Stages with compiled kernels are imported by those that run them.
    module = MODULES.get(name) or importlib.import_module("pipeline." + name)
    start = processes.main if name in ("stage1", "stage2", "search", "trial", "retrain") else stage.main
    return start(name, module.run)

def run_each(runs):
    warnings.simplefilter("always")  # not only the first time
    for name, folder in runs:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(name, folder)
            except BaseException:
                traceback.print_exc()
                code = 1
        print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
    return 0

def run(order):
    limit(order)
    if order["runs"]:
        return run_each(order["runs"])
    steps, saved = [], []
    step, save = torch.optim.Adam.step, checkpoint.Checkpoints.save
    score, together = ways.answers_on, shared_paths.answers_from

    def counted(*args, **more):
        steps.append(1)
        return step(*args, **more)

    def scored(*args):
        steps.append(1)
        return score(*args)

    def killed(self, state):
        save(self, state)
        saved.append(1)
        if len(saved) == order["kill_after"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def scored_together(*args):
        steps.append(1)
        return together(*args)

    torch.optim.Adam.step, ways.answers_on, checkpoint.Checkpoints.save = counted, scored, killed
    shared_paths.answers_from = scored_together
    code = main(order["stage"], order["folder"])
    print("steps", len(steps), flush=True)
    return code

def read(descriptor):
    with os.fdopen(descriptor, errors="replace") as file:
        return file.read()

# All kernels of training, from their cache, which another user may not reach.
passes.runner()
supernet = Supernet(NetworkConfig(1, 2, 4, 3), space).to(memory_format=torch.channels_last)
for seed in range(9):
    x = torch.rand(4, 1, 8, 8).to(memory_format=torch.channels_last)
    supernet(x, space.sample(random.Random(seed))).sum().backward()
"".encode("utf-8-sig")  # a codec that nobody may be unable to load later
print("ready", flush=True)
for line in sys.stdin:
    pipes = [os.pipe(), os.pipe()]
    child = os.fork()
    if child == 0:
        for number, (ours, theirs) in enumerate(pipes, 1):
            os.dup2(theirs, number)
        code = 1
        try:
            code = run(json.loads(line))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for _, theirs in pipes:
        os.close(theirs)
    out, err = (read(ours) for ours, _ in pipes)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out, err]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    """How a stage ended: exit code (negative: the signal that killed it), output, optimiser steps and answers."""

    code: int
    out: str
    err: str
    steps: int | None


class Forks:
    """Runs stages one at a time, each in a fork of its own."""

    def __init__(self) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "BNAS_"))}
        self.server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def run(
        self,
        folder: Path,
        stage: str,
        kill_after: int = 0,
        *,
        megabytes: int = 0,
        file_bytes: int | None = None,
        as_nobody: bool = False,
        **environment: str,
    ) -> Done:
        """One run of a stage in a folder, killed after so many checkpoints (0: not at all).

        `megabytes` limits the memory it may ask for, `file_bytes` the size of each file it writes, `as_nobody` takes
        the privileges of root from it.
        """
        code, out, err = self._ask(
            folder=str(folder),
            stage=stage,
            kill_after=kill_after,
            megabytes=megabytes,
            file_bytes=file_bytes,
            as_nobody=as_nobody,
            environment=environment,
        )
        steps = [int(line.split()[1]) for line in out.splitlines() if line.startswith("steps ")]
        return Done(code, out, err, steps[-1] if steps else None)

    def run_each(self, runs: Sequence[tuple[str, Path]], megabytes: int) -> list[Done]:
        """Stages in folders, one after another in one process, which may ask for so much memory in all."""
        code, out, err = self._ask(runs=[(stage, str(folder)) for stage, folder in runs], megabytes=megabytes)
        found = [Done(*json.loads(line), steps=None) for line in out.splitlines()]
        if len(found) < len(runs):
            raise AssertionError(f"the process ended with {code} in {runs[len(found)]}\n{err}")
        return found

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=300)
        assert self.server.stdout is not None
        self.server.stdout.close()

    def _ask(self, **order: Any) -> tuple[int, str, str]:
        """Exit code, output and errors of a fork that does what is ordered."""
        nothing = {"megabytes": 0, "file_bytes": None, "as_nobody": False, "environment": {}, "runs": []}
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(nothing | order) + "\n")
        self.server.stdin.flush()
        code, out, err = json.loads(self._answer())
        return code, out, err

    def _answer(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()
