"""Stage `search`: NSGA-II on the frozen supernet, the front confirmed on the whole validation split."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from bnas.records.search import Front, FrontMember, Generations, SearchSummary, read_generations
from bnas.scoring.scorer import ALL_BATCHES, Scorer
from bnas.search import pareto
from bnas.search.frozen_search import Searched, SearchPlan, confirm_front, rescored, search
from bnas.search.problem import SearchProblem
from bnas.search.work import SCORING_WORK, Work
from bnas.space.genotype import Genotype
from bnas.training.ranks import ALONE, Ranks
from pipeline import build
from pipeline.config import dataset
from pipeline.processes import main
from pipeline.stage import Stage, write_json

STAGES = (Path("data/stage1"), Path("data/stage2"))


def run(stage: Stage, ranks: Ranks = ALONE) -> None:
    """Search, confirm the front, score earlier generations again, and write all three."""
    params, description = stage.params, dataset()
    problem = build.problem(params, description)
    section, batches = params.search, build.scored_batches(params.search.evaluation)
    scorer = build.frozen_scorer(stage, description, problem.space, STAGES[1], ranks)
    earlier = [record for folder in STAGES for record in read_generations(folder / "generations.json")]
    plan = SearchPlan(
        seed=section.seed,
        population=section.population,
        generations=section.generations,
        selection=section.selection,
        immigrants=section.immigrants,
        variation=build.variation(section.variation),
        batches=batches,
        first_generation=len(earlier) + 1,
    )
    total = plan.work(scorer.batches.images(batches))
    work = Work(stage.progress(total, SCORING_WORK * scorer.remembered_images()))
    population = build.read_genotypes(STAGES[1] / "population.json", problem.space)
    searched = search(scorer, problem, plan, population, work=work)
    before = {g for folder in STAGES for g in build.read_genotypes(folder / "evaluated.json", problem.space)}
    front, summary = confirm(searched, before, scorer, problem, batches)
    records = rescored([*earlier, *searched.generations], scorer, batches, work)
    if not ranks.is_main:
        return
    labels, balanced = scorer.batches.split.labels, params.objectives.error == "balanced"
    space = problem.range(pareto.guessing_error(labels, balanced=balanced))
    write_json(stage.out / "front.json", Front(space, front).to_dict())
    write_json(stage.out / "generations.json", Generations(tuple(records)).to_dict())
    write_json(stage.out / "summary.json", summary.to_dict())
    stage.metrics["evaluations"] = summary.evaluations


def confirm(
    searched: Searched, before: set[Genotype], scorer: Scorer, problem: SearchProblem, batches: int
) -> tuple[tuple[FrontMember, ...], SearchSummary]:
    """The front of everything the search evaluated on `batches` mini-batches, scored in full, and what that took."""
    images, population = len(scorer.batches.split), searched.population
    resources = problem.resources(searched.evaluated)
    front = []
    for genotype in confirm_front(searched.evaluated, resources, scorer, batches):
        cost, error = problem.costs(genotype), scorer.error(genotype, ALL_BATCHES)
        wrong = scorer.wrong(genotype, ALL_BATCHES)
        front.append(FrontMember(genotype, error, wrong, images, cost.size_bytes, cost.params, cost.ops))
    spent = scorer.image_evaluations
    tau = pareto.kendall_tau(scorer.errors(population, batches), scorer.errors(population, ALL_BATCHES))
    return tuple(front), SearchSummary(
        evaluations=len(before | set(searched.evaluated)),
        image_evaluations=spent,
        image_evaluations_full=len(searched.evaluated) * images,
        schedule_tau=None if math.isnan(tau) else round(tau, 6),
        f2_low=float(resources.min()),
        f2_high=float(resources.max()),
    )


if __name__ == "__main__":
    sys.exit(main("search", run))
