"""From parameters and prepared data to plain values: what the networks are, without torch."""

from __future__ import annotations

from pathlib import Path

from bnas.records.dataset import DatasetDescription, read_dataset
from bnas.space.network_config import NetworkConfig
from bnas.space.search_space import SearchSpace
from pipeline.params import Params
from pipeline.params import sections as schema
from pipeline.stage import PREPARED


def dataset() -> DatasetDescription:
    """The description that `prepare` wrote. Raises ValueError if its parts do not fit together."""
    path = PREPARED / "dataset.json"
    description = read_dataset(path)
    for field in ("mean", "std"):
        if len(getattr(description, field)) != description.image.channels:
            found = len(getattr(description, field))
            raise ValueError(f"{path}: {field}: expected {description.image.channels} channels, found {found}")
    if len(description.classes) < 2:
        raise ValueError(f"{path}: classes: expected at least two, found {list(description.classes)}")
    return description


def files_root(description: DatasetDescription, runtime: schema.RuntimeSection) -> Path:
    """Where the data set's files lie."""
    return Path(runtime.data_root) / description.name


def search_space(params: Params) -> SearchSpace:
    """The search space."""
    return SearchSpace(params.space.operations, params.space.nodes, params.space.name)


def network_config(params: Params, description: DatasetDescription, scale: schema.ScaleSection) -> NetworkConfig:
    """A network of the data set's classes at the supernet's or the final scale."""
    return NetworkConfig(
        in_channels=description.image.channels,
        classes=len(description.classes),
        channels=scale.channels,
        cells=scale.cells,
        stem_stride=params.network.stem_stride,
        sign=params.network.sign,
    )
