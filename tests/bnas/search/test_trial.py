"""The search by short trainings, on made-up results that are known."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from bnas.nn.cost import CostTable
from bnas.records.trial import Origin
from bnas.search.generation import VariationRates
from bnas.search.network_regression import Features, NetworkRegression
from bnas.search.pareto import kendall_tau
from bnas.search.problem import SearchProblem
from bnas.search.trial import ShortRun, Trial, TrialPlan, best_of_bins, run_trial
from bnas.space.genotype import Gene, Genotype
from bnas.space.network_config import NetworkConfig
from bnas.space.search_space import Sampler, SearchSpace, sample_uniform

SPACE = SearchSpace(nodes=3)
COSTS = CostTable(NetworkConfig(1, 10, 8, 3), SPACE, (1, 28, 28))
PROBLEM = SearchProblem(SPACE, COSTS, COSTS.size, 1.25, "size_stratified")
PLAN = TrialPlan(
    seed=0,
    population=16,
    generations=2,
    candidates=4,
    own_share=0.5,
    variation=VariationRates(0.5, 0.1, 0.25),
    selection="bins",
    finalists=8,
    finalist_epochs=3,
    bins=4,
)


def chained(genotype: Genotype) -> int:
    """Genes that read an intermediate node: good here, whatever the size."""
    return sum(gene.source >= 2 for gene in genotype.genes)


def loss(genotype: Genotype, epochs: int, noise: float = 0.02) -> float:
    """Falls with chained nodes; rises with size, as that of a training that is far too short for large networks."""
    rng = random.Random(f"{genotype.key} {epochs}")
    return 2 / epochs - 0.05 * chained(genotype) + 0.1 * math.log(COSTS.size(genotype) / 8000) + rng.gauss(0, noise)


class Trainer:
    """Made-up trainings; `asked` holds what each call was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Genotype], int]] = []

    def __call__(self, genotypes: Sequence[Genotype], epochs: int) -> list[ShortRun]:
        self.asked.append((list(genotypes), epochs))
        return [ShortRun(loss(genotype, epochs), 10, 100) for genotype in genotypes]


def first(seed: int = 0) -> Mapping[Genotype, Origin]:
    return dict.fromkeys(PROBLEM.sampler(random.Random(seed), PLAN.population), "search")


def tried(plan: TrialPlan = PLAN) -> tuple[Trial, Trainer, dict[Genotype, Origin]]:
    trial, trainer = Trial(PROBLEM, 1), Trainer()
    return trial, trainer, run_trial(trial, plan, first(), trainer)


def test_every_generation_trains_a_population_and_the_finalists_go_on() -> None:
    trial, trainer, _ = tried()
    assert [(len(genotypes), epochs) for genotypes, epochs in trainer.asked] == [(16, 1), (16, 1), (16, 1), (8, 3)]
    assert {epochs: len(runs) for epochs, runs in trial.runs.items()} == {1: 48, 3: 8}


def test_nothing_is_trained_twice_for_as_long() -> None:
    trained = [(genotype, epochs) for genotypes, epochs in tried()[1].asked for genotype in genotypes]
    assert len(set(trained)) == len(trained)


def test_the_same_seed_trains_the_same_and_another_others() -> None:
    def everyone(seed: int) -> list[Genotype]:
        return list(tried(PLAN.__class__(**{**vars(PLAN), "seed": seed}))[0].runs[1])

    assert everyone(0) == everyone(0)
    assert everyone(0) != everyone(1)


def test_offspring_are_better_than_random_networks_of_their_size() -> None:
    trial, _, origins = tried()
    means = {
        origin: np.mean([chained(genotype) for genotype in trial.runs[1] if origins[genotype] == origin])
        for origin in ("search", "offspring")
    }
    assert means["offspring"] > means["search"] + 1


def test_random_search_makes_no_offspring_and_chooses_none() -> None:
    plan = PLAN.__class__(**{**vars(PLAN), "candidates": 1, "variation": VariationRates(0.0, 0.0, 1.0)})
    _, _, origins = tried(plan)
    assert sorted(set(origins.values())) == ["random", "search"]


def test_who_is_bred_is_offspring_though_it_was_drawn_and_passed_over_before() -> None:
    space = SearchSpace(("skip_connect", "max_pool_3x3", "bin_conv_3x3"), 1)
    costs = CostTable(NetworkConfig(1, 10, 2, 3), space, (1, 8, 8))
    asked: list[list[Genotype]] = []
    drawn: list[tuple[int, Genotype]] = []

    class Watched(SearchProblem):
        @property
        def sampler(self) -> Sampler:
            def sample(rng: random.Random, count: int) -> list[Genotype]:
                genotypes = sample_uniform(space, rng, count)
                drawn.extend((len(asked), genotype) for genotype in genotypes)
                return genotypes

            return sample

    def train(genotypes: Sequence[Genotype], epochs: int) -> list[ShortRun]:
        asked.append(list(genotypes))
        return [ShortRun(random.Random(genotype.key).random(), 10, 100) for genotype in genotypes]

    bred_later = 0
    for seed in range(10):
        asked.clear()
        drawn.clear()
        parents: dict[Genotype, Origin] = dict.fromkeys(sample_uniform(space, random.Random(seed), 4), "search")
        plan = replace(PLAN, seed=seed, population=4, generations=6, finalists=0)
        origins = run_trial(Trial(Watched(space, costs, costs.size, 1.25, "uniform"), 1), plan, parents, train)
        for generation, genotypes in enumerate(asked[1:], 1):
            for genotype in genotypes:
                now = (generation, genotype) in drawn
                assert origins[genotype] == ("random" if now else "offspring")
                bred_later += not now and genotype in [each for _, each in drawn]
    assert bred_later


def test_large_networks_stay_though_short_trainings_favour_small_ones() -> None:
    trial, _, _ = tried()
    chosen = best_of_bins(trial.estimates[3], PROBLEM, PLAN.bins)
    assert COSTS.size(chosen[0]) == min(map(COSTS.size, trial.runs[3]))
    low, high = (math.log(size) for size in COSTS.size_range())
    places = [int(4 * (math.log(COSTS.size(genotype)) - low) / (high - low)) for genotype in chosen]
    assert places == [0, 1, 2, 3], "the best of every bin is handed over, smallest first"


def test_without_finalists_the_first_rung_decides() -> None:
    trial, trainer, _ = tried(PLAN.__class__(**{**vars(PLAN), "finalists": 0}))
    assert trial.longest == 1
    assert {epochs for _, epochs in trainer.asked} == {1}


def test_the_best_of_bins_are_the_least_estimates_of_each_and_of_the_smallest() -> None:
    genotypes = sample_uniform(SPACE, random.Random(3), 60)
    estimates = {genotype: loss(genotype, 1) for genotype in genotypes}
    edges = np.geomspace(*COSTS.size_range(), 5)
    place = {genotype: np.searchsorted(edges[1:-1], COSTS.size(genotype), side="right") for genotype in genotypes}
    smallest = min(genotypes, key=lambda genotype: (COSTS.size(genotype), estimates[genotype]))
    best = [
        min((genotype for genotype in genotypes if place[genotype] == each), key=estimates.__getitem__)
        for each in sorted(set(place.values()))
    ]
    assert smallest not in best
    expected = [smallest, *best]
    assert best_of_bins(estimates, PROBLEM, 4) == expected
    assert best_of_bins(estimates, PROBLEM, 4, 2) == expected[:2]
    assert len(best_of_bins(estimates, PROBLEM, 4, 9)) == 9


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_an_estimate_lies_between_a_network_s_own_loss_and_what_networks_like_it_came_to(share: float) -> None:
    genotypes = sample_uniform(SPACE, random.Random(4), 50)
    trained, others = genotypes[:40], genotypes[40:]
    trial = Trial(PROBLEM, 1)
    trial.fit({genotype: ShortRun(loss(genotype, 1, noise=0.1), 1, 10) for genotype in trained}, 1)
    trial.estimate(1, share)
    alike = dict(zip(genotypes, trial.predict(genotypes, 1), strict=True))
    own = {genotype: trial.runs[1][genotype].loss for genotype in trained}
    assert list(own.values()) != pytest.approx([alike[genotype] for genotype in trained])
    between = [share * own[genotype] + (1 - share) * alike[genotype] for genotype in trained]
    assert list(trial.estimates[1].values()) == pytest.approx(between)
    assert trial.final([others[0], trained[3], others[1]]) == [
        alike[others[0]],
        trial.estimates[1][trained[3]],
        alike[others[1]],
    ]


def test_the_regression_evens_out_what_is_chance() -> None:
    genotypes = sample_uniform(SPACE, random.Random(3), 60)
    rows = Features(SPACE, (COSTS.size,))(genotypes)
    truth = np.array([loss(genotype, 1, noise=0.0) for genotype in genotypes])
    noisy = truth + np.random.default_rng(0).normal(0, 0.1, len(truth))
    estimates = NetworkRegression(rows, noisy.tolist())(rows)
    assert np.abs(estimates - truth).mean() < 0.8 * np.abs(noisy - truth).mean()
    assert kendall_tau(estimates, truth) > kendall_tau(noisy, truth)


def test_features_are_counts_paths_and_logarithms() -> None:
    skip, conv, pool = "skip_connect", "bin_conv_3x3", "max_pool_3x3"
    chain = (
        (Gene(0, skip), Gene(1, conv)),
        (Gene(0, skip), Gene(2, conv)),
        (Gene(2, pool), Gene(3, skip)),
    )
    flat = ((Gene(0, skip), Gene(1, skip)),) * 3
    space = SearchSpace((skip, pool, conv), 3)
    (row,) = Features(space, (lambda genotype: math.e**2,))([Genotype(chain, flat)])
    # log; normal: operations, sources 0 to 3, longest path, weighted on it; reduction: the same
    assert row.tolist() == [2, 3, 1, 2, 2, 1, 2, 1, 3, 2, 6, 0, 0, 3, 3, 0, 0, 1, 0]


@pytest.mark.parametrize("results", [[], [1.0]])
def test_a_regression_wants_two_results(results: list[float]) -> None:
    with pytest.raises(ValueError, match="expected at least two, one for each row"):
        NetworkRegression(np.zeros((len(results), 3)), results)


def test_a_regression_of_equal_results_predicts_them() -> None:
    rows = np.random.default_rng(0).normal(size=(6, 3))
    assert NetworkRegression(rows, [0.5] * 6)(rows) == pytest.approx([0.5] * 6)
