"""Stage `prepare`: one data set → fixed, stratified, seeded splits as memory-mappable arrays, and their description."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas import data
from bnas.results import DatasetDescription, ImageShape, SplitCounts
from pipeline.stage import Stage, main, write_json


def run(stage: Stage) -> None:
    """Load, split, and write each split's arrays and `dataset.json`."""
    params = stage.params.data
    loaded = data.LOADERS[params.name](Path(stage.params.runtime.data_root))
    fractions = {"validation": params.validation_fraction, "test": params.test_fraction}
    rows = data.stratified_split(loaded.labels, fractions, params.seed, params.images_per_class)
    arrays: list[NDArray[np.uint8] | NDArray[np.int64]] = []
    for name in data.SPLITS:
        split = data.Split(loaded.images[rows[name]], loaded.labels[rows[name]])
        split.save(stage.out / name)
        arrays += [split.images, split.labels]
    mean, std = data.channel_statistics(loaded.images[rows["train"]])
    height, width, channels = loaded.images.shape[1:]
    description = DatasetDescription(
        name=params.name,
        title=loaded.title,
        classes=loaded.classes,
        image=ImageShape(height=height, width=width, channels=channels),
        counts=SplitCounts(**{name: len(rows[name]) for name in data.SPLITS}),
        mean=tuple(mean),
        std=tuple(std),
        hash=data.content_hash(arrays),
    )
    write_json(stage.out / "dataset.json", description.to_dict())


if __name__ == "__main__":
    sys.exit(main("prepare", run))
