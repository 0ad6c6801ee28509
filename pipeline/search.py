"""Stage `search`: NSGA-II on the frozen supernet, the front confirmed on the whole validation split."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from bnas.records.search import Front, FrontMember, Generations, SearchSummary, read_generations
from bnas.scoring.scorer import Scorer
from bnas.search import frozen_search, pareto, scoring_plan
from bnas.search.contest import confirm_front
from bnas.search.problem import Problem
from bnas.space.genotype import Genotype
from bnas.training.ranks import ALONE, Ranks
from pipeline import build, cache
from pipeline.config import dataset
from pipeline.processes import main
from pipeline.stage import Stage, write_json

STAGES = (Path("data/stage1"), Path("data/stage2"))


def run(stage: Stage, ranks: Ranks = ALONE) -> None:
    """Search, confirm the front, score earlier generations again, and write all three."""
    params, description = stage.params, dataset()
    problem = build.problem(params, description)
    section = params.search
    scoring = build.scoring(section.evaluation, params.runtime.workers, "search.evaluation")
    scorer = build.frozen_scorer(params, description, problem.space, STAGES[1], ranks)
    plan = frozen_search.SearchPlan(
        population=section.population,
        generations=section.generations,
        selection=section.selection,
        immigrants=section.immigrants,
        variation=build.variation(section.variation),
        scoring=scoring,
        last_batches=section.evaluation.last_batches,
        front_batches=section.evaluation.front_batches,
        last_front_batches=section.evaluation.last_front_batches,
        survivor_batches=section.evaluation.survivor_batches,
        candidates=section.candidates,
    )
    earlier = [record for folder in STAGES for record in read_generations(folder / "generations.json")]
    state, save = cache.resumable(stage, scorer.batches.normalise.device, ranks)
    scorer.keep(save, state)
    done = scoring_plan.SCORING_WORK * scorer.remembered_images()
    advance = stage.progress(plan.work(len(scorer.batches.split)), done)
    found = frozen_search.search(
        scorer,
        problem,
        plan,
        build.read_genotypes(STAGES[1] / "population.json", problem.space),
        seed=section.seed,
        first_generation=len(earlier) + 1,
        advance=advance,
    )
    before = {g for folder in STAGES for g in build.read_genotypes(folder / "evaluated.json", problem.space)}
    front, summary = confirm(found, before, scorer, problem, section.evaluation.front_margin)
    common = scoring.count(scorer.batches, section.evaluation.rescore_batches)
    records = frozen_search.rescored([*earlier, *found.generations], scorer, common, advance)
    if not ranks.is_main:
        return
    space = problem.range(len(description.classes))
    write_json(stage.out / "front.json", Front(space, front).to_dict())
    write_json(stage.out / "generations.json", Generations(tuple(records)).to_dict())
    write_json(stage.out / "summary.json", summary.to_dict())
    stage.metrics["evaluations"] = summary.evaluations


def confirm(
    found: frozen_search.Searched, before: set[Genotype], scorer: Scorer, problem: Problem, margin: float
) -> tuple[tuple[FrontMember, ...], SearchSummary]:
    """The front of everything the search evaluated, scored in full, and what the mini-batch schedule spent on it.

    `margin` as for `Contest.confirm`.
    """
    everything, images = len(scorer.batches), len(scorer.batches.split)
    scheduled = [scorer.best_known(genotype) for genotype in found.population]
    resources = problem.resources(found.evaluated)
    front = []
    for genotype in confirm_front(found.evaluated, resources, scorer, margin):
        cost, wrong = problem.costs(genotype), scorer.wrong(genotype, everything)
        front.append(FrontMember(genotype, wrong / images, wrong, images, cost.size_bytes, cost.params, cost.ops))
    spent = scorer.image_evaluations
    scorer.score(found.population, everything)
    tau = pareto.kendall_tau(scheduled, [scorer.error(genotype, everything) for genotype in found.population])
    return tuple(front), SearchSummary(
        evaluations=len(before | set(found.evaluated)),
        image_evaluations=spent,
        image_evaluations_full=len(found.evaluated) * images,
        schedule_tau=None if math.isnan(tau) else round(tau, 6),
        f2_low=float(resources.min()),
        f2_high=float(resources.max()),
    )


if __name__ == "__main__":
    sys.exit(main("search", run))
