"""Stages run, and killed, in forks of one process that has imported torch already: seconds less for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.imports import ROOT

_SERVER = """
import json, os, signal, sys, traceback
import torch
from bnas import checkpoint, evaluate
from bnas.train import count_wrong
from pipeline import prepare, report, retrain, search, stage1, stage2
from pipeline.stage import main

MODULES = {"prepare": prepare, "stage1": stage1, "stage2": stage2, "search": search, "retrain": retrain}
MODULES["report"] = report

weight = torch.nn.Parameter(torch.zeros(1))
weight.sum().backward()
torch.optim.Adam([weight], fused=True).step()  # imports what takes long once, before there are forks

def run(order):
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    steps, saved = [], []
    step, save, score = torch.optim.Adam.step, checkpoint.Checkpoints.save, evaluate.count_wrong

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

    torch.optim.Adam.step, evaluate.count_wrong, checkpoint.Checkpoints.save = counted, scored, killed
    code = main(order["stage"], MODULES[order["stage"]].run)
    print("steps", len(steps), flush=True)
    return code

print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = run(json.loads(line))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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

    def run(self, folder: Path, stage: str, kill_after: int = 0, **environment: str) -> Done:
        """One run of a stage in a folder, killed after so many checkpoints (0: not at all)."""
        out, err = self.folder / "out", self.folder / "err"
        order: dict[str, Any] = {"folder": str(folder), "stage": stage, "kill_after": kill_after}
        order |= {"environment": environment, "out": str(out), "err": str(err)}
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        code, text = int(self._answer()), out.read_text()
        steps = [int(line.split()[1]) for line in text.splitlines() if line.startswith("steps ")]
        return Done(code, text, err.read_text(), steps[-1] if steps else None)

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait(timeout=30)
        assert self.server.stdout is not None
        self.server.stdout.close()

    def _answer(self) -> str:
        assert self.server.stdout is not None
        return self.server.stdout.readline().strip()
