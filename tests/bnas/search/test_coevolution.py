import itertools
import random
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from bnas.nn.network import NetworkConfig
from bnas.scoring import ways
from bnas.scoring.scorer import ALL_BATCHES
from bnas.search import frozen_search, generation, selection
from bnas.search.coevolution import coevolve
from bnas.search.frozen_search import confirm_front, rescored, search
from bnas.search.work import SCORING_WORK, Work
from bnas.space.genotype import Genotype
from bnas.space.search_space import SearchSpace
from bnas.training import loop
from bnas.training.loop import CosineRate, adam
from tests.bnas import tiny

TRAIN, VALIDATION = tiny.numbered(48), tiny.numbered(40, first=100)
LEARNABLE, SCORED = tiny.split(32), tiny.split(32, seed=1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Call(NamedTuple):
    """One forward pass: the numbers of its images, its path, its dropout, and whether it was for training."""

    images: tuple[int, ...]
    genotype: Genotype
    dropout: object
    training: bool


class Watched(nn.Module):
    """In place of a supernet: one linear layer for all paths, and a record of every forward pass."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, tiny.CLASSES)
        nn.init.normal_(self.linear.weight, generator=tiny.generator(0))
        nn.init.zeros_(self.linear.bias)
        self.calls: list[Call] = []

    def forward(self, x, genotype, dropout=None):
        self.calls.append(Call(tiny.numbers(x), genotype, dropout, torch.is_grad_enabled()))
        return self.linear(x.flatten(1))


def numbered_data(batch_size=8):
    return tiny.data(TRAIN, VALIDATION, batch_size)


def evolved(plan, population=(), *, net=None, seed=0, data=None, first=1, **more):
    """The result of a stage, and its calls: those of training, of scoring, of training and so on."""
    net = Watched() if net is None else net
    data = numbered_data() if data is None else data
    plan = replace(plan, seed=seed, first_generation=first)
    result = coevolve(net, tiny.problem(), plan, data, population, **more)
    phases = [list(calls) for _, calls in itertools.groupby(getattr(net, "calls", ()), lambda c: c.training)]
    return result, phases


# ---- The schedule of a stage ----


def test_a_stage_without_generations_is_plain_training_on_uniform_paths():
    population = tiny.genotypes(3)
    result, phases = evolved(tiny.plan(epochs=3, generations=0), population)
    assert result.population == tuple(population)
    assert result.generations == ()
    assert result.evaluated == frozenset()
    assert [record.epoch for record in result.curve] == [1, 2, 3]
    assert [len(phase) for phase in phases] == [3 * 6]
    assert all(call.training for call in phases[0])
    paths = [call.genotype for call in phases[0]]
    rng = random.Random(0)
    assert paths == [tiny.SPACE.sample(rng) for _ in paths]


def test_a_stage_without_epochs_and_generations_changes_nothing():
    net = Watched()
    before = net.linear.weight.clone()
    result, phases = evolved(tiny.plan(epochs=0, generations=0), tiny.genotypes(2), net=net)
    assert phases == []
    assert result.curve == ()
    assert torch.equal(net.linear.weight, before)


@pytest.mark.parametrize(("epochs", "generations", "each"), [(2, 2, 1), (0, 3, 2), (1, 0, 3)])
def test_curve_holds_every_epoch_of_the_stage_in_turn(epochs, generations, each):
    plan = tiny.plan(epochs=epochs, generations=generations, epochs_per_generation=each)
    result, phases = evolved(plan)
    assert [record.epoch for record in result.curve] == list(range(1, epochs + generations * each + 1))
    assert plan.all_epochs == len(result.curve)
    trained = [len(phase) for phase in phases if phase[0].training]
    assert sum(trained) == 6 * len(result.curve)
    if generations:
        assert trained == [6 * (epochs + each)] * (epochs > 0 or 1) + [6 * each] * (generations - 1)


def test_learning_rate_follows_one_cosine_over_the_whole_stage(monkeypatch):
    optimizers, rates = [], []

    class Rated(Watched):
        def forward(self, x, genotype, dropout=None):
            if torch.is_grad_enabled():
                rates.append(optimizers[0].param_groups[1]["lr"])
            return super().forward(x, genotype, dropout)

    def kept(*args):
        optimizers.append(adam(*args))
        return optimizers[-1]

    monkeypatch.setattr(loop, "adam", kept)
    evolved(tiny.plan(epochs=2, generations=3), net=Rated())
    rate = CosineRate(0.01, 0.001, 5 * 6)
    assert rates == [rate.at(step) for step in range(30)]
    assert len(optimizers) == 1


def test_weight_decay_of_the_plan_shrinks_the_weights():
    norms = []
    for decay in (0.0, 1.0):
        net = Watched()
        evolved(tiny.plan(generations=0, epochs=3, weight_decay=decay), net=net)
        norms.append(float(net.linear.weight.detach().norm()))
    assert norms[1] < norms[0] - 0.1


def test_generations_are_numbered_on_from_the_first():
    plan = tiny.plan(epochs=0, generations=3, stage="stage2", selection="alternate")
    result, _ = evolved(plan, first=9)
    assert [record.generation for record in result.generations] == [9, 10, 11]
    assert {(record.stage, record.rule) for record in result.generations} == {("stage2", "alternate")}


# ---- Training on the population ----


def members_in_training(phases, plan):
    """Per generation, how often each member was trained."""
    training = [phase for phase in phases if phase[0].training]
    training[0] = training[0][6 * plan.epochs :]
    return [Counter(call.genotype for call in phase) for phase in training]


@pytest.mark.parametrize(("population", "each"), [(4, 1), (4, 3), (8, 1)])
def test_members_get_equal_numbers_of_steps(population, each):
    plan = tiny.plan(population=population, generations=3, epochs_per_generation=each)
    result, phases = evolved(plan)
    counts = members_in_training(phases, plan)
    assert len(counts) == 3
    populations = [{member.genotype for member in record.members} for record in result.generations]
    for count, members in zip(counts[1:], populations, strict=False):
        steps = [count[genotype] for genotype in members]
        assert set(count) <= members
        assert sum(steps) == 6 * each
        assert max(steps) - min(steps) <= 1


def test_members_take_turns_in_a_new_order_each_round():
    plan = tiny.plan(epochs=0, generations=1, epochs_per_generation=4)
    population = tiny.genotypes(4)
    _, phases = evolved(plan, population)
    paths = [call.genotype for call in phases[0]]
    rounds = [tuple(paths[i : i + 4]) for i in range(0, 24, 4)]
    assert all(set(each) == set(population) for each in rounds)
    assert len(set(rounds)) > 1


def test_a_population_is_filled_up_and_its_members_are_kept():
    population = tiny.genotypes(3)
    plan = tiny.plan(epochs=0, generations=1, population=8, epochs_per_generation=2)
    _, phases = evolved(plan, population)
    trained = Counter(call.genotype for call in phases[0])
    assert set(population) < set(trained)
    assert len(trained) == 8


def test_result_is_the_last_population_and_everything_that_was_scored():
    result, phases = evolved(tiny.plan(generations=3))
    scored = {call.genotype for phase in phases for call in phase if not call.training}
    assert result.evaluated == scored
    assert {member.genotype for member in result.generations[-1].members} == set(result.population)
    assert [len(record.members) for record in result.generations] == [4, 4, 4]


def test_records_hold_the_errors_they_were_selected_by_in_order_of_size():
    net = Watched()
    result, phases = evolved(tiny.plan(epochs=0, generations=1), net=net)
    record = result.generations[0]
    images = np.array([call.images for call in phases[1] if call.genotype == result.population[0]]).ravel()
    with torch.no_grad():
        x = tiny.NORMALISE(torch.from_numpy(VALIDATION.images[images - 100]))
        wrong = (net.linear(x.flatten(1)).argmax(1).numpy() != images % 4).mean()
    assert [member.error for member in record.members] == pytest.approx([wrong] * 4)
    sizes = [member.size_bytes for member in record.members]
    assert sizes == sorted(tiny.problem().costs.size(genotype) for genotype in result.population)
    assert all(member.rescored_error is None for member in record.members)


# ---- Which images are seen ----


@pytest.mark.parametrize("batches", [2, ALL_BATCHES])
def test_training_sees_the_training_split_and_scoring_the_validation_split(batches):
    plan = tiny.plan(epochs=1, generations=2, batches=batches)
    _, phases = evolved(plan)
    trained, scored = (
        {number for phase in phases for call in phase if call.training is training for number in call.images}
        for training in (True, False)
    )
    assert trained == set(range(48))
    assert scored <= set(range(100, 140))
    assert batches == 2 or scored == set(range(100, 140))


def test_recalibration_sees_the_training_split_only(monkeypatch):
    seen, calibrate = [], ways.calibrate
    monkeypatch.setattr(ways, "calibrate", lambda net, x: seen.append(tiny.numbers(x)) or calibrate(net, x))
    scorer = tiny.data(TRAIN, VALIDATION, batch_norm="recalibrated", calibration_batches=3).scorer(tiny.supernet(), 0)
    scorer.score(tiny.genotypes(1), 1)
    (calibration,) = seen
    assert len(calibration) == len(set(calibration)) == 24
    assert set(calibration) < set(range(48))
    scored = [tiny.numbers(scorer.batches[i][0]) for i in range(len(scorer.batches))]
    assert sorted(itertools.chain(*scored)) == list(range(100, 140))


def scored_images(phases):
    """Per generation, genotype → the images it was scored on, in order."""
    found = []
    for phase in phases:
        if not phase[0].training:
            seen: dict[Genotype, tuple[int, ...]] = {}
            for call in phase:
                seen[call.genotype] = seen.get(call.genotype, ()) + call.images
            found.append(seen)
    return found


def test_all_of_a_generation_are_scored_once_on_the_same_images():
    _, phases = evolved(tiny.plan(generations=3))
    generations = scored_images(phases)
    assert len(generations) == 3
    for seen in generations:
        assert len(seen) == 8  # parents and offspring
        assert len(set(seen.values())) == 1
        images = next(iter(seen.values()))
        assert len(images) == len(set(images)) == 16


def test_each_generation_draws_fresh_images_while_weights_move():
    _, phases = evolved(tiny.plan(generations=3))
    drawn = [frozenset(next(iter(seen.values()))) for seen in scored_images(phases)]
    assert len(set(drawn)) == 3


def test_all_mini_batches_are_the_whole_validation_split():
    _, phases = evolved(tiny.plan(batches=ALL_BATCHES))
    for seen in scored_images(phases):
        assert {tuple(sorted(images)) for images in seen.values()} == {tuple(range(100, 140))}


@pytest.mark.parametrize(("batches", "images"), [(2, 16), (ALL_BATCHES, len(VALIDATION))])
def test_forecast_of_the_work_is_what_is_reported(batches, images):
    plan = tiny.plan(generations=3, epochs_per_generation=2, batches=batches)
    data, reports = numbered_data(), []
    evolved(plan, data=data, work=Work(lambda work, note: reports.append(work)))
    assert sum(reports) == pytest.approx(plan.work(data.feed, images))
    assert SCORING_WORK < 1


# ---- Path dropout ----


@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_path_dropout_rises_linearly_over_the_stage_and_is_off_when_scoring(mode):
    plan = tiny.plan(epochs=1, generations=3, dropout_mode=mode, dropout_maximum=0.4)
    _, phases = evolved(plan)
    calls = [call for phase in phases for call in phase]
    training = [call.dropout for call in calls if call.training]
    assert [dropout.probability for dropout in training] == pytest.approx([0.4 * step / 24 for step in range(24)])
    assert {dropout.mode for dropout in training} == {mode}
    assert {call.dropout for call in calls if not call.training} == {None}


def test_no_path_dropout_without_a_mode():
    _, phases = evolved(tiny.plan(dropout_maximum=0.4))
    assert {call.dropout for phase in phases for call in phase} == {None}


# ---- With a real supernet ----


def real(seed=0, config=tiny.CONFIG, scoring=(), **changes):
    net, data = tiny.supernet(config=config), tiny.data(LEARNABLE, SCORED, **dict(scoring))
    values = {"generations": 2, "dropout_mode": "sample", "dropout_maximum": 0.2}
    result, _ = evolved(tiny.plan(**(values | changes)), net=net, data=data, seed=seed)
    return net, result


def test_a_stage_is_determined_by_its_seed():
    (net, result), (again, same) = real(seed=1), real(seed=1)
    assert result == same
    assert tiny.same_weights(net, again)
    other, different = real(seed=2)
    assert result.population != different.population
    assert result.curve != different.curve
    assert not tiny.same_weights(net, other)


def test_the_seed_draws_the_order_of_the_images_too():
    orders = []
    for seed in (1, 1, 2):
        _, phases = evolved(tiny.plan(generations=0), seed=seed)
        orders.append([call.images for call in phases[0]])
    assert orders[0] == orders[1] != orders[2]


def test_a_stage_does_not_use_the_global_generators():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # the generator that must not be used
    states = torch.get_rng_state(), random.getstate()
    real(generations=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


@pytest.mark.parametrize(("rule", "kept"), [("nsga2", slice(8)), ("auxiliary", slice(-8, None))])
def test_of_equal_errors_nsga2_keeps_the_smallest_networks_and_auxiliary_the_largest(rule, kept):
    # All paths of `Watched` answer the same.
    result, _ = evolved(tiny.plan(selection=rule, population=8, epochs=0, generations=1))
    evaluated = sorted(tiny.problem().resources(list(result.evaluated)))
    assert len(evaluated) > 8
    assert sorted(tiny.problem().resources(result.population)) == evaluated[kept]


def test_sign_of_the_other_gradient_trains_to_other_weights():
    straight = NetworkConfig(**{**vars(tiny.CONFIG), "sign": "ste"})
    nets = [real(config=config, generations=1)[0] for config in (tiny.CONFIG, straight)]
    assert not tiny.same_weights(*nets)
    assert all(bool(torch.isfinite(value).all()) for net in nets for value in net.parameters())


def test_a_stage_and_a_search_run_with_recalibrated_statistics():
    recalibrated = {"batch_norm": "recalibrated"}
    net, result = real(scoring=recalibrated, generations=1)
    own_net, own = real(generations=1)
    assert tiny.same_weights(net, own_net)
    errors = [[member.error for member in r.generations[0].members] for r in (result, own)]
    assert errors[0] != errors[1]
    scorer = tiny.data(LEARNABLE, SCORED, **recalibrated).scorer(net, 0)
    found = search(scorer, tiny.problem(), tiny.search_plan(generations=2), result.population)
    front = confirm_front(found.evaluated, tiny.problem().resources(found.evaluated), scorer, 2)
    assert all(scorer.known(genotype) == 4 for genotype in front)


# ---- The frozen search ----


class Patterned(nn.Module):
    """In place of a supernet: a path's answers come from a random layer of its own, never trained."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def forward(self, x, genotype):
        self.calls[genotype, tiny.numbers(x)] += 1
        draws = torch.Generator().manual_seed(int(genotype.key, 16) % 2**31)
        weights = torch.randn(3, tiny.CLASSES, generator=draws)
        features = torch.stack([x.mean((1, 2, 3)) ** power for power in range(3)], 1)
        return features @ weights


def searched(plan, population=None, *, seed=0, problem=None):
    """The result; per generation, in order, who was scored on how many mini-batches; and the scorer."""
    problem, net = problem or tiny.problem(), Patterned()
    scorer = tiny.scorer(net, tiny.batches(VALIDATION))
    if population is None:
        population = tiny.genotypes(plan.population, seed=7)
    generations, step = [], generation.step

    def watched(members, evaluate, **more):
        requests = []
        generations.append(requests)

        def evaluated(genotypes):
            objectives = evaluate(genotypes)
            requests.extend((genotype, scorer.known(genotype)) for genotype in genotypes)
            return objectives

        return step(members, evaluated, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen_search.generation, "step", watched)
        result = search(scorer, problem, replace(plan, seed=seed, first_generation=5), population)
    assert max(net.calls.values()) == 1, "no path is computed twice on the same images"
    return result, generations, scorer


def test_no_architecture_is_proposed_twice():
    # In a space so small that offspring would often meet what an earlier generation dropped.
    space = SearchSpace(("skip_connect", "bin_conv_3x3"), nodes=2)
    plan = tiny.search_plan(generations=8, population=8, immigrants=0)
    for seed in range(2):
        population = tiny.genotypes(8, space=space)
        _, generations, _ = searched(plan, population, seed=seed, problem=tiny.problem(space))
        seen = set(population)
        for requests in generations:
            parents, offspring = requests[:8], requests[8:]
            assert seen >= {genotype for genotype, _ in parents}
            assert seen.isdisjoint(genotype for genotype, _ in offspring)
            seen.update(genotype for genotype, _ in offspring)
        assert len(seen) == 8 + 8 * 8


def test_everything_evaluated_is_kept_once_in_order():
    plan = tiny.search_plan(generations=4)
    result, generations, _ = searched(plan)
    asked = dict.fromkeys(genotype for requests in generations for genotype, _ in requests)
    assert result.evaluated == tuple(asked)
    assert len(result.evaluated) == 4 + 2 + 4 * 4


@pytest.mark.parametrize("batches", [1, 3, ALL_BATCHES])
def test_everyone_is_scored_on_the_same_mini_batches_in_every_generation(batches):
    result, generations, scorer = searched(tiny.search_plan(generations=4, batches=batches))
    count = min(batches, len(scorer.batches))
    assert {known for requests in generations for _, known in requests} == {count}
    assert scorer.image_evaluations == len(result.evaluated) * scorer.batches.images(count)
    fresh = tiny.scorer(Patterned(), scorer.batches)
    for record in result.generations:
        for member in record.members:
            assert member.error == fresh.error(member.genotype, count)


def test_the_forecast_of_a_search_is_the_work_it_does():
    told = []
    scorer, plan = tiny.scorer(Patterned(), tiny.batches(VALIDATION)), tiny.search_plan(generations=4)
    population = tiny.genotypes(plan.population, seed=7)
    search(scorer, tiny.problem(), plan, population, work=Work(lambda work, note: told.append(work)))
    assert sum(told) == pytest.approx(plan.work(scorer.batches.images(plan.batches)))


@pytest.mark.parametrize("have", [2, 4])
def test_immigrants_join_and_the_population_returns_to_its_size(have):
    population = tiny.genotypes(have, seed=7)
    plan = tiny.search_plan(immigrants=3)
    result, generations, _ = searched(plan, population)
    first = [genotype for genotype, _ in generations[0]]
    assert first[:have] == population
    assert len(set(first)) == len(first) == 4 + 3 + 4
    assert [len(requests) for requests in generations[1:]] == [8, 8]
    assert [len(record.members) for record in result.generations] == [4, 4, 4]
    assert {member.genotype for member in result.generations[-1].members} == set(result.population)


def test_records_of_the_search_are_numbered_on_and_hold_its_errors():
    result, _, scorer = searched(tiny.search_plan())
    assert [(record.stage, record.generation) for record in result.generations] == [
        ("search", 5),
        ("search", 6),
        ("search", 7),
    ]
    for member in result.generations[-1].members:
        assert member.error == scorer.error(member.genotype, 2)


@pytest.mark.parametrize(
    ("generations", "rules"),
    [
        (4, ["auxiliary", "auxiliary", "alternate", "alternate"]),
        (5, ["auxiliary", "auxiliary", "alternate", "alternate", "alternate"]),
    ],
)
def test_two_stage_changes_the_rule_after_half_of_the_generations(generations, rules):
    result, _, _ = searched(tiny.search_plan(selection="two_stage", generations=generations))
    assert [record.rule for record in result.generations] == rules


@pytest.mark.parametrize("rule", selection.RULES)
def test_every_rule_searches_and_selects_by_itself(rule):
    result, generations, scorer = searched(tiny.search_plan(selection=rule, generations=1))
    assert [record.rule for record in result.generations] == [rule]
    everyone = [genotype for genotype, _ in generations[0]]
    objectives = tiny.problem().objectives(everyone, scorer.errors(everyone, 2))
    if rule == "cars":  # draws who stays out of the last front
        assert set(result.population) < set(everyone)
    else:
        chosen = selection.select(objectives, 4, rule, random.Random(0))
        assert result.population == tuple(everyone[i] for i in chosen)


def test_a_search_is_determined_by_its_seed():
    results = [searched(tiny.search_plan(), seed=seed)[0] for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_individuals_scored_side_by_side_give_the_same_run():
    results = [real(scoring={"workers": workers}, generations=1) for workers in (1, 3)]
    assert results[0][1] == results[1][1]
    assert tiny.same_weights(results[0][0], results[1][0])


def test_the_search_leaves_the_supernet_alone():
    net = tiny.supernet()
    fresh = tiny.supernet()
    for scored in (net, lambda x, genotype: net(x, genotype)):  # paths together, and each by itself
        seen = []
        for module in net.modules():
            module.register_forward_hook(lambda *call, seen=seen: seen.append(torch.is_grad_enabled()))
        scorer = tiny.scorer(scored, tiny.batches(SCORED))
        search(scorer, tiny.problem(), tiny.search_plan(generations=2), [])
        assert scorer.image_evaluations > 0
        assert not any(seen)
        assert all(parameter.grad is None for parameter in net.parameters())
        assert tiny.same_weights(net, fresh)
    assert seen


# ---- Earlier generations on common mini-batches ----


def test_rescoring_gives_every_member_an_error_on_the_common_mini_batches_and_keeps_the_rest():
    result, _, _ = searched(tiny.search_plan())
    scorer = tiny.scorer(Patterned(), tiny.batches(VALIDATION, seed=3))
    reports = []
    records = rescored(result.generations, scorer, 2, Work(lambda work, note: reports.append(work)))
    for record, before in zip(records, result.generations, strict=True):
        assert (record.stage, record.generation, record.rule) == (
            before.stage,
            before.generation,
            before.rule,
        )
        for member, old in zip(record.members, before.members, strict=True):
            assert member.rescored_error == scorer.error(member.genotype, 2)
            assert old.rescored_error is None
            assert (member.genotype, member.error, member.size_bytes) == (
                old.genotype,
                old.error,
                old.size_bytes,
            )
    assert {scorer.known(member.genotype) for record in records for member in record.members} == {2}
    assert sum(reports) == pytest.approx(SCORING_WORK * scorer.image_evaluations)
