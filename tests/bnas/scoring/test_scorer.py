import math
import random
from collections import Counter
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.modules.batchnorm import _BatchNorm

from bnas.data.batches import MiniBatches
from bnas.data.split import Normalise, Split
from bnas.scoring.answers import answers_on, difficulty
from bnas.scoring.composite_error import Composite
from bnas.search.contest import Contest, confirm_front
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


def test_difficulty_is_how_many_paths_are_expected_to_be_wrong(net):
    batches, everyone = tiny.batches(VALIDATION), tiny.genotypes(3)
    expected = np.zeros(len(VALIDATION))
    for index in range(len(batches)):
        x, y = batches[index]
        with torch.no_grad():
            for genotype in everyone:
                shares = net(x, genotype).double().softmax(1)
                expected[batches.rows(index)] += [1 - row[label] for row, label in zip(shares, y, strict=True)]
    np.testing.assert_allclose(difficulty(net, batches, everyone), expected, rtol=1e-5)


def test_best_known_error_is_the_one_on_most_mini_batches(net):
    scorer = tiny.scorer(net, tiny.batches(VALIDATION))
    genotype = tiny.genotypes(1)[0]
    for count in (1, 4):
        scorer.error(genotype, count)
        assert scorer.best_known(genotype) == scorer.error(genotype, count)
    assert scorer.error(genotype, 2) == tiny.scorer(net, tiny.batches(VALIDATION)).error(genotype, 2)
    assert scorer.best_known(genotype) == scorer.error(genotype, 4)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_composite_error_is_estimated_with_what_everyone_answered_when_scores_were_last_asked_for(net, workers):
    batches, everyone = tiny.batches(VALIDATION), tiny.genotypes(6)
    scorer = tiny.scorer(net, batches, workers=workers, composite=True)

    def seen(genotype):
        each = [answers_on(lambda x: net(x, genotype), batches, index) for index in range(scorer.known(genotype))]
        images = batches.images(len(each))
        return sum(answers.wrong for answers in each), sum(answers.expected for answers in each), images

    def expect(composite):
        for genotype in everyone:
            assert scorer.best_known(genotype) == pytest.approx(composite(*seen(genotype)), rel=1e-5)
        assert scorer.scored() == {g: (scorer.best_known(g), seen(g)[2]) for g in everyone}

    with torch.no_grad():
        scorer.score(everyone, 1)
        scorer.score(everyone[:3], 2)
        fitted = Composite.fitted(len(VALIDATION), [seen(genotype) for genotype in everyone])
        expect(fitted)
        scorer.extend(everyone[:1])  # changes its own estimate, and no correction
        expect(fitted)
        scorer.score(everyone[1:4], 5)
        again = Composite.fitted(len(VALIDATION), [seen(genotype) for genotype in everyone])
        assert again != fitted
        expect(again)
    assert scorer.best_known(everyone[1]) == scorer.error(everyone[1], 5), "all images: nothing to estimate"


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


# ---- The front that is handed over ----


class Scripted:
    """In place of a supernet: wrong on exactly the images that a table names; images carry their number."""

    def __init__(self, wrong):
        self.wrong, self.calls = wrong, 0

    def __call__(self, x, genotype):
        self.calls += 1
        numbers = x[:, 0, 0, 0].round().long()
        answers = (numbers + self.wrong[genotype][numbers].long()) % tiny.CLASSES
        return torch.nn.functional.one_hot(answers, tiny.CLASSES).float()


def scripted(tables, per_batch, composite=False):
    """A scorer for which genotype i is wrong on the images of `tables[i]`, `per_batch` in a mini-batch."""
    everyone = tiny.genotypes(len(tables))
    net = Scripted({g: torch.tensor(row, dtype=torch.bool) for g, row in zip(everyone, tables, strict=True)})
    labelled = tiny.numbered(len(tables[0]))
    as_they_are = Normalise((0.0,), (1 / 255,), torch.device("cpu"))
    return everyone, tiny.scorer(net, InOrder(labelled, per_batch, as_they_are, 0), composite=composite)


class InOrder(MiniBatches):
    """Mini-batches in the order of the split, so that a script can say what comes first."""

    def __init__(self, split: Split, batch_size: int, *rest) -> None:
        super().__init__(split, batch_size, *rest)
        self._rows = np.array_split(np.arange(len(split)), len(self))


def first_wrong(count, length=12):
    return [i < count for i in range(length)]


def reference_front(points):
    """Indices that nothing beats in one objective without losing in the other."""

    def beaten(p):
        return any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)

    return {i for i, p in enumerate(points) if not beaten(p)}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_confirmed_front_is_the_nondominated_set_of_fully_scored_members(data):
    count = data.draw(st.integers(1, 9))
    row = st.lists(st.booleans(), min_size=12, max_size=12)
    everyone, scorer = scripted([data.draw(row) for _ in range(count)], per_batch=3)
    sizes = np.array([data.draw(st.integers(1, 4)) / 4 for _ in range(count)])
    for genotype in everyone:
        scorer.wrong(genotype, data.draw(st.integers(1, 4)))
    extend = scorer.extend

    def only_the_front(members, on_images):
        # Nobody is scored further but the members of the current front, on one more mini-batch.
        points = [(scorer.best_known(g), size) for g, size in zip(everyone, sizes.tolist(), strict=True)]
        assert set(members) == {everyone[i] for i in reference_front(points) if scorer.known(everyone[i]) < 4}
        known = [scorer.known(genotype) for genotype in everyone]
        extend(members, on_images)
        assert [scorer.known(g) for g in everyone] == [k + (g in members) for g, k in zip(everyone, known, strict=True)]

    with mock.patch.object(scorer, "extend", only_the_front):
        front = confirm_front(everyone, sizes, scorer)
    points = [(scorer.best_known(g), size) for g, size in zip(everyone, sizes.tolist(), strict=True)]
    assert {everyone.index(genotype) for genotype in front} == reference_front(points)
    assert len(front) == len(set(front)) >= 1
    assert all(scorer.known(genotype) == 4 for genotype in front)
    assert [sizes[everyone.index(genotype)] for genotype in front] == sorted(
        sizes[everyone.index(genotype)] for genotype in front
    )


def test_a_flattering_partial_score_is_corrected_and_lets_the_hidden_ones_in():
    lucky = [False] * 3 + [True] * 9
    everyone, scorer = scripted([lucky, first_wrong(2), first_wrong(1)], per_batch=3)
    for genotype in everyone:
        scorer.wrong(genotype, 1)
    # By the first mini-batch, errors of 0, 2/3 and 1/3; in full, of 9/12, 2/12 and 1/12.
    assert confirm_front(everyone, np.array([0.2, 0.2, 0.3]), scorer) == everyone[1:]
    assert [scorer.error(genotype, 4) for genotype in everyone] == [9 / 12, 2 / 12, 1 / 12]


def test_correction_goes_on_until_nobody_new_comes_in():
    # The first three look faultless so far; each, scored further, uncovers the next larger one. The second falls
    # behind on its third mini-batch, the third on its second.
    tables = [*([False] * right + [True] * (12 - right) for right in (9, 6, 3)), first_wrong(1)]
    everyone, scorer = scripted(tables, per_batch=3)
    for genotype, known in zip(everyone, (3, 2, 1, 2), strict=True):
        scorer.wrong(genotype, known)
    assert confirm_front(everyone, np.array([0.1, 0.2, 0.3, 0.4]), scorer) == [everyone[0], everyone[3]]
    assert [scorer.known(genotype) for genotype in everyone] == [4, 3, 2, 4]


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 4), st.booleans())
def test_a_contest_leaves_nobody_on_the_front_who_has_been_scored_on_less(data, count, composite):
    row = st.lists(st.booleans(), min_size=12, max_size=12)
    everyone, scorer = scripted([data.draw(row) for _ in range(8)], 3, composite)
    sizes = np.array([data.draw(st.integers(1, 4)) / 4 for _ in everyone])
    contest = Contest(scorer)
    for part in (slice(0, 5), slice(3, 8)):  # Those who enter twice are still one each.
        scorer.score(everyone[part], 1)
        contest.enter(everyone[part], sizes[part])
        contest.confirm(count)
        entered = everyone[: part.stop]
        points = [(scorer.best_known(g), size) for g, size in zip(entered, sizes.tolist(), strict=False)]
        front = contest.front()
        assert {entered.index(genotype) for genotype in front} == reference_front(points)
        assert all(scorer.known(genotype) >= count for genotype in front)
    assert contest.genotypes == everyone


def doubled_front(genotypes, sizes, scorer):
    """The same guarantee by doubling the mini-batches of the front's members."""
    full = len(scorer.batches)
    while True:
        errors = [scorer.best_known(genotype) for genotype in genotypes]
        front = reference_front(list(zip(errors, sizes.tolist(), strict=True)))
        unsure = [genotypes[i] for i in sorted(front) if scorer.known(genotypes[i]) < full]
        if not unsure:
            return {genotypes[i] for i in front}
        for genotype in unsure:
            scorer.score([genotype], min(full, 2 * scorer.known(genotype)))


def test_confirming_step_by_step_spends_less_than_doubling_on_noisy_scores():
    spent = Counter()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        sizes = np.array([i // 5 / 8 for i in range(40)])
        tables = [(rng.random(96) < 0.4 - 0.3 * size).tolist() for size in sizes]
        for confirm in (confirm_front, doubled_front):
            everyone, scorer = scripted(tables, per_batch=6)
            scorer.score(everyone, 1)
            assert all(scorer.known(genotype) == 16 for genotype in confirm(everyone, sizes, scorer))
            spent[confirm] += scorer.image_evaluations
    assert spent[confirm_front] < 0.95 * spent[doubled_front]


def hope(wrong, seen, total, margin):
    """An error lowered by so many of its standard errors; of no mistake as of one."""
    error = max(wrong, 1) / seen
    return max(0, wrong / seen - margin * math.sqrt(error * (1 - error) / seen * (1 - seen / total)))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([0.0, 0.5, 1.0, 5.0]))
def test_with_a_margin_whoever_may_be_on_the_front_is_known_in_full(data, margin):
    row = st.lists(st.booleans(), min_size=12, max_size=12)
    everyone, scorer = scripted([data.draw(row) for _ in range(data.draw(st.integers(1, 9)))], per_batch=3)
    sizes = np.array([data.draw(st.integers(1, 4)) / 4 for _ in everyone])
    for genotype in everyone:
        scorer.wrong(genotype, data.draw(st.integers(1, 4)))
    front = confirm_front(everyone, sizes, scorer, margin)
    known = [scorer.known(genotype) for genotype in everyone]
    points = [(scorer.best_known(g), size) for g, size in zip(everyone, sizes.tolist(), strict=True)]
    assert {everyone.index(genotype) for genotype in front} == reference_front(points)
    wrong = [scorer.wrong(genotype, count) for genotype, count in zip(everyone, known, strict=True)]
    hopes = [(hope(w, 3 * k, 12, margin), size) for w, k, (_, size) in zip(wrong, known, points, strict=True)]
    assert {known[i] for i in reference_front(hopes)} == {4}


def test_a_margin_gives_the_unlucky_a_second_look():
    unlucky = [True] * 3 + [False] * 9
    for margin, best in ((0.0, 1), (2.0, 0)):
        everyone, scorer = scripted([unlucky, first_wrong(4)], per_batch=6)
        scorer.wrong(everyone[0], 1)
        scorer.wrong(everyone[1], 2)
        # 3 of 6 wrong, in the end 3 of 12, against 4 of 12.
        assert confirm_front(everyone, np.array([0.2, 0.2]), scorer, margin) == [everyone[best]]


def test_the_hopeless_are_not_scored_further():
    everyone, scorer = scripted([first_wrong(0), first_wrong(12)], per_batch=3)
    for genotype in everyone:
        scorer.wrong(genotype, 1)
    assert confirm_front(everyone, np.array([0.2, 0.3]), scorer) == everyone[:1]
    assert [scorer.known(genotype) for genotype in everyone] == [4, 1]


def test_all_of_equal_objectives_stay_in_order_of_size_and_key():
    everyone, scorer = scripted([first_wrong(3), first_wrong(3), first_wrong(1), first_wrong(3)], per_batch=3)
    for genotype in everyone:
        scorer.wrong(genotype, 1)
    front = confirm_front(everyone, np.array([0.2, 0.2, 0.5, 0.2]), scorer)
    equals = sorted((everyone[0], everyone[1], everyone[3]), key=lambda genotype: genotype.key)
    assert front == [*equals, everyone[2]]


def test_a_fully_scored_front_costs_nothing():
    everyone, scorer = scripted([first_wrong(k) for k in (0, 3, 6)], per_batch=3)
    for genotype in everyone:
        scorer.wrong(genotype, 4)
    spent = scorer.image_evaluations
    confirm_front(everyone, np.array([0.3, 0.2, 0.1]), scorer)
    assert scorer.image_evaluations == spent
