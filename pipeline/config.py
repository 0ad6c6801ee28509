"""Search space and configuration of networks, from parameters and prepared data; without torch."""

from __future__ import annotations

from pathlib import Path

from bnas.records.dataset import DatasetDescription, read_dataset
from bnas.space.network_config import NetworkConfig
from bnas.space.search_space import SearchSpace
from pipeline.params import Params
from pipeline.params import sections as schema
from pipeline.stage import PREPARED


def dataset() -> DatasetDescription:
    """The description that `prepare` wrote."""
    return read_dataset(PREPARED / "dataset.json")


def files_root(description: DatasetDescription, runtime: schema.RuntimeSection) -> Path:
    """The folder of the data set's files."""
    return Path(runtime.data_root) / description.name


def search_space(params: Params) -> SearchSpace:
    """The search space."""
    return SearchSpace(params.space.operations, params.space.nodes, params.space.name)


def network_config(params: Params, description: DatasetDescription, scale: schema.ScaleSection) -> NetworkConfig:
    """The configuration of a network for the data set, at the supernet's or the final scale."""
    return NetworkConfig(
        in_channels=description.image.channels,
        classes=len(description.classes),
        channels=scale.channels,
        cells=scale.cells,
        stem_stride=params.network.stem_stride,
        sign=params.network.sign,
        shipped=params.network.shipped,
    )
