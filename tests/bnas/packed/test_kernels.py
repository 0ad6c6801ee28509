"""The compiled kernels equal the slow reference, bit for bit."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bnas.packed import reference
from bnas.space.layout import Block, Classifier, Concat, Pool, Shape, Shuffle, Stem, Sum
from tests.bnas.packed.builders import (
    block_parameters,
    block_step,
    images,
    machine,
    parameters,
    same_bits,
    scales,
)

seeds = st.integers(0, 2**32 - 1)
sides = st.tuples(st.integers(1, 19), st.integers(1, 19))
strides = st.sampled_from([1, 2])
counts = st.integers(1, 5)
blocks = st.integers(1, 6)
kinds = st.sampled_from(["normal", "grid", "extreme"])


def many(examples):
    return settings(max_examples=examples, deadline=None)


def equal(steps, values, x, block):
    """Whether the machine's last map is the reference's."""
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference.run(steps, values, x)
    return same_bits(machine(steps, values, block)(x), expected)


# ---------------------------------------------------------------- one step


@many(150)
@given(
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=sides,
    kernel=st.sampled_from([1, 3, 5]),
    dilation=st.sampled_from([1, 2]),
    stride=strides,
    kind=kinds,
    count=counts,
    block=blocks,
    seed=seeds,
)
def test_a_block_equals_the_reference(channels, size, kernel, dilation, stride, kind, count, block, seed):
    have, made = channels
    rng, step = np.random.default_rng(seed), block_step(have, made, size, kernel, stride, dilation)
    x = images(rng, count, step.shape, kind)
    assert equal([step], [block_parameters(rng, step, kind)], x, block)


@many(30)
@given(
    groups=st.integers(1, 10),
    per_group=st.tuples(st.integers(1, 10), st.integers(1, 6)),
    size=sides,
    kernel=st.sampled_from([1, 3, 5]),
    dilation=st.sampled_from([1, 2]),
    stride=strides,
    count=counts,
    seed=seeds,
)
def test_a_grouped_block_equals_the_reference(groups, per_group, size, kernel, dilation, stride, count, seed):
    have, made = (groups * each for each in per_group)
    rng, step = np.random.default_rng(seed), block_step(have, made, size, kernel, stride, dilation, groups)
    x = images(rng, count, step.shape)
    assert equal([step], [block_parameters(rng, step)], x, None)


@pytest.mark.parametrize(
    ("have", "made", "size", "kernel", "dilation", "groups"),
    [
        (64, 64, (14, 14), 3, 1, 1),
        (65, 3, (16, 16), 3, 1, 1),
        (3, 129, (7, 7), 3, 1, 1),
        (128, 4, (3, 3), 5, 2, 1),
        (256, 5, (7, 7), 3, 1, 1),
        (37, 37, (5, 7), 5, 1, 37),
        (8, 8, (1, 130), 3, 1, 1),
        (8, 8, (130, 1), 3, 2, 1),
        (2, 2, (33, 63), 5, 2, 2),
        # Groups, and so many outputs in each that their taps are gathered.
        (6, 70, (5, 4), 5, 2, 2),
        (27, 99, (4, 6), 3, 1, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_of_notable_size_equals_the_reference(have, made, size, kernel, dilation, groups, stride):
    rng, step = np.random.default_rng(have), block_step(have, made, size, kernel, stride, dilation, groups)
    x = images(rng, 3, step.shape)
    assert equal([step], [block_parameters(rng, step)], x, 2)


def test_a_sum_of_more_products_than_the_kernels_count_is_refused():
    with pytest.raises(ValueError, match=r"expected sums of at most 65535 products, found 65550"):
        block_step(2622, 1, (5, 5), 5)


def test_a_sum_of_the_most_products_is_whole():
    # Where all products are −1.
    rng, step = np.random.default_rng(0), block_step(2621, 1, (5, 5), 5)
    values = block_parameters(rng, step)
    values = values._replace(
        weight=-np.ones_like(values.weight), scale_in=np.ones_like(values.scale_in), shift_in=0 * values.shift_in
    )
    x = np.abs(images(rng, 1, step.shape))
    assert equal([step], [values], x, None)


@many(30)
@given(channels=st.integers(1, 20), size=sides, stride=strides, kind=kinds, count=counts, block=blocks, seed=seeds)
@pytest.mark.parametrize("pool", ["max", "avg", "skip", "none"])
def test_a_pool_equals_the_reference(pool, channels, size, stride, kind, count, block, seed):
    shape = Shape(channels, *size)
    # At stride 1 a skip makes no map of its own, so it cannot be the last step.
    first = Pool("pool", 0, shape, shape.halved(channels, stride), pool, stride)
    last = Sum("sum", 1, 1, first.out, first.out)
    x = images(np.random.default_rng(seed), count, shape, kind)
    assert equal([first, last], [None, None], x, block)


@many(30)
@given(
    have=st.integers(1, 4),
    made=st.integers(1, 20),
    size=sides,
    stride=strides,
    relu=st.booleans(),
    count=counts,
    block=blocks,
    seed=seeds,
)
def test_a_stem_equals_the_reference(have, made, size, stride, relu, count, block, seed):
    rng, shape = np.random.default_rng(seed), Shape(have, *size)
    step = Stem("stem", 0, shape, shape.halved(made, stride), stride, relu)
    assert equal([step], [parameters(rng, step)], images(rng, count, shape), block)


@many(30)
@given(width=st.integers(1, 6), groups=st.integers(1, 6), size=sides, count=counts, block=blocks, seed=seeds)
def test_a_shuffle_equals_the_reference(width, groups, size, count, block, seed):
    shape = Shape(width * groups, *size)
    step = Shuffle("shuffle", 0, shape, shape, groups)
    assert equal([step], [None], images(np.random.default_rng(seed), count, shape), block)


@many(30)
@given(channels=st.integers(1, 40), size=sides, classes=st.integers(2, 20), count=counts, block=blocks, seed=seeds)
def test_a_classifier_equals_the_reference(channels, size, classes, count, block, seed):
    rng, shape = np.random.default_rng(seed), Shape(channels, *size)
    step = Classifier("classifier", 0, shape, Shape(classes, 1, 1))
    assert equal([step], [parameters(rng, step)], images(rng, count, shape), block)


# ---------------------------------------------------------------- thresholds


def test_a_value_on_its_threshold_is_plus_one_and_one_unit_below_it_is_minus_one():
    step = block_step(3, 3, (1, 3), 1, groups=3)
    rng = np.random.default_rng(0)
    third = np.float32(1 / 3)
    on = np.array([third, -third, 0], np.float32)
    below, above = np.nextafter(on, np.float32(-1)), np.nextafter(on, np.float32(1))
    x = np.stack([below, on, above], axis=1)[None, :, None, :]
    values = block_parameters(rng, step)._replace(
        scale_in=np.array([3, -3, -1e-3], np.float32),
        shift_in=np.array([-3 * float(third), -3 * float(third), 0], np.float32),
        weight=np.ones((3, 1, 1, 1), np.int8),
        scale_out=np.ones(3, np.float32),
        shift_out=np.zeros(3, np.float32),
        slope=np.ones(3, np.float32),
    )
    signs = np.sign(machine([step], [values])(x).reshape(3, 3)).tolist()
    # 3 · float32(1/3) rounds to 1 in float32, but is a little more than that: the exact sign is asked for.
    assert signs == [[-1, 1, 1], [1, 1, -1], [1, 1, -1]]
    assert equal([step], [values], x, None)


@many(40)
@given(kind=kinds, channels=st.integers(1, 20), seed=seeds)
def test_a_block_decides_as_the_reference_on_and_beside_every_threshold(kind, channels, seed):
    rng, step = np.random.default_rng(seed), block_step(channels, 5, (3, 5))
    values = block_parameters(rng, step)._replace(
        scale_in=scales(rng, channels, kind), shift_in=scales(rng, channels, kind)
    )
    with np.errstate(all="ignore"):
        near = np.nan_to_num(-values.shift_in / values.scale_in, nan=0.0, posinf=1e30, neginf=-1e30)
    x = np.broadcast_to(near[None, :, None, None], (2, channels, 3, 5)).astype(np.float32)
    for towards in (np.float32(-np.inf), np.float32(np.inf)):
        moved = rng.random(x.shape) < 0.4
        x = np.where(moved, np.nextafter(x, towards), x)
    x = np.clip(x, np.float32(-1e30), np.float32(1e30))
    assert equal([step], [values], x, None)


# ---------------------------------------------------------------- several steps


@settings(max_examples=80, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(data=st.data(), channels=st.integers(1, 9), size=sides, count=counts, block=blocks, seed=seeds)
def test_steps_that_read_any_earlier_maps_equal_the_reference(data, channels, size, count, block, seed):
    """Places are given to other maps once their last reader is done: no order of reading may notice."""
    rng, shape = np.random.default_rng(seed), Shape(channels, *size)
    steps, makers = [], ["skip", "max", "avg", "sum", "block"]
    for index in range(data.draw(st.integers(1, 9))):
        source, other = (data.draw(st.integers(0, index)) for _ in range(2))
        match data.draw(st.sampled_from(makers)):
            case "sum":
                steps.append(Sum(f"{index}", source, other, shape, shape))
            case "block":
                steps.append(Block(f"{index}", source, shape, shape, 3, 1, 1))
            case kind:
                steps.append(Pool(f"{index}", source, shape, shape, kind, 1))
    parts = []
    for _ in range(data.draw(st.integers(1, 4))):
        at = len(steps)
        steps.append(Sum(f"{at}", data.draw(st.integers(0, at)), data.draw(st.integers(0, at)), shape, shape))
        parts.append(at + 1)
    wide = shape._replace(channels=channels * len(parts))
    steps.append(Concat("cell", tuple(parts), wide))
    steps.append(Block("narrow", len(steps), wide, shape, 1, 1, 1))
    steps.append(Sum("last", len(steps), data.draw(st.integers(0, at)), shape, shape))
    values = [parameters(rng, step) for step in steps]
    assert equal(steps, values, images(rng, count, shape), block)


# ---------------------------------------------------------------- memory


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_no_vector_reaches_past_the_end_of_an_array():
    script = [sys.executable, "-m", "tests.bnas.packed.guard"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ok"), done.stderr
