"""Stage `prepare`: one data set → fixed, stratified, seeded splits as memory-mappable arrays, and their description."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from bnas.data.datasets import LOADERS, Request
from bnas.data.file_images import Problem
from bnas.data.image_array import DataError
from bnas.data.labelled_images import ProblemsError
from bnas.data.prepare import prepare
from bnas.data.split_rows import Cut
from bnas.records.dataset import DatasetDescription, ImageShape, SplitCounts
from pipeline.stage import Stage, atomic_write, cache_root, main, write_json

PROBLEMS = "bad-files.txt"


def run(stage: Stage) -> None:
    """Load, split, and write each split's arrays and `dataset.json`."""
    params = stage.params.data
    root = Path(stage.params.runtime.data_root) / params.name
    cut = Cut(params.seed, params.test_fraction, params.validation_fraction, params.images_per_class)
    request = Request(
        root, params.image_size, params.images_per_class, params.seed, stage.params.runtime.loader_workers
    )
    try:
        loaded = LOADERS[params.name](request)
        side = min(loaded.images.shape[1:3])
        if params.augmentation.cutout >= side:
            expected = f"data.augmentation.cutout: expected less than the images' {side} pixels"
            raise DataError(f"{expected}, found {params.augmentation.cutout}")
        written = prepare(loaded, cut, stage.out, skip=params.on_bad_file == "skip")
    except ProblemsError as error:
        raise DataError(f"{error} (listed in {_listed(error.problems)})") from None
    if written.skipped:
        warnings.warn(
            f"{root}: {len(written.skipped)} files left out, listed in {_listed(written.skipped)}", stacklevel=1
        )
    _, height, width, channels = loaded.images.shape
    description = DatasetDescription(
        name=params.name,
        title=params.title or loaded.title,
        classes=loaded.classes,
        image=ImageShape(height, width, channels, loaded.resize),
        counts=SplitCounts(**written.counts),
        mean=written.mean,
        std=written.std,
        hash=written.hash,
    )
    write_json(stage.out / "dataset.json", description.to_dict())


def _listed(problems: Sequence[Problem]) -> Path:
    path = cache_root() / PROBLEMS
    atomic_write(path, "".join(f"{problem}\n" for problem in problems))
    return path


if __name__ == "__main__":
    sys.exit(main("prepare", run))
