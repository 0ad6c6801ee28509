import itertools
import random

import pytest
import torch
from torch import nn

from bnas.nn.binarize import approx_sign
from bnas.nn.network import NetworkConfig, Supernet
from bnas.nn.operations import BinaryBlock, operation
from bnas.scoring import shared_paths
from bnas.scoring.fast_modules import Workbench, from_tensor, frozen
from bnas.scoring.shared_paths import PathPlan, Paths
from bnas.space.layout import Shape, elements
from bnas.space.operations import OPERATION, OPERATIONS, Convolution
from bnas.space.search_space import SearchSpace
from tests.bnas import tiny

SPACE = SearchSpace(nodes=3)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def shaken(module, seed=0):
    """The module with BatchNorms and slopes that are not what they begin as; some scales are negative, one is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.affine:
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
                layer.weight[0] = 0
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator))
            if isinstance(layer, nn.PReLU):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    return module


def make_supernet(space=SPACE, channels=4, cells=3, stem_stride=1, in_channels=2):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return shaken(Supernet(NetworkConfig(in_channels, 4, channels, cells, stem_stride), space))


def images(count=6, height=9, width=7, channels=2):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(2))


def computed(paths, genotypes, x, parts=1):
    return dict(item for plan in paths.plans(genotypes, x, parts) for item in paths.logits(plan, x))


# ---- Modules ----


def block(have, made, *shape, running_stats=False, groups=1):
    convolution = Convolution(*shape)._replace(groups=groups)
    return BinaryBlock(have, made, convolution, sign=approx_sign, running_stats=running_stats)


MODULES = {
    **{
        f"{op}, stride {stride}": lambda op=op, stride=stride: operation(op, 6, stride, approx_sign, False)
        for op in OPERATION
        for stride in (1, 2)
        if (op, stride) != ("skip_connect", 1)
    },
    "narrowing": lambda: block(6, 4, 1, 1),
    "narrowing, stride 2": lambda: block(6, 4, 1, 2),
    "widening": lambda: block(6, 40, 1, 1),
    "widening a lot, dilated": lambda: block(6, 40, 5, 1, 2),
    "another module": lambda: nn.Sequential(
        nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5, track_running_stats=False)
    ),
    "running statistics": lambda: block(6, 4, 3, 1, running_stats=True),
    "pool of another kind": lambda: nn.MaxPool2d(3, 1, padding=1, dilation=1, ceil_mode=True),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("shape", [(9, 7), (4, 4), (17, 33), (1, 2)])
def test_a_frozen_module_computes_what_the_module_does(name, shape):
    if name == "narrowing, stride 2" and shape == (1, 2):
        shape = (3, 2)
    module = shaken(MODULES[name]())
    # On a grid, whose few values lie far from zero: within rounding of it, a value could have either sign.
    x = torch.randn(5, 6, *shape, generator=torch.Generator().manual_seed(3)).sign()
    form, bench = frozen(module, Shape(6, *shape)), Workbench()
    with torch.no_grad():
        expected = module(x)
        for _ in range(2):  # the second time in a buffer that is used again
            made = form(from_tensor(x, bench), bench)
            found = torch.from_numpy(made.array.copy()).permute(1, 0, 2, 3)
            assert found.shape == expected.shape
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
            bench.give_back(made)


@pytest.mark.parametrize("groups", [2, 6])
def test_a_grouped_convolution_of_signs_is_a_grouped_convolution(groups):
    module = shaken(block(6, 6, 3, 1))
    module.conv = type(module.conv)(6, 6, 3, 1, 1, groups=groups, bias=False)
    x = torch.randn(5, 6, 9, 7, generator=torch.Generator().manual_seed(3))
    bench = Workbench()
    made = frozen(module, Shape(6, 9, 7))(from_tensor(x, bench), bench)
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(made.array).permute(1, 0, 2, 3), module(x), atol=1e-4)


# ---- Paths ----


@pytest.mark.parametrize(
    ("space", "more", "size"),
    [
        (SPACE, {}, (9, 7)),
        (SPACE, {"stem_stride": 2, "cells": 5, "channels": 8}, (16, 13)),
        (SearchSpace(nodes=1), {"channels": 5}, (8, 8)),
        (SearchSpace(OPERATIONS["darts"], nodes=2, name="darts"), {}, (8, 8)),
        (SearchSpace(("skip_connect", "avg_pool_3x3"), nodes=2), {}, (8, 8)),
    ],
)
def test_logits_are_those_of_the_supernets_path(space, more, size):
    net, rng = make_supernet(space, **more), random.Random(0)
    x, everyone = images(24, *size), list(dict.fromkeys(space.sample(rng) for _ in range(24)))
    found = computed(Paths(net), everyone, x)
    assert found.keys() == set(everyone)
    with torch.no_grad():
        same = [torch.allclose(found[g], net(x, g), rtol=1e-3, atol=1e-3) for g in everyone]
    # One value within rounding of zero is enough for other logits.
    assert sum(same) >= 0.8 * len(same)


def test_what_is_computed_depends_neither_on_the_others_nor_on_their_order():
    net, rng, x = make_supernet(), random.Random(1), images()
    everyone = list(dict.fromkeys(SPACE.sample(rng) for _ in range(12)))
    everyone += [g for g in dict.fromkeys(SPACE.mutate(g, rng, 0.1) for g in everyone) if g not in everyone]
    paths = Paths(net)
    alone = {genotype: computed(Paths(net), [genotype], x)[genotype] for genotype in everyone}
    for order in (everyone, everyone[::-1], everyone[::2], rng.sample(everyone, len(everyone))):
        for parts in (1, 3):
            found = computed(paths, order, x, parts)
            assert all(torch.equal(found[genotype], alone[genotype]) for genotype in order)
    tight = computed(Paths(net, memory=1), everyone, x)
    assert all(torch.equal(tight[genotype], alone[genotype]) for genotype in everyone)


def expression(net, genotype):
    """What each step of a path computes, written out; the same text for the same value."""
    texts, before = set(), ("stem",)
    texts.add("stem")
    last = before
    for number, cell in enumerate(net.cells):
        nodes = genotype.reduction if cell.reduction else genotype.normal
        states = []
        for which, parts in enumerate((before, last)):
            joined = "cat(" + ",".join(parts) + ")" if len(parts) > 1 else parts[0]
            states.append(f"pre{number}.{which}({joined})")
            texts |= {joined, states[-1]}
        for i, node in enumerate(nodes):
            terms = []
            for source, op in node:
                stride = 2 if cell.reduction and source < 2 else 1
                if op == "skip_connect" and stride == 1:
                    terms.append(states[source])
                else:
                    name = (
                        op if op in ("skip_connect", "max_pool_3x3", "avg_pool_3x3") else f"{number}.{i}.{source}.{op}"
                    )
                    terms.append(f"{name}/{stride}({states[source]})")
            states.append("sum(" + "+".join(sorted(terms)) + ")")
            texts |= {*terms, states[-1]}
        before, last = last, tuple(states[2:])
    return texts, "head(" + ",".join(last) + ")"


def test_every_distinct_value_is_computed_once():
    net, rng = make_supernet(), random.Random(2)
    everyone = list(dict.fromkeys(SPACE.sample(rng) for _ in range(8)))
    everyone += [g for g in dict.fromkeys(SPACE.mutate(g, rng, 0.1) for g in everyone * 2) if g not in everyone]
    (plan,) = Paths(net).plans(everyone, images())
    distinct, heads = set(), set()
    for genotype in everyone:
        texts, head = expression(net, genotype)
        distinct |= texts
        heads.add(head)
    assert len(plan.steps) == len(distinct) + len(heads)
    (alone,) = Paths(net).plans(everyone[:1], images())
    assert len(alone.steps) == len(expression(net, everyone[0])[0]) + 1


def peak(plan: PathPlan, sizes: dict[int, int]) -> int:
    """The most that lies in memory at once; every value is there when it is read, and gone at the end."""
    live, most = {}, 0
    for step in plan.steps:
        assert all(source in live for source in step.sources)
        if step.made >= 0:
            assert step.made not in live
            live[step.made] = sizes[step.made]
        most = max(most, sum(live.values()))
        for value in step.done:
            del live[value]
    assert not live
    return most


def test_memory_is_what_a_plan_says_and_bounded():
    net, rng, x = make_supernet(), random.Random(3), images()
    everyone = list(dict.fromkeys(SPACE.sample(rng) for _ in range(20)))
    paths = Paths(net)
    (plan,) = paths.plans(everyone, x)
    sizes, take = {}, paths._take

    def watched(step, *rest):
        made = take(step, *rest)
        if step.made >= 0:
            sizes[step.made] = elements(made.shape)
        return made

    paths._take = watched
    list(paths.logits(plan, x))
    assert peak(plan, sizes) == plan.peak
    budget = 4 * len(x) * plan.peak // 2
    cut = Paths(net, memory=budget).plans(everyone, x)
    assert len(cut) > 1
    assert sorted(g.key for part in cut for g in part.genotypes) == sorted(g.key for g in everyone)
    assert all(4 * len(x) * part.peak <= budget for part in cut)
    assert all(len(part.genotypes) == 1 for part in Paths(net, memory=1).plans(everyone, x))


# ---- Scores ----


@pytest.mark.parametrize("count", [1, 2, 5])
def test_scores_do_not_depend_on_workers_or_on_what_was_known_before(count):
    net, split = tiny.trained_supernet(4), tiny.split(40, seed=1)
    everyone = tiny.genotypes(9)
    expected = None
    for workers, first in itertools.product((1, 2, 3), (0, 4)):
        scorer = tiny.scorer(net, tiny.batches(split), workers=workers)
        scorer.score(everyone[:first], 1)
        scorer.score(everyone, count)
        found = [scorer.wrong(genotype, count) for genotype in everyone]
        assert scorer.image_evaluations == len(everyone) * scorer.batches.images(count)
        expected = expected or found
        assert found == expected


def test_paths_are_computed_together_where_that_is_the_same_and_by_themselves_elsewhere(monkeypatch):
    net, batches = tiny.supernet(), tiny.batches(tiny.split(16))
    calls, answers = [], shared_paths.answers
    monkeypatch.setattr(shared_paths, "answers", lambda *args: calls.append(args) or answers(*args))
    everyone = tiny.genotypes(3)
    tiny.scorer(net, batches).score(everyone, 1)
    assert len(calls) == 1
    tiny.scorer(net, batches, [batches[0][0]]).score(everyone, 1)  # recalibrated statistics are each path's own
    tiny.scorer(lambda x, genotype: net(x, genotype), batches).score(everyone, 1)
    assert len(calls) == 1
