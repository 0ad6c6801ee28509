"""Stage `prepare`: one data set → fixed, stratified, seeded splits as memory-mappable arrays, and their description."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bnas.data.datasets import LOADERS
from bnas.data.labelled_images import Request
from bnas.data.npy import open_array
from bnas.data.prepare import prepare
from bnas.data.problems import DataError, FileProblem, ProblemsError
from bnas.data.split_rows import SPLITS, Cut, counted, uneven
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
        for note in loaded.notes:
            warnings.warn(f"{root}: {note}", stacklevel=1)
        side = min(loaded.images.shape[1:3])
        for name in ("shift", "cutout"):
            if (pixels := getattr(params.augmentation, name)) >= side:
                expected = f"expected less than the images' {side} pixels"
                raise DataError(f"data.augmentation.{name}: {expected}, found {pixels}")
        written = prepare(loaded, cut, stage.out, skip=params.on_bad_file == "skip")
    except ProblemsError as error:
        keyed = ProblemsError(error.root, map(_with_key, error.problems))
        raise DataError(f"{keyed} (listed in {_listed(keyed.problems)})") from None
    if written.skipped:
        count, listed = len(written.skipped), _listed(written.skipped)
        (why, most), *_ = Counter(problem.kind for problem in written.skipped).most_common(1)
        warnings.warn(f"{root}: {count} files left out, listed in {listed}; {most} of them: {why}", stacklevel=1)
    labels = np.concatenate([open_array(stage.out / name / "labels.npy") for name in SPLITS])
    if uneven(counts := np.bincount(labels, minlength=len(loaded.classes))):
        named = counted(loaded.classes, counts)
        warnings.warn(f"{root}: classes differ in size: {named}; balanced errors count them alike", stacklevel=1)
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


def _with_key(problem: FileProblem) -> FileProblem:
    """The same problem, with the key of params.yaml in place of the library's `image_size`."""
    whole = not problem.path and problem.text.startswith("image_size: ")
    return problem._replace(text=f"data.{problem.text}") if whole else problem


def _listed(problems: Sequence[FileProblem]) -> Path:
    """Write the problems to a file, a line each; its path."""
    path = cache_root() / PROBLEMS
    atomic_write(path, "".join(f"{problem}\n" for problem in problems))
    return path


if __name__ == "__main__":
    sys.exit(main("prepare", run))
