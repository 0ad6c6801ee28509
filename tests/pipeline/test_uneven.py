"""Classes of different sizes through the stages: counted by `prepare`, each alike where errors are balanced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.pipeline.conftest import project
from tests.pipeline.forks import Forks

COUNTS = {"cat": 190, "dog": 20}
VALIDATED = {"cat": 38, "dog": 4}


@pytest.mark.parametrize(("error", "guessing"), [("plain", 4 / 42), ("balanced", 0.5)])
def test_uneven_classes_are_counted_and_weigh_alike_where_errors_are_balanced(
    tmp_path: Path, forks: Forks, error: str, guessing: float
) -> None:
    folder, rng = project(tmp_path), np.random.default_rng(0)
    for name, count in COUNTS.items():
        place = folder / "data/raw/image_folder" / name
        place.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (12, 12)).astype(np.uint8)).save(place / f"{i}.png")
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["data"] |= {"name": "image_folder", "image_size": 12, "images_per_class": 0}
    values["data"] |= {"test_fraction": 0.2, "validation_fraction": 0.2}
    values["objectives"]["error"] = error
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    done = forks.run(folder, "prepare")
    assert done.code == 0
    assert done.err.splitlines() == [
        "warning: data/raw/image_folder: classes differ in size: cat 190, dog 20; balanced errors count them alike"
    ]
    for stage in ("stage1", "stage2", "search"):
        done = forks.run(folder, stage)
        assert (done.code, done.err) == (0, "")
    front = json.loads((folder / "data/search/front.json").read_text())
    assert front["space"]["chance_error"] == pytest.approx(guessing)
    for member in front["members"]:
        dogs = range(max(0, member["wrong"] - VALIDATED["cat"]), min(member["wrong"], VALIDATED["dog"]) + 1)
        balanced = [((member["wrong"] - d) / VALIDATED["cat"] + d / VALIDATED["dog"]) / 2 for d in dogs]
        expected = balanced if error == "balanced" else [member["wrong"] / 42]
        assert min(abs(member["error"] - each) for each in expected) < 1e-9
