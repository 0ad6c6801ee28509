import copy
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnas.data.batches import Augmentation, MiniBatches
from bnas.data.split_rows import balancing
from bnas.nn.binarize import BinaryConv2d
from bnas.scoring.answers import answers_on
from bnas.training.loop import CosineRate, TrainingError, TrainingLoss, adam, calibrate, fit, new_training, predict
from tests.bnas import tiny

RATE = CosineRate(0.01, 0.0001, 15)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# ---- The schedule ----


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1), st.floats(0, 1), st.integers(1, 10_000))
def test_cosine_rate_starts_at_the_first_and_ends_exactly_at_the_last(first, share, steps):
    last = first * share
    rate = CosineRate(first, last, steps)
    assert rate.at(0) == pytest.approx(first, rel=1e-15)
    assert rate.at(steps) == last
    assert rate.at(steps / 2) == pytest.approx((first + last) / 2, rel=1e-12)


def test_cosine_rate_falls_at_every_step():
    rates = [RATE.at(step) for step in range(RATE.steps + 1)]
    assert rates == sorted(set(rates), reverse=True)


# ---- The optimiser ----


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = BinaryConv2d(1, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.activation = nn.PReLU(4)
        self.plain = nn.Conv2d(4, 4, 1)


def moved_without_a_gradient(weight_decay):
    model = Small()
    optimizer = adam(model, weight_decay)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def test_weight_decay_spares_the_latent_weights_of_binary_convolutions_only():
    # The bias of a fresh BatchNorm is zero, which no decay can move.
    assert moved_without_a_gradient(0.1) == {"norm.weight", "activation.weight", "plain.weight", "plain.bias"}
    assert moved_without_a_gradient(0.0) == set()


def test_every_parameter_is_optimised_once():
    net = tiny.supernet()
    held = [id(value) for group in adam(net, 0.1).param_groups for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in net.parameters())


# ---- Sampled paths ----


def on_path(net, genotype):
    """Names of the supernet's parameters that a path uses: those that its extracted network has."""
    return {name for name, _ in net.extract(genotype).named_parameters()}


def test_parameters_off_the_path_get_no_gradient_and_no_step():
    net = tiny.supernet()
    first, second = tiny.everywhere("bin_conv_3x3"), tiny.everywhere("max_pool_3x3")
    training = new_training(net, 0.1, 0)
    optimizer = training.optimizer
    feed = tiny.feed(tiny.split(24))
    names = dict(net.named_parameters())
    paths = {name: on_path(net, path) for name, path in (("first", first), ("second", second))}
    idle, both = paths["first"] - paths["second"], paths["first"] & paths["second"]
    assert idle
    assert both

    fresh = {name: value.detach().clone() for name, value in names.items()}
    fit(lambda x, *_: net(x, first), training, feed, RATE, 1)
    for name, value in names.items():
        stepped = name in paths["first"]
        assert stepped == (value.grad is not None) == (value in optimizer.state), name
        assert stepped or torch.equal(value, fresh[name]), name
    moments = {name: copy.deepcopy(optimizer.state[names[name]]) for name in idle}
    after = {name: value.detach().clone() for name, value in names.items()}

    # Zero gradients instead of none would go on moving these by their momentum, and decay them.
    fit(lambda x, *_: net(x, second), training, feed, RATE, 2)
    for name in idle:
        assert torch.equal(names[name], after[name]), name
        state = optimizer.state[names[name]]
        assert all(torch.equal(state[key], moments[name][key]) for key in ("step", "exp_avg", "exp_avg_sq")), name
    assert not any(torch.equal(names[name], after[name]) for name in both if name.startswith("cells"))


# ---- The loop ----


def train(*until, seed=0, log=None):
    """A small network after calls of `fit` on augmented images until so many epochs are done, and all its records."""
    net = tiny.network(tiny.everywhere("bin_conv_3x3")).train()
    training = new_training(net, 0.01, seed)
    feed = tiny.feed(tiny.split(24), augmentation=Augmentation(1, True))

    def forward(x, step, rows):
        if log is not None:
            log.append((step, [group["lr"] for group in training.optimizer.param_groups]))
        return net(x)

    for epochs in until:
        fit(forward, training, feed, RATE, epochs)
    return net, training.curve


def test_training_depends_on_the_generators_seed_alone():
    (net, records), (again, same) = train(2), train(2)
    assert tiny.same_weights(net, again)
    assert records == same
    other, different = train(2, seed=1)
    assert not tiny.same_weights(net, other)
    assert records != different


def test_successive_calls_are_one_training_cut_in_two():
    whole, halves = [], []
    net, records = train(5, log=whole)
    again, same = train(2, 5, log=halves)
    assert tiny.same_weights(net, again)
    assert records == same
    assert whole == halves


def test_step_counts_over_all_epochs_and_sets_the_rate_of_every_group():
    log = []
    _, records = train(2, 5, log=log)
    assert log == [(step, [RATE.at(step)] * 2) for step in range(15)]
    assert [record.epoch for record in records] == [1, 2, 3, 4, 5]


class Constant(nn.Module):
    """Answers every image with the same logits."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_the_cross_entropy_with_smoothed_labels_and_error_the_share_of_wrong_answers(smoothing):
    logits, part, seen = (2.0, 1.0, 0.0, -1.0), tiny.split(10), []
    net = Constant(logits)
    training, rate, loss = new_training(net, 0.0, 0), CosineRate(0.0, 0.0, 2), TrainingLoss(smoothing)
    fit(lambda x, *_: net(x), training, tiny.feed(part, 5), rate, 1, loss=loss, on_epoch=seen.append)
    records = training.curve
    log_sum = math.log(sum(math.exp(value) for value in logits))
    target = [[smoothing / 4 + (1 - smoothing) * (k == label) for k in range(4)] for label in part.labels]
    losses = [sum(q * (log_sum - z) for q, z in zip(row, logits, strict=True)) for row in target]
    assert records[0].loss == pytest.approx(sum(losses) / len(losses))
    assert records[0].error == pytest.approx((part.labels != 0).mean())
    assert seen == records


def test_the_loss_of_an_auxiliary_head_is_added_by_its_weight():
    net, part = Constant((2.0, 1.0, 0.0, -1.0)), tiny.split(10)

    def loss(forward, weight):
        training, rate = new_training(net, 0.0, 0), CosineRate(0.0, 0.0, 2)
        fit(forward, training, tiny.feed(part, 5), rate, 1, loss=TrainingLoss(auxiliary_weight=weight))
        return training.curve[0].loss

    main, head = loss(lambda x, *_: net(x), 0.4), loss(lambda x, *_: -net(x), 0.4)
    assert main != pytest.approx(head)
    both = loss(lambda x, *_: (net(x), -net(x)), 0.4)
    assert both == pytest.approx(main + 0.4 * head)


@pytest.mark.parametrize("wanted", [False, True])
def test_mixed_precision_leaves_all_that_is_binary_exact(wanted):
    net, seen = tiny.supernet(), {}
    path = tiny.everywhere("bin_conv_3x3")
    for name, layer in net.named_modules():
        if isinstance(layer, BinaryConv2d | nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda layer, args, out, name=name: seen.update({name: (args[0], out)}))
    feed, rate = tiny.feed(tiny.split(16)), CosineRate(0.01, 0.0, 2)
    loss = TrainingLoss(mixed_precision=wanted)
    fit(lambda x, *_: net(x, path), new_training(net, 0.0, 0), feed, rate, 1, loss=loss)
    low = torch.bfloat16 if wanted else torch.float32
    for name, (x, out) in seen.items():
        if name.startswith("cells."):
            assert set(x.unique().tolist()) <= {-1.0, 1.0}
            assert (x.dtype, out.dtype) == (torch.float32, torch.float32), name
        else:
            assert out.dtype == low, name
    assert {name.split(".")[0] for name in seen} == {"stem", "cells", "classifier"}
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(bad):
    net = Constant((0.1, 0.2, 0.3, 0.4))
    training, seen = new_training(net, 0.0, 0), []

    def forward(x, step, rows):
        seen.append(net.logits.detach().clone())
        return net(x) * (torch.tensor([bad, 1, 1, 1]) if step == 7 else 1)

    with pytest.raises(TrainingError, match=rf"at step 7 \(learning rate {RATE.at(7):.3g}\)"):
        fit(forward, training, tiny.feed(tiny.split(40)), RATE, 3)
    assert len(seen) == 8
    assert not torch.equal(seen[6], seen[7])
    assert torch.equal(net.logits, seen[7])


def test_training_error_is_bad_input_and_not_a_crash():
    assert issubclass(TrainingError, ValueError)


# ---- Answers of a finished network ----


@pytest.fixture(scope="module")
def trained():
    """A network trained on images whose classes can be told apart, and its records."""
    torch.set_num_threads(1)
    net = tiny.network(tiny.everywhere("bin_conv_3x3")).train()
    feed, rate = tiny.feed(tiny.split(48)), CosineRate(0.01, 0.0, 36)
    training = new_training(net, 0.0, 0)
    fit(lambda x, *_: net(x), training, feed, rate, 6)
    return net, training.curve


def test_loss_falls_on_a_learnable_toy(trained):
    _, records = trained
    assert records[-1].loss < records[0].loss / 2
    assert records[-1].error < 0.25


def test_answers_do_not_depend_on_the_other_images_of_a_mini_batch(trained):
    part = tiny.split(21, seed=5)
    net = copy.deepcopy(trained[0])
    one_by_one = predict(net, part, tiny.NORMALISE, 1)
    assert one_by_one.dtype == torch.int64
    assert len(set(one_by_one.tolist())) > 1
    for size in (2, 20, 21, 100):
        net.train()
        assert torch.equal(predict(net, part, tiny.NORMALISE, size), one_by_one)
    assert tiny.same_weights(net, trained[0])


def test_answers_come_in_the_order_of_the_split(trained):
    part = tiny.split(21, seed=5)
    order = list(range(21))
    random.Random(0).shuffle(order)
    shuffled = type(part)(part.images[order], part.labels[order])
    found = predict(trained[0], part, tiny.NORMALISE, 4)
    assert torch.equal(predict(trained[0], shuffled, tiny.NORMALISE, 4), found[order])
    assert (found.numpy() != part.labels).mean() < 0.4


def test_wrong_answers_are_counted_and_weighed_on_the_named_mini_batch():
    split = tiny.split(21)
    batches = MiniBatches(split, 5, tiny.NORMALISE, 0, balanced=True)
    net = Constant((0.0, 0.0, 1.0, 0.0))
    for index in range(len(batches)):
        labels = batches[index][1].numpy()
        found = answers_on(net, batches, index)
        assert found.wrong == (labels != 2).sum()
        assert found.weight == pytest.approx(
            sum(balancing(split.labels)[split.labels == y][0] for y in labels if y != 2)
        )


def test_a_calibrated_network_answers_the_calibration_images_as_on_their_own_statistics():
    network, x = tiny.supernet().extract(tiny.genotypes(1)[0]), tiny.batches(tiny.split(64), 64)[0][0]
    network.train()
    for _ in range(3):
        network(torch.randn_like(x) * 5 + 3)  # statistics far from those of x
    momenta = [layer.momentum for layer in network.modules() if isinstance(layer, _BatchNorm)]
    with torch.no_grad():
        own = network(x)
        # Running variances are unbiased ones, a batch's own are not: that flips the odd sign.
        assert torch.isclose(network.eval()(x), own, rtol=0.05, atol=0.05).float().mean() < 0.5
        calibrate(network, x)
        assert not network.training
        assert torch.isclose(network(x), own, rtol=0.05, atol=0.05).float().mean() > 0.9
    assert [layer.momentum for layer in network.modules() if isinstance(layer, _BatchNorm)] == momenta
