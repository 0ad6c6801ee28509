"""Makes the values that `bnas` works with from parameters and prepared data."""

from __future__ import annotations

from pathlib import Path

import torch

from bnas.data import batches
from bnas.data.split import Normalise, Split
from bnas.nn.cost import CostTable
from bnas.nn.network import Supernet
from bnas.records.dataset import DatasetDescription
from bnas.records.latencies import latency_table, read_measured_latencies
from bnas.scoring.scorer import ALL_BATCHES, Scorer
from bnas.scoring.supernet_scorer import ScoringData, ScoringPlan, supernet_scorer
from bnas.search.generation import VariationRates
from bnas.search.problem import ResourceTable, SearchProblem
from bnas.space.genotype import Genotype
from bnas.space.search_space import SearchSpace
from bnas.storage.files import read_json
from bnas.storage.weights import load_weights
from bnas.training.ranks import ALONE, Ranks
from pipeline import cache
from pipeline.config import files_root, network_config, search_space
from pipeline.params import Params
from pipeline.params import sections as schema
from pipeline.stage import PREPARED, Stage, named

LATENCIES = Path("data/latency_table/table.json")


def split(name: str, description: DatasetDescription, runtime: schema.RuntimeSection) -> Split:
    """One of the prepared splits. Raises ValueError if its content is not what `prepare` wrote and described."""
    folder, image = PREPARED / name, description.image
    shape = [getattr(description.counts, name), image.height, image.width, image.channels]
    opened = Split.open(folder, files_root(description, runtime), runtime.loader_workers)
    if list(opened.images.shape) != shape:
        raise ValueError(f"{folder}: expected images {shape}, found {list(opened.images.shape)}")
    opened.verify(folder)
    outside = (opened.labels < 0) | (opened.labels >= len(description.classes))
    if outside.any():
        label, last = int(opened.labels[outside][0]), len(description.classes) - 1
        raise ValueError(f"{folder}: expected labels from 0 to {last}, found {label}")
    return opened


def device(runtime: schema.RuntimeSection, ranks: Ranks = ALONE) -> torch.device:
    """The device to run on, after setting the number of threads. Raises ValueError if it is not there.

    Each of several ranks on a host has a GPU of its own.
    """
    torch.set_num_threads(runtime.threads)
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise ValueError("runtime.device: expected a device that is present, found 'cuda' on a machine without")
    if not available or runtime.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda") if ranks.size == 1 else torch.device("cuda", ranks.local)


def require_bfloat16(wanted: bool, on: torch.device) -> None:
    """Raises ValueError if mixed precision is wanted of a device that does not compute in bfloat16 by itself."""
    if not wanted:
        return
    if on.type != "cuda":
        raise ValueError("mixed_precision: expected false where training runs on the CPU (it needs a GPU), found true")
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError("mixed_precision: expected false on a GPU without bfloat16, found true")


def normalise(description: DatasetDescription, on: torch.device) -> Normalise:
    """The normalisation by the train split's statistics."""
    return Normalise(description.mean, description.std, on)


def augmentation(params: Params) -> batches.Augmentation:
    """The augmentation of training images."""
    return batches.Augmentation(**params.data.augmentation.model_dump())


def cost_table(params: Params, description: DatasetDescription, space: SearchSpace) -> CostTable:
    """The costs of a space's networks at the final scale."""
    return CostTable(network_config(params, description, params.network.final), space, description.image.shape)


def problem(params: Params, description: DatasetDescription) -> SearchProblem:
    """The space, and what its networks cost at the final scale."""
    space, section = search_space(params), params.objectives
    costs = cost_table(params, description, space)
    resource: ResourceTable
    if section.resource == "latency":
        measured = read_measured_latencies(LATENCIES).table
        if measured is None or not measured.cells:
            raise ValueError(f"{LATENCIES}: expected measured latencies, found none")
        resource = latency_table(measured, space)
    else:
        tables: dict[str, ResourceTable] = {"size": costs.size, "ops": costs.ops, "ram": costs.ram}
        resource = tables[section.resource]
    return SearchProblem(space, costs, resource, section.margin, params.space.sampling)


def variation(section: schema.VariationSection) -> VariationRates:
    """How offspring are made."""
    return VariationRates(section.crossover, section.mutation_rate, section.random_share)


def scoring(params: Params, section: schema.EvaluationSection) -> ScoringPlan:
    """How individuals are scored."""
    return ScoringPlan(
        section.batch_size,
        section.batch_norm,
        section.calibration_batches,
        params.runtime.workers,
        balanced=params.objectives.error == "balanced",
    )


def scored_batches(section: schema.EvaluationSection) -> int:
    """Mini-batches that individuals are scored on."""
    return ALL_BATCHES if section.mode == "full" else section.batches


def scoring_data(params: Params, description: DatasetDescription, normalise: Normalise) -> ScoringData:
    """The splits that scoring reads, and their normalisation."""
    train, validation = (split(name, description, params.runtime) for name in ("train", "validation"))
    return ScoringData(train, validation, normalise)


def new_supernet(params: Params, description: DatasetDescription, space: SearchSpace, seed: int) -> Supernet:
    """A supernet with seeded random weights, on the CPU, channels last in memory."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        supernet = Supernet(network_config(params, description, params.network.supernet), space)
    return supernet.to(memory_format=torch.channels_last)


def load_supernet(params: Params, description: DatasetDescription, space: SearchSpace, path: Path) -> Supernet:
    """The supernet whose weights a stage saved."""
    supernet = new_supernet(params, description, space, 0)
    load_weights(supernet, path)
    return supernet


def read_genotypes(path: Path, space: SearchSpace) -> list[Genotype]:
    """Genotypes as `pipeline.supernet` writes them; raises ValueError, naming the file, for others or another space."""
    values = read_json(path)
    if not isinstance(values, list):
        raise ValueError(f"{path}: expected a list of genotypes, found {str(values)[:40]}")
    try:
        genotypes = [Genotype.from_dict(value) for value in values]
        for genotype in genotypes:
            space.validate(genotype)
    except ValueError as error:
        raise ValueError(f"{path}: expected a list of genotypes, found {error}") from None
    return genotypes


def frozen_scorer(
    stage: Stage, description: DatasetDescription, space: SearchSpace, folder: Path, ranks: Ranks = ALONE
) -> Scorer:
    """Scores in the supernet of an earlier stage's folder, as the search defines them: one cut of the validation split.

    The answers are kept in the stage's checkpoints.
    """
    params, on = stage.params, device(stage.params.runtime, ranks)
    supernet = load_supernet(params, description, space, folder / "supernet.safetensors").to(on).eval()
    plan = scoring(params, params.search.evaluation)
    data = scoring_data(params, description, normalise(description, on))
    with named("search.evaluation"):
        scorer = supernet_scorer(supernet, plan, data, params.search.seed, ranks)
    scorer.store.keep(cache.resumable(stage, on, ranks))
    return scorer
