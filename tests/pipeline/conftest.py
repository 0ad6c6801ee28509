"""Runs on tiny parameters, each made once for all tests and copied, and servers that run stages without imports."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from bnas.records.networks import RetrainedNetwork, RetrainedNetworks
from bnas.records.search import read_front
from bnas.storage.lock import lock
from bnas.storage.weights import save_weights
from pipeline.config import dataset
from pipeline.export import untrained
from pipeline.params import load
from pipeline.stage import write_json
from tests.imports import ROOT
from tests.pipeline.forks import Forks
from tests.pipeline.warm import WarmCommands
from tests.pipeline.workspace import STAGES, Workspace, tiny_params

Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Gives a folder by its name, filled by whichever process of the test run asks first; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder of its own in it

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        found = base / f"shared-{name}"
        with lock(base / f"shared-{name}.lock", name, wait=True):
            if not found.exists():
                unfinished = base / f"unfinished-{name}"
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                fill(unfinished)
                unfinished.rename(found)
        return found

    return folder


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmCommands]:
    """`dvc` and the stages without their imports."""
    found = WarmCommands(Workspace.environment())
    yield found
    found.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shared: Shared, warm: WarmCommands) -> Workspace:
    """All stages run and committed, a copy for each module; a test that changes something puts it back."""

    def run(folder: Path) -> None:
        workspace = Workspace(folder, warm.folder)
        assert workspace.repro() == list(STAGES)
        workspace.commit()

    return Workspace(tmp_path_factory.mktemp("project"), warm.folder, like=shared("project", run))


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs a stage without DVC in a fraction of a second."""
    found = Forks()
    yield found
    found.close()


class Searched(NamedTuple):
    """The stages before the retraining, run once without DVC, and the steps that each took."""

    folder: Path
    steps: dict[str, int]

    def before(self, stage: str, folder: Path) -> Path:
        """A copy as it was before a stage ran; its code is a link."""
        shutil.copytree(self.folder / "data", folder / "data")
        shutil.rmtree(folder / "data" / stage, ignore_errors=True)
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(self.folder / name, folder)
        for name in ("bnas", "pipeline"):
            (folder / name).symlink_to(self.folder / name)
        return folder


@pytest.fixture(scope="session")
def searched(shared: Shared, forks: Forks) -> Searched:
    """Nobody changes it: tests work on copies."""

    def run(folder: Path) -> None:
        project(folder)
        steps = {}
        for name in ("prepare", "stage1", "stage2", "search", "trial"):
            done = forks.run(folder, name)
            assert (done.code, done.err) == (0, "")
            steps[name] = done.steps or 0
        write_json(folder / "steps.json", steps)

    folder = shared("searched", run)
    return Searched(folder, json.loads((folder / "steps.json").read_text()))


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Searched:
    """The first stage of a data set that is never copied; its raw files lie beside `data/prepared`."""
    folder = project(tmp_path_factory.mktemp("indexed"))
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["data"] |= {"name": "imagenet", "image_size": 16, "images_per_class": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    rng = np.random.default_rng(0)
    for place in ("train/n1", "train/n2", "val/n1", "val/n2"):
        target = folder / "data/raw/imagenet" / place
        target.mkdir(parents=True)
        for i in range(50 if "train" in place else 4):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)).save(target / f"{i}.JPEG")
    done = forks.run(folder, "prepare")
    assert (done.code, done.err) == (0, "")
    return Searched(folder, {})


@pytest.fixture(scope="session")
def retrained(tmp_path_factory: pytest.TempPathFactory, searched: Searched) -> Searched:
    """The same with one network as the retraining leaves it, but for its training."""
    folder = searched.before("retrain", tmp_path_factory.mktemp("retrained"))
    (member, *_) = read_front(folder / "data/trial/front.json").members
    found = RetrainedNetwork(
        "front-1", "front", member.genotype, 2, 3, member.size_bytes, member.params, member.ops, 0.5, 6, 60, 1, None
    )
    place = folder / "data/retrain" / found.name
    place.mkdir(parents=True)
    write_json(place.with_name("networks.json"), RetrainedNetworks((found,)).to_dict())
    with contextlib.chdir(folder):
        save_weights(untrained(found, load("params.yaml"), dataset()), place / "weights.safetensors")
    return Searched(folder, searched.steps)


def project(folder: Path) -> Path:
    """What a stage reads of the project, with parameters as tiny as elsewhere, but something to stop between."""
    for name in ("bnas", "pipeline"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    values = yaml.safe_load(tiny_params())
    values["stage1"] |= {"epochs": 2, "generations": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder
