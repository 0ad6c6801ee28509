"""`make test-runtime`: install the base package, without any extra, into a venv of its own, and predict with it there.

Nothing of the venv that runs this is seen: no torch, no pipeline, no folder of the project. What the commands answer
has to be what they answer here. Needs pip's package index; takes a minute.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from bnas.cli import main as bnas
from bnas.space.network_config import NetworkConfig
from tests.bnas.packed import builders
from tests.imports import ROOT

SIZE = (28, 28)
"""Grey images of the size that the example of docs/shipping.md reads."""

ABSENT = ("torch", "torchvision", "dvc", "matplotlib", "pandas", "scipy", "deap", "onnx", "yaml")

EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


class Venv:
    """A venv with nothing but the base package in it, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.work = folder / "venv" / "bin", folder / "work"
        self.work.mkdir()
        source = folder / "source"
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("bnas", "pipeline"):
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        venv.create(folder / "venv", with_pip=True)
        pip = [self.bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source]
        subprocess.run(pip, check=True, env=self.environment)
        shutil.rmtree(source)

    @property
    def environment(self) -> Mapping[str, str]:
        """That of this process, but for what leads to this process's packages."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        return {name: value for name, value in os.environ.items() if name not in hidden}

    def run(self, program: str, *arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        """A program of the venv, in the folder; fails if it ends otherwise than expected or with a traceback."""
        command = [str(self.bin / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=self.work, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done


def answers(*arguments: object) -> str:
    """What the command prints in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert bnas([str(argument) for argument in arguments]) == 0
    return out.getvalue()


def prepare(work: Path) -> None:
    """A model for digits, two pictures, and a folder such as a run leaves."""
    config = NetworkConfig(1, 3, 8, 3, 2)
    (work / "model.bnn").write_bytes(builders.content(config, 3, SIZE))
    (work / "data" / "export").mkdir(parents=True)
    for seed in (1, 2):
        content = builders.content(config, 2, SIZE, seed, f"front-{seed}")
        (work / "data" / "export" / f"front-{seed}.bnn").write_bytes(content)
    (work / "photos").mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, SIZE, np.uint8)).save(work / "digit.png")
    Image.fromarray(rng.integers(0, 256, (60, 40, 3), np.uint8)).save(work / "photos" / "colour.jpg")


def check(venv_: Venv) -> None:
    """Every command, and the example of docs/shipping.md as it stands there."""
    work = venv_.work
    finder = f"import importlib.util as u; print([n for n in {ABSENT!r} if u.find_spec(n)])"
    assert venv_.run("python", "-c", finder).stdout.strip() == "[]", "the venv has more than the base package"
    pictures = (work / "digit.png", work / "photos")
    start = time.perf_counter()
    found = venv_.run("bnas", "predict", work / "model.bnn", *pictures, "--json").stdout
    print(f"first prediction, compilation included: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    assert venv_.run("bnas", "predict", work / "model.bnn", *pictures, "--json").stdout == found
    print(f"second: {time.perf_counter() - start:.1f} s")
    assert found == answers("predict", work / "model.bnn", *pictures, "--json")
    rows = json.loads(found)
    assert len(rows) == 2
    (example,) = EXAMPLE.findall((ROOT / "docs/shipping.md").read_text(encoding="utf-8"))
    assert venv_.run("python", "-c", example).stdout.strip() == rows[0]["class"]
    assert venv_.run("bnas", "inspect", "model.bnn").stdout == answers("inspect", work / "model.bnn")
    assert "front-2" in venv_.run("bnas", "list").stdout
    assert "copied to" in venv_.run("bnas", "pick", "--max-kib", 40, "-o", "picked.bnn").stdout
    assert "images/s" in venv_.run("bnas", "benchmark", "picked.bnn", "--seconds", 0.1).stdout
    assert "_shtab_bnas" in venv_.run("bnas", "completion", "bash").stdout
    # What needs an extra names it, in one line.
    (line,) = venv_.run("bnas", "export-onnx", "model.bnn", status=2).stderr.splitlines()
    assert "bnas[onnx]" in line, line


def main() -> None:
    """Install, predict, compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        start = time.perf_counter()
        venv_ = Venv(folder)
        size = sum(path.stat().st_size for path in (folder / "venv").rglob("*") if path.is_file())
        print(f"installed in {time.perf_counter() - start:.0f} s, {size / 2**20:.0f} MiB")
        prepare(venv_.work)
        check(venv_)
    print("ok: the base package predicts without torch, as it does here")


if __name__ == "__main__":
    sys.exit(main())
