"""Networks that are trained from scratch: the family of a section of the parameters, and where results are kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict

import torch

from bnas.records.dataset import DatasetDescription
from bnas.space.genotype import Genotype
from bnas.space.network_config import Architecture, NetworkConfig
from bnas.storage.cache import CHECKPOINTS, NETWORKS
from bnas.storage.source_code import source_hash
from bnas.training import network_pool
from bnas.training.family import FINISHED, Family, FamilyData, Recipe, Ship, Use, as_trained
from pipeline import build, cache
from pipeline.config import files_root
from pipeline.params import Params
from pipeline.stage import PREPARED, cache_root


def family(
    params: Params,
    description: DatasetDescription,
    recipe: Recipe,
    device: torch.device,
    use: Use = FINISHED,
    ship: Ship = as_trained,
) -> Family:
    """Networks trained by a recipe on the prepared data."""
    data = FamilyData(
        PREPARED,
        description.mean,
        description.std,
        build.augmentation(params),
        files_root(description, params.runtime),
        params.runtime.loader_workers,
    )
    return Family(recipe, data, device, use, ship)


def start_over(jobs: Iterable[network_pool.Job]) -> None:
    """Forget what is kept of these networks, if the user wants to start over."""
    if not cache.no_resume():
        return
    for each in jobs:
        shutil.rmtree(each.folder, ignore_errors=True)
        each.unfinished().remove()


def job(
    name: str,
    config: NetworkConfig,
    genotype: Genotype,
    trained: Family,
    description: DatasetDescription,
    how: str = "",
) -> network_pool.Job:
    """The training of a network; its folder is named by everything that determines the result, code included.

    `how` tells processes and threads where the rounding depends on them.
    """
    determines = {
        "genotype": genotype.to_dict(),
        "config": asdict(config),
        "recipe": asdict(trained.recipe),
        "augmentation": asdict(trained.data.augmentation),
        "data": description.hash,
        "use": asdict(trained.use),
        "code": source_hash(network_pool.__name__),
        "machine": f"{cache.machine(trained.device)} {how}".strip(),
    }
    key = hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:32]
    finished, unfinished = cache_root() / NETWORKS / key, cache_root() / CHECKPOINTS / f"network-{key}"
    return network_pool.Job(name, Architecture(config, genotype), finished, unfinished)
