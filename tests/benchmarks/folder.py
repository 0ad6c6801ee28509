"""`prepare` on a folder of 100,000 small pictures: its peak memory and its time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.benchmarks.text import table
from tests.imports import ROOT

PICTURES, CLASSES, SIDE = 100_000, 10, 32

MOST_GIB = 1.5
"""Resident memory that `prepare` may take for as many pictures."""

PREPARE = """
import json, resource, runpy, time
from pathlib import Path
start = time.perf_counter()
try:
    runpy.run_module("pipeline.prepare", run_name="__main__", alter_sys=True)
except SystemExit as ended:
    assert not ended.code, ended.code
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([time.perf_counter() - start, peak / 2**10, children / 2**10]))
"""
"""Its seconds, the high-water mark of its resident set, and that of the largest process it waited for, in MiB."""


def folder() -> list[dict[str, Any]]:
    """One run of the stage on pictures that are made for it."""
    with tempfile.TemporaryDirectory() as name:
        project, raw = Path(name) / "project", Path(name) / "raw"
        start = time.perf_counter()
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(pictures, raw / "image_folder", PICTURES // CLASSES), range(CLASSES)))
        made = time.perf_counter() - start
        files = list(raw.glob("*/*/*.png"))
        assert len(files) == PICTURES
        size = sum(path.stat().st_size for path in files)
        project.mkdir()
        for part in ("bnas", "pipeline", "dvc.yaml"):
            (project / part).symlink_to(ROOT / part)
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params["data"] |= {"name": "image_folder", "image_size": 0, "images_per_class": 0}
        params["runtime"] |= {"data_root": str(raw)}
        (project / "params.yaml").write_text(yaml.safe_dump(params))
        done = subprocess.run(
            [sys.executable, "-c", PREPARE], cwd=project, check=True, stdout=subprocess.PIPE, text=True
        )
        seconds, peak, children = json.loads(done.stdout.splitlines()[-1])
        described = json.loads((project / "data/prepared/dataset.json").read_text())
        assert sum(described["counts"].values()) == PICTURES
        pixels = sum(path.stat().st_size for path in project.glob("data/prepared/*/images.npy"))
    return [
        {
            "pictures": PICTURES,
            "side": SIDE,
            "MiB of files": round(size / 2**20),
            "MiB of pixels": round(pixels / 2**20),
            "peak MiB": round(peak),
            "its children's": round(children),
            "s": round(seconds, 1),
            "files/s": round(PICTURES / seconds),
            "s to make the files": round(made, 1),
        }
    ]


def pictures(root: Path, count: int, label: int) -> None:
    """A class of PNG files, no two of them equal."""
    rng, path = np.random.default_rng(label), root / f"class {label}"
    path.mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png", compress_level=1)


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as Markdown."""
    (row,) = found["folder"]
    return [
        "## A large folder",
        f"`python -m pipeline.prepare` once on a folder of small PNG files: the high-water mark of its resident set "
        f"(at most {MOST_GIB} GiB are allowed: {verdict(row)}) and its time. "
        "`python -m tests.benchmarks folder` measures it again.",
        table(found["folder"]),
    ]


def verdict(row: Mapping[str, Any]) -> str:
    """Whether the peak is allowed."""
    return "met" if row["peak MiB"] + row["its children's"] <= MOST_GIB * 2**10 else "missed"


MEASURES: Mapping[str, Callable[[], Any]] = {"folder": folder}
