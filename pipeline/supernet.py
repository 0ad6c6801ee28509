"""The common part of stage 1 and stage 2: both call `coevolve` and write the same files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bnas.data.batches import TrainingFeed
from bnas.nn.network import Supernet
from bnas.records.search import Generations
from bnas.scoring.scorer import Scorer
from bnas.scoring.supernet_scorer import supernet_scorer
from bnas.search.coevolution import SupernetData, SupernetPlan, coevolve
from bnas.search.problem import SearchProblem
from bnas.search.work import Work
from bnas.space.genotype import Genotype
from bnas.storage.weights import save_weights
from bnas.training.loop import Sharing
from bnas.training.ranks import Ranks
from pipeline import build, cache
from pipeline.config import dataset
from pipeline.params import sections as schema
from pipeline.stage import Stage, named, write_json


def run(
    stage: Stage,
    section: schema.CoevolutionSection,
    supernet: Supernet,
    problem: SearchProblem,
    population: Sequence[Genotype],
    *,
    first_generation: int,
    ranks: Ranks,
    dropout: schema.PathDropoutSection | None = None,
) -> None:
    """Co-evolve by the parameters of a stage and write weights, population, generations and loss curve."""
    params, description, scoring = stage.params, dataset(), section.evaluation
    device = build.device(params.runtime, ranks)
    build.require_bfloat16(section.mixed_precision, device)
    seen = build.scoring_data(params, description, build.normalise(description, device))
    feed = TrainingFeed(seen.train, section.batch_size, seen.normalise, build.augmentation(params))

    def scorer(supernet: Supernet, seed: int) -> Scorer:
        with named(f"{stage.name}.evaluation"):
            return supernet_scorer(supernet, build.scoring(params, scoring), seen, seed, ranks)

    plan = SupernetPlan(
        stage="stage2" if stage.name == "stage2" else "stage1",
        seed=section.seed,
        population=section.population,
        epochs=section.epochs,
        generations=section.generations,
        epochs_per_generation=section.epochs_per_generation,
        learning_rate=section.learning_rate,
        final_learning_rate=section.final_learning_rate,
        weight_decay=section.weight_decay,
        selection=section.selection,
        variation=build.variation(section.variation),
        batches=build.scored_batches(scoring),
        dropout_mode=dropout.mode if dropout else "none",
        dropout_maximum=dropout.maximum if dropout else 0.0,
        mixed_precision=section.mixed_precision,
        first_generation=first_generation,
    )
    supernet.to(device)
    resumption = cache.resumable(stage, device, ranks)
    images = min(len(seen.validation), plan.batches * scoring.batch_size)
    progress = stage.progress(plan.work(feed, images), plan.done(feed, images, resumption.state))
    result = coevolve(
        supernet,
        problem,
        plan,
        SupernetData(feed, scorer),
        population,
        resumption=resumption,
        sharing=Sharing(ranks, section.batch_norm_group),
        work=Work(progress),
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
