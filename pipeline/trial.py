"""Stage `trial`: the search goes on by training candidates from scratch for a short while."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnas.records.dataset import DatasetDescription
from bnas.records.search import Front, FrontMember, read_front, read_generations
from bnas.records.training import EpochRecord, read_epochs, read_predictions
from bnas.records.trial import Origin, TrialNetwork, TrialNetworks, read_trial
from bnas.search.generation import VariationRates
from bnas.search.problem import SearchProblem
from bnas.search.trial import ShortRun, Train, Trial, TrialPlan, best_of_bins, run_trial
from bnas.space.genotype import Genotype
from bnas.training import network_pool
from bnas.training.family import TRIAL, Recipe
from bnas.training.ranks import ALONE, Ranks
from pipeline import build, networks
from pipeline.config import dataset, network_config
from pipeline.params import sections as schema
from pipeline.processes import main
from pipeline.stage import Stage, write_json

SEARCH, STAGE2, RESULT = Path("data/search"), Path("data/stage2"), Path("data/trial")

NOT_OF_THE_RECIPE = set(schema.TrialSection.model_fields) - set(schema.TrainingSection.model_fields)
"""Keys of `trial` that say what is trained, not how."""


def run(stage: Stage, ranks: Ranks = ALONE) -> None:
    """Train candidates, and hand over the front of the best.

    With `source: search` what was trained is scored in the supernet in the end, for the report alone.
    """
    params, description = stage.params, dataset()
    section, searched = params.trial, read_front(SEARCH / "front.json")
    if section.source == "none":
        if ranks.is_main:
            write_json(stage.out / "front.json", searched.to_dict())
            write_json(stage.out / "networks.json", TrialNetworks(()).to_dict())
        return
    problem = build.problem(params, description)
    trial = Trial(problem, section.epochs, ranks.main_value)
    plan = plan_of(section)
    # Before any time is spent, so that a broken file is named at once.
    is_search = section.source == "search"
    scorer = build.frozen_scorer(stage, description, problem.space, STAGE2, ranks) if is_search else None
    with network_pool.started(params.runtime.workers) as workers:
        train = trainer(stage, description, workers, ranks)
        origins = run_trial(trial, plan, first(plan, section.source, problem), train)
    scores: dict[Genotype, float] = {}
    if scorer is not None:
        errors = scorer.errors(list(origins), count=build.scored_batches(params.search.evaluation))
        scores = dict(zip(origins, errors, strict=True))
    if not ranks.is_main:
        return
    records = trained(trial, origins, scores)
    write_json(stage.out / "networks.json", TrialNetworks(tuple(records)).to_dict())
    handed_over = best_of_bins(trial.estimates[trial.longest], problem, plan.bins)
    members = [member(genotype, trial, problem) for genotype in handed_over]
    write_json(stage.out / "front.json", Front(searched.space, tuple(members)).to_dict())


def finished_trial(problem: SearchProblem, ranks: Ranks = ALONE) -> Trial | None:
    """The trial that the stage recorded, for estimates of further networks; None where nothing was trained."""
    records = read_trial(RESULT / "networks.json")
    if not records:
        return None
    rungs = sorted({each.epochs for each in records})
    trial = Trial(problem, rungs[0], ranks.main_value)
    for epochs in rungs:
        those = [each for each in records if each.epochs == epochs]
        trial.fit({each.genotype: ShortRun(each.loss, each.wrong, each.images) for each in those}, epochs)
        trial.estimates[epochs] = {each.genotype: each.estimate for each in those}
    return trial


def plan_of(section: schema.TrialSection) -> TrialPlan:
    """What is trained; with random networks only, none is a child and none is chosen."""
    variation, candidates = build.variation(section.variation), section.candidates
    if section.source == "random":
        variation, candidates = VariationRates(0.0, 0.0, 1.0), 1
    return TrialPlan(
        seed=section.seed,
        population=section.population,
        generations=section.generations,
        candidates=candidates,
        own_share=section.own_share,
        variation=variation,
        selection=section.selection,
        finalists=section.finalists,
        finalist_epochs=section.finalist_epochs,
        bins=section.bins,
    )


def first(plan: TrialPlan, source: str, problem: SearchProblem) -> dict[Genotype, Origin]:
    """The first population: what the search found best in every size bin, and a share of random ones."""
    best: list[Genotype] = []
    if source == "search":
        count = plan.population - round(plan.variation.random_share * plan.population)
        best = best_of_bins(survivors(SEARCH / "generations.json"), problem, plan.bins, count)
    everyone = problem.topped_up(best, plan.population, random.Random(plan.seed))
    return {genotype: "search" if i < len(best) else "random" for i, genotype in enumerate(everyone)}


def survivors(path: Path) -> dict[Genotype, float]:
    """Everyone who survived a generation, with the error that the final supernet gives on common mini-batches."""
    members = [member for record in read_generations(path) for member in record.members]
    return {
        member.genotype: member.error if member.rescored_error is None else member.rescored_error for member in members
    }


def trainer(stage: Stage, description: DatasetDescription, workers: network_pool.Workers, ranks: Ranks) -> Train:
    """Trains by the section's recipe, several side by side; what was trained before is taken from the cache."""
    params, section = stage.params, stage.params.trial
    device = build.device(params.runtime, ranks)
    build.require_bfloat16(section.mixed_precision, device)
    final = network_config(params, description, params.network.final)
    rest = {"drop_path": 0.0, "label_smoothing": 0.0, "auxiliary_weight": 0.0}
    kept = section.model_dump(exclude=NOT_OF_THE_RECIPE) | rest
    trainings = (section.generations + 1) * section.population * section.epochs
    advance = stage.progress(trainings + section.finalists * section.finalist_epochs)

    def train(genotypes: Sequence[Genotype], epochs: int) -> list[ShortRun]:
        schedule = max(section.schedule_epochs, epochs)
        recipe = Recipe(seed=section.seed, epochs=epochs, schedule_epochs=schedule, **kept)
        family = networks.family(params, description, recipe, device, TRIAL)
        jobs = [networks.job(each.key, final, each, family, description) for each in genotypes]
        if ranks.is_main:
            networks.start_over(jobs)

        def on_epoch(name: str, record: EpochRecord) -> None:
            advance(1, f"{name}, epoch {record.epoch}/{epochs}")

        network_pool.train_family(jobs, family, workers=workers, on_epoch=on_epoch, ranks=ranks)
        return [
            ShortRun(*values) for values in ranks.main_value([short_run(job) for job in jobs] if ranks.is_main else [])
        ]

    return train


def short_run(job: network_pool.Job) -> tuple[float, int, int]:
    """What a finished training came to, as `ShortRun` has it."""
    answers = read_predictions(job.folder / "predictions.csv")
    return read_epochs(job.folder / "curve.json")[-1].loss, int((~answers.correct).sum()), len(answers.labels)


def trained(trial: Trial, origins: Mapping[Genotype, Origin], scores: Mapping[Genotype, float]) -> list[TrialNetwork]:
    """The record of every training, the shorter ones first; `scores` are errors in the supernet."""
    return [
        TrialNetwork(
            genotype=genotype,
            origin=origins[genotype],
            epochs=epochs,
            loss=result.loss,
            wrong=result.wrong,
            images=result.images,
            size_bytes=trial.problem.costs.size(genotype),
            supernet_error=scores.get(genotype),
            estimate=trial.estimates[epochs][genotype],
        )
        for epochs, rung in sorted(trial.runs.items())
        for genotype, result in rung.items()
    ]


def member(genotype: Genotype, trial: Trial, problem: SearchProblem) -> FrontMember:
    """A member of the front, with the validation error that it had after its longest training."""
    result, cost = trial.runs[trial.longest][genotype], problem.costs(genotype)
    error = result.wrong / result.images
    return FrontMember(genotype, error, result.wrong, result.images, cost.size_bytes, cost.params, cost.ops)


if __name__ == "__main__":
    sys.exit(main("trial", run))
