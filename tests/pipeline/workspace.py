"""A copy of the project with tiny parameters, driven by the real `dvc`."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from bnas.nn.network import Network, NetworkConfig, Supernet
from bnas.packed.latency import network_seconds
from bnas.scoring.shared_paths import Paths
from bnas.space.search_space import SearchSpace, sample_uniform
from bnas.storage.lock import lock
from tests.imports import ROOT

STAGES = ("prepare", "latency_table", "stage1", "stage2", "search", "trial", "retrain", "export", "report")

LONGEST = 900
"""Seconds after which a command counts as hung: the longest takes less than a minute."""


class Workspace:
    """A git repository of its own that holds what a clone would, with a params.yaml that runs in seconds.

    `commands` holds other programs than this environment's, as `tests.pipeline.warm` has them; `like` another
    workspace's folder, of which this one begins as a copy.
    """

    def __init__(self, folder: Path, commands: Path | None = None, like: Path | None = None) -> None:
        self.folder = folder
        self.commands = commands
        if like is not None:
            shutil.copytree(like, folder, symlinks=True, dirs_exist_ok=True)
            return
        # With the compiled kernels, which would take longer than all stages together.
        compile_kernels()
        for name in ("bnas", "pipeline"):
            shutil.copytree(ROOT / name, folder / name, ignore=_all_but_kernels)
        for name in ("dvc.yaml", ".gitignore", ".dvcignore", ".gitattributes"):
            shutil.copy(ROOT / name, folder / name)
        (folder / ".dvc").mkdir()
        for name in ("config", ".gitignore"):
            shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
        shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
        (folder / "data/raw/mnist5k").mkdir(parents=True)
        shutil.copy(ROOT / "data/raw/mnist5k/README.md", folder / "data/raw/mnist5k")
        (folder / "params.yaml").write_text(tiny_params())
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.email", "test@example.org")
        self.git("config", "user.name", "test")
        self.commit()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the workspace. One that does not end is killed, so that a test fails instead of waiting."""
        env = self.environment()
        if self.commands is not None:
            env["PATH"] = f"{self.commands}{os.pathsep}{env['PATH']}"
        pipe, said = subprocess.PIPE, " ".join(command)
        process = subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        try:
            out, err = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"{said} did not end within {LONGEST} s") from None
        if check and process.returncode:
            raise AssertionError(f"{said} exited {process.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    @staticmethod
    def environment() -> dict[str, str]:
        """Nothing of ours, and this environment's `python` and `dvc` first on PATH."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "BNAS_", "GIT_"))}
        env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "OMP_NUM_THREADS": "1"}
        env.pop("PYTHONPATH", None)
        return env

    def git(self, *arguments: str) -> str:
        """The output of a git command."""
        return self.run("git", *arguments).stdout

    def commit(self) -> None:
        """Commit everything that is not ignored."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "state")

    def repro(self, *options: str) -> list[str]:
        """`dvc repro`; the stages that ran (with `--dry`: that would run), in order."""
        return self.ran(self.run("dvc", "repro", *options).stdout)

    @staticmethod
    def ran(output: str) -> list[str]:
        """The stages that DVC says it runs, in order."""
        return re.findall(r"^Running stage '(\w+)'", output, flags=re.MULTILINE)

    def set(self, key: str, value: object) -> object:
        """Change one parameter by its dotted key; returns what it was."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        *sections, last = key.split(".")
        target = params
        for section in sections:
            target = target[section]
        before, target[last] = target[last], value
        path.write_text(yaml.safe_dump(params, sort_keys=False))
        return before


def _all_but_kernels(folder: str, names: list[str]) -> list[str]:
    """Of a folder of compiled code all but numba's files: other processes write there meanwhile."""
    return [name for name in names if Path(folder).name == "__pycache__" and not name.endswith((".nbi", ".nbc"))]


def compile_kernels() -> None:
    """Compile all kernels in this checkout, unless numba finds them in its cache; one process at a time."""
    space, config = SearchSpace(nodes=1), NetworkConfig(1, 2, 2, 3)
    genotypes = sample_uniform(space, random.Random(0), 20)
    with lock(ROOT / ".cache/locks/tests.lock", "compiling", wait=True):
        network_seconds(NetworkConfig(1, 2, 1, 3), genotypes[0], 4, 4, 0.0)
        supernet, x = Supernet(config, space).to(memory_format=torch.channels_last), torch.zeros(4, 1, 8, 8)
        supernet(x, genotypes[0]).sum().backward()
        Network(config, genotypes[0]).to(memory_format=torch.channels_last)(x).sum().backward()
        paths = Paths(supernet.eval())
        for plan in paths.plans(genotypes, x):
            list(paths.logits(plan, x))


def tiny_params() -> str:
    """The committed parameters, shrunk until every stage takes about as long as importing torch."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"] |= {"images_per_class": 24, "test_fraction": 0.25, "validation_fraction": 0.25}
    params["space"] |= {"nodes": 1}
    for scale in params["network"].values():
        if isinstance(scale, dict):
            scale |= {"channels": 2, "cells": 3}
    for name in ("stage1", "stage2"):
        params[name] |= {"population": 4, "epochs": 1, "generations": 1, "batch_size": 60}
        params[name]["evaluation"] |= {"batch_size": 30, "batches": 1, "calibration_batches": 1}
    params["search"] |= {"population": 4, "generations": 2, "immigrants": 4}
    params["search"]["evaluation"] |= {"batch_size": 30, "batches": 1, "calibration_batches": 1}
    params["trial"] |= {"population": 4, "generations": 1, "candidates": 2, "batch_size": 60}
    params["trial"] |= {"finalists": 2, "finalist_epochs": 2, "bins": 2}
    params["retrain"] |= {"count": 1, "epochs": 1, "batch_size": 60, "hand_designed_channels": [2]}
    params["retrain"] |= {"published": [], "linear_baseline": True}
    params["runtime"] |= {"device": "cpu", "threads": 1, "workers": 1}
    return yaml.safe_dump(params, sort_keys=False)
