"""What stage 1 and stage 2 have in common: both are a call of `coevolve` and write the same files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnas.data.batches import TrainingFeed
from bnas.nn.network import Supernet
from bnas.records.search import Generations
from bnas.search import coevolution
from bnas.search.problem import Problem
from bnas.space.genotype import Genotype
from bnas.storage.weights import save_weights
from bnas.training.loop import Sharing
from bnas.training.ranks import Ranks
from pipeline import build, cache
from pipeline import params as schema
from pipeline.config import dataset
from pipeline.stage import Stage, write_json


def run(
    stage: Stage,
    section: schema.Coevolution,
    supernet: Supernet,
    problem: Problem,
    population: Sequence[Genotype],
    *,
    first_generation: int,
    ranks: Ranks,
    dropout: schema.PathDropout | None = None,
) -> None:
    """Co-evolve by the parameters of a stage and write weights, population, generations and loss curve."""
    params, description = stage.params, dataset()
    device = build.device(params.runtime, ranks)
    build.require_bfloat16(section.mixed_precision, device, stage.name)
    normalise = build.normalise(description, device)
    feed = TrainingFeed(
        build.split("train", description, params.runtime),
        section.batch_size,
        normalise,
        build.augmentation(params),
        f"{stage.name}.batch_size",
    )
    data = coevolution.SupernetData(feed, build.split("validation", description, params.runtime), normalise)
    plan = coevolution.Plan(
        stage="stage2" if stage.name == "stage2" else "stage1",
        population=section.population,
        epochs=section.epochs,
        generations=section.generations,
        epochs_per_generation=section.epochs_per_generation,
        learning_rate=section.learning_rate,
        final_learning_rate=section.final_learning_rate,
        weight_decay=section.weight_decay,
        selection=section.selection,
        variation=build.variation(section.variation),
        scoring=build.scoring(section.evaluation, params.runtime.workers, f"{stage.name}.evaluation"),
        dropout_mode=dropout.mode if dropout else "none",
        dropout_maximum=dropout.maximum if dropout else 0.0,
        mixed_precision=section.mixed_precision,
    )
    supernet.to(device)
    sharing = Sharing(ranks, section.batch_norm_group, f"{stage.name}.batch_norm_group")
    state, save = cache.resumable(stage, device, ranks)
    images = len(data.validation)
    result = coevolution.coevolve(
        supernet,
        problem,
        plan,
        data,
        population,
        seed=section.seed,
        first_generation=first_generation,
        advance=stage.progress(plan.work(feed, images), plan.done(feed, images, state)),
        state=state,
        save=save,
        sharing=sharing,
    )
    if not ranks.is_main:
        return
    save_weights(supernet, stage.out / "supernet.safetensors")
    write_genotypes(stage.out / "population.json", result.population)
    write_genotypes(stage.out / "evaluated.json", sorted(result.evaluated, key=lambda g: g.key))
    write_json(stage.out / "generations.json", Generations(result.generations).to_dict())
    write_json(stage.out / "training.json", [record.to_dict() for record in result.curve])


def write_genotypes(path: Path, genotypes: Sequence[Genotype]) -> None:
    """A list of genotypes as JSON."""
    write_json(path, [genotype.to_dict() for genotype in genotypes])
