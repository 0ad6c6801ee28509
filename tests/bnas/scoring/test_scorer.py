import random
from collections import Counter
from functools import partial

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bnas.scoring.scorer import ALL_BATCHES
from bnas.search.problem import SearchProblem
from bnas.space.search_space import SearchSpace, sample_stratified, sample_uniform
from tests.bnas import tiny

VALIDATION = tiny.split(36, seed=1)  # five mini-batches of at most eight, of unequal sizes


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def net():
    torch.set_num_threads(1)
    return tiny.trained_supernet()


# ---- The problem ----


@pytest.mark.parametrize("margin", [1.0, 1.25, 2.0])
def test_relative_size_is_over_a_fixed_bound_whoever_else_is_in_the_population(margin):
    problem = tiny.problem(margin=margin)
    everyone = [*tiny.genotypes(6), tiny.everywhere("skip_connect"), tiny.everywhere("bin_conv_3x3")]
    largest = problem.costs.size(tiny.everywhere("bin_conv_3x3"))
    together = problem.resources(everyone)
    assert together.tolist() == pytest.approx([problem.costs.size(g) / (margin * largest) for g in everyone])
    assert [problem.resources([genotype])[0] for genotype in everyone] == together.tolist()
    assert together.max() == pytest.approx(1 / margin)
    assert together.min() > 0


def test_objectives_are_error_then_relative_size():
    problem, everyone = tiny.problem(), tiny.genotypes(3)
    objectives = problem.objectives(everyone, [0.5, 0.25, 0.0])
    assert objectives.shape == (3, 2)
    assert objectives[:, 0].tolist() == [0.5, 0.25, 0.0]
    assert objectives[:, 1].tolist() == problem.resources(everyone).tolist()


def test_range_holds_the_sizes_of_the_space_and_the_error_of_guessing():
    problem = tiny.problem()
    found = problem.range(0.75)
    sizes = [problem.costs.size(tiny.everywhere(op)) for op in ("skip_connect", "bin_conv_3x3")]
    assert [found.smallest_bytes, found.largest_bytes] == pytest.approx(sizes)
    assert found.chance_error == 0.75


def test_sampling_names_how_genotypes_are_drawn():
    stratified, uniform = tiny.problem(), tiny.problem(sampling="uniform")
    by_size = partial(sample_stratified, tiny.SPACE, stratified.costs.size)
    assert stratified.sampler(random.Random(3), 9) == by_size(random.Random(3), 9)
    assert uniform.sampler(random.Random(3), 9) == sample_uniform(tiny.SPACE, random.Random(3), 9)
    assert stratified.sampler(random.Random(3), 9) != uniform.sampler(random.Random(3), 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": "mixed"}, r"SearchProblem\.sampling: expected size_stratified or uniform, found 'mixed'"),
        ({"margin": 0.99}, r"SearchProblem\.margin: expected at least 1, found 0\.99"),
    ],
)
def test_problem_refuses_what_it_does_not_know(change, message):
    costs = tiny.problem().costs
    values = {"space": tiny.SPACE, "costs": costs, "resource": costs.size, "margin": 1.25, "sampling": "uniform"}
    with pytest.raises(ValueError, match=message):
        SearchProblem(**(values | change))


@pytest.mark.parametrize("sampling", ["size_stratified", "uniform"])
@pytest.mark.parametrize("have", [0, 1, 5, 11, 12, 15])
def test_topping_up_keeps_the_members_and_appends_new_ones_to_the_exact_count(sampling, have):
    members = tiny.genotypes(have, seed=have)
    found = tiny.problem(sampling=sampling).topped_up(members, 12, random.Random(0))
    assert found[:have] == members
    assert len(found) == max(12, have)
    assert len(set(found)) == len(found)
    for genotype in found:
        tiny.SPACE.validate(genotype)


def test_topping_up_counts_a_repeated_member_once():
    a, b = tiny.genotypes(2)
    found = tiny.problem().topped_up([a, b, a], 3, random.Random(0))
    assert found[:2] == [a, b]
    assert len(set(found)) == len(found) == 3


def test_topping_up_is_determined_by_the_generator():
    problem, members = tiny.problem(), tiny.genotypes(2)
    found = [problem.topped_up(members, 8, random.Random(seed)) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


SIXTEEN = SearchSpace(("skip_connect", "bin_conv_3x3"), nodes=1)


@pytest.mark.parametrize(("sampling", "have"), [("uniform", 0), ("uniform", 16), ("size_stratified", 12)])
def test_topping_up_from_an_exhausted_space_ends(sampling, have):
    members = tiny.genotypes(have, space=SIXTEEN)
    found = tiny.problem(SIXTEEN, sampling=sampling).topped_up(members, 18, random.Random(0))
    assert found[:have] == members
    assert len(set(found)) == len(found) <= SIXTEEN.size == 16
    assert sampling != "uniform" or len(found) == 16


@pytest.mark.parametrize("sampling", ["size_stratified", "uniform"])
def test_topping_up_finds_new_ones_in_a_space_that_is_nearly_exhausted(sampling):
    members = tiny.genotypes(12, space=SIXTEEN)
    problem = tiny.problem(SIXTEEN, sampling=sampling)
    for seed in range(3):
        assert len(set(problem.topped_up(members, 15, random.Random(seed)))) == 15


# ---- Scores in the supernet ----


class Spy:
    """A supernet that remembers which path saw which inputs."""

    def __init__(self, net):
        self.net, self.calls = net, []

    def __call__(self, x, genotype):
        self.calls.append((genotype, tuple(x.flatten().tolist())))
        return self.net(x, genotype)


def direct(net, genotype, batches, count):
    """Share of wrong answers on the first mini-batches, image by image."""
    answers = []
    for index in range(count):
        x, y = batches[index]
        with torch.no_grad():
            answers += (net(x, genotype).argmax(1) == y).tolist()
    return 1 - sum(answers) / len(answers)


def test_error_is_the_share_of_wrong_answers_of_the_supernets_path(net):
    batches = tiny.batches(VALIDATION)
    scorer, everyone = tiny.scorer(net, batches), tiny.genotypes(5)
    for genotype in everyone:
        for count in (1, 3, 5):
            assert scorer.error(genotype, count) == pytest.approx(direct(net, genotype, batches, count))
            assert scorer.wrong(genotype, count) == round(scorer.error(genotype, count) * batches.images(count))
    assert len({scorer.error(genotype, 5) for genotype in everyone}) > 1


def test_each_mini_batch_is_computed_once_for_each_genotype_and_only_when_asked_for(net):
    spy, batches = Spy(net), tiny.batches(VALIDATION)
    scorer = tiny.scorer(spy, batches)
    a, b = tiny.genotypes(2)
    requests = [(a, 2), (b, 1), (a, 2), (a, 1), (a, 4), (b, 3), (a, 5), (b, 3), (a, 3)]
    most = Counter()
    for genotype, count in requests:
        scorer.error(genotype, count)
        most[genotype] = max(most[genotype], count)
        assert Counter(genotype for genotype, _ in spy.calls) == most
        assert scorer.image_evaluations == sum(batches.images(known) for known in most.values())
        assert [scorer.known(a), scorer.known(b)] == [most[a], most[b]]
    assert len(set(spy.calls)) == len(spy.calls)


def test_all_genotypes_see_the_same_mini_batches_in_the_same_order(net):
    spy, batches = Spy(net), tiny.batches(VALIDATION)
    scorer, everyone = tiny.scorer(spy, batches), tiny.genotypes(3)
    for count in (1, 3, 5):
        for genotype in everyone:
            scorer.error(genotype, count)
    sequence = [tuple(batches[index][0].flatten().tolist()) for index in range(5)]
    assert len(set(sequence)) == 5
    for genotype in everyone:
        assert [x for caller, x in spy.calls if caller == genotype] == sequence


@pytest.mark.parametrize("recalibrated", [False, True])
def test_answers_and_their_count_do_not_depend_on_how_many_are_scored_side_by_side(net, recalibrated):
    everyone, found = tiny.genotypes(5), []
    for workers in (1, 3):
        inputs = calibration() if recalibrated else ()
        scorer = tiny.scorer(net, tiny.batches(VALIDATION), inputs, workers)
        reports = []
        scorer.score(everyone[:2], 2, reports.append)
        scorer.score([*everyone, everyone[4]], 3, reports.append)
        scorer.score(everyone, 3, reports.append)
        assert len(reports) == 2 * 2 + 3 * 5 - 2 * 2
        assert sum(reports) == scorer.image_evaluations
        assert [scorer.known(genotype) for genotype in everyone] == [3] * 5
        found.append(([scorer.wrong(genotype, 3) for genotype in everyone], sorted(reports)))
    assert found[0] == found[1]


def test_an_error_in_one_path_is_raised_and_keeps_no_half_score(net):
    bad = tiny.genotypes(3)[1]

    def fails(x, genotype):
        if genotype == bad:
            raise ValueError("bad path")
        return net(x, genotype)

    scorer = tiny.scorer(fails, tiny.batches(VALIDATION), workers=2)
    with pytest.raises(ValueError, match="bad path"):
        scorer.score(tiny.genotypes(3), 2)
    assert scorer.known(bad) == 0
    assert scorer.image_evaluations == sum(
        scorer.batches.images(scorer.known(genotype)) for genotype in tiny.genotypes(3)
    )


def test_on_more_mini_batches_than_there_are_everyone_is_scored_on_the_whole_split(net):
    scorer, everyone = tiny.scorer(net, tiny.batches(VALIDATION)), tiny.genotypes(2)
    assert scorer.errors(everyone, ALL_BATCHES) == [scorer.error(genotype, 5) for genotype in everyone]
    assert [scorer.known(genotype) for genotype in everyone] == [5, 5]
    assert scorer.image_evaluations == 2 * len(VALIDATION)


def test_an_error_on_few_mini_batches_stays_the_same_when_more_are_known(net):
    scorer, (genotype,) = tiny.scorer(net, tiny.batches(VALIDATION)), tiny.genotypes(1)
    before = scorer.error(genotype, 2)
    scorer.score([genotype], 5)
    assert scorer.error(genotype, 2) == before


def test_scoring_leaves_the_supernet_as_it_was_and_builds_no_gradients(net):
    seen = []
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def watch(x, genotype):
        logits = net(x, genotype)
        seen.append(logits.requires_grad)
        return logits

    tiny.scorer(watch, tiny.batches(VALIDATION)).error(tiny.genotypes(1)[0], 2)
    tiny.scorer(net, tiny.batches(VALIDATION), calibration()).error(tiny.genotypes(1)[0], 2)
    assert seen == [False, False]
    after = net.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


# ---- Recalibrated statistics ----

TRAIN = tiny.split(40, seed=2)


def calibration(count=3):
    batches = tiny.batches(TRAIN, seed=9)
    return [batches[index][0] for index in range(count)]


def recalibrated_by_hand(net, genotype, inputs):
    """The path with the statistics that each layer's input has when all calibration images pass as one mini-batch."""
    network = net.extract(genotype).train()
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    seen = {}
    hooks = [norm.register_forward_pre_hook(lambda norm, args: seen.update({norm: args[0].clone()})) for norm in norms]
    with torch.no_grad():
        network(torch.cat(inputs))
    for hook in hooks:
        hook.remove()
    for norm in norms:
        axes = [axis for axis in range(seen[norm].ndim) if axis != 1]
        variance, mean = torch.var_mean(seen[norm], dim=axes)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
    return network.eval()


def test_recalibrated_errors_use_the_statistics_of_all_calibration_images_at_once(net):
    batches, inputs = tiny.batches(VALIDATION), calibration()
    scorer = tiny.scorer(net, batches, inputs)
    for genotype in tiny.genotypes(3):
        network = recalibrated_by_hand(net, genotype, inputs)
        for count in (2, 5):
            expected = direct(lambda x, _, network=network: network(x), genotype, batches, count)
            assert scorer.error(genotype, count) == pytest.approx(expected)


def test_recalibrated_errors_differ_from_those_on_own_statistics_and_depend_on_the_calibration(net):
    everyone, batches = tiny.genotypes(4), tiny.batches(VALIDATION)
    scorers = [tiny.scorer(net, batches, inputs) for inputs in ((), calibration(1), calibration(3))]
    own, one, three = ([scorer.error(genotype, 5) for genotype in everyone] for scorer in scorers)
    assert own != three
    assert one != three


def test_recalibrated_errors_do_not_depend_on_how_the_split_is_cut_but_own_statistics_do(net):
    everyone = tiny.genotypes(4)
    cuts = [tiny.batches(VALIDATION, size, seed) for size, seed in ((8, 0), (9, 1), (36, 2))]

    def wrong(inputs):
        return [
            [tiny.scorer(net, batches, inputs).wrong(genotype, len(batches)) for genotype in everyone]
            for batches in cuts
        ]

    first, *others = wrong(calibration())
    assert others == [first, first]
    first, *others = wrong(())
    assert first not in others


def test_recalibration_counts_the_images_it_passes_through_a_path(net):
    batches, inputs = tiny.batches(VALIDATION), calibration(3)
    scorer = tiny.scorer(net, batches, inputs)
    a, b = tiny.genotypes(2)
    scorer.error(a, 2)
    assert scorer.image_evaluations == 24 + batches.images(2)
    scorer.error(a, 2)
    assert scorer.image_evaluations == 24 + batches.images(2)
    scorer.error(b, 1)
    assert scorer.image_evaluations == 48 + batches.images(2) + batches.images(1)
