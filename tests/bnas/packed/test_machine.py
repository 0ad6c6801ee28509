"""Whole networks, and how images are shared out: neither threads, nor blocks, nor neighbours change a byte."""

import math
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bnas import packed
from bnas.data.picture import normalise
from bnas.packed import kernels, reference
from bnas.packed.machine import MOST, WORTH, Machine
from bnas.packed.network import PackedNetwork
from bnas.space.network_config import NetworkConfig
from bnas.space.operations import OPERATIONS
from tests.bnas.packed.builders import (
    CLASSES,
    block_parameters,
    block_step,
    content,
    images,
    machine,
    parameters,
    pixels,
    same_bits,
    steps_of,
)

CONFIG = NetworkConfig(in_channels=2, classes=5, channels=6, cells=4)


@settings(max_examples=25, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(
    nodes=st.integers(1, 4),
    cells=st.integers(3, 6),
    channels=st.integers(1, 7),
    in_channels=st.integers(1, 3),
    stem_stride=st.sampled_from([1, 2, 4, 8]),
    space=st.sampled_from(sorted(OPERATIONS)),
    size=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    kind=st.sampled_from(["normal", "grid"]),
    count=st.integers(1, 5),
    block=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_network_equals_the_reference(
    nodes, cells, channels, in_channels, stem_stride, space, size, kind, count, block, seed
):
    config = NetworkConfig(in_channels, 3, channels, cells, stem_stride)
    rng, steps = np.random.default_rng(seed), steps_of(config, nodes, size, seed, space)
    values = [parameters(rng, step, kind) for step in steps]
    x = images(rng, count, (in_channels, *size), kind)
    expected = reference.run(steps, values, x)
    assert np.isfinite(expected).all()
    assert same_bits(machine(steps, values, block)(x), expected)


@pytest.fixture(scope="module")
def ready():
    """Steps, parameters, images, and the logits that one thread computes."""
    rng, steps = np.random.default_rng(0), steps_of(CONFIG, 3, (11, 9), 1)
    values, x = [parameters(rng, step) for step in steps], images(rng, 23, (2, 11, 9))
    return steps, values, x, machine(steps, values)(x)


@pytest.mark.parametrize("threads", [1, 2, 3, 40])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 23])
def test_logits_do_not_depend_on_the_number_of_threads(ready, threads, count):
    steps, values, x, expected = ready
    assert same_bits(machine(steps, values, threads=threads)(x[:count]), expected[:count])


def test_a_thread_is_woken_for_work_that_is_worth_it(ready):
    steps, values, x, expected = ready
    running = Machine(steps, values, 8)
    assert running.seconds == math.inf
    assert same_bits(running(x), expected)
    assert 0 < running.seconds < math.inf
    for running.seconds, count, threads in (
        (WORTH / 10, 1, 1),
        (WORTH / 10, 19, 1),
        (WORTH / 10, 20, 2),
        (WORTH / 10, 79, 7),
        (WORTH / 10, 10_000, 8),
        (WORTH, 1, 1),
        (WORTH, 2, 2),
        (10 * WORTH, 1, 1),
        (10 * WORTH, 3, 3),
    ):
        assert running.threads_for(count) == threads


def test_work_that_is_not_worth_it_wakes_no_thread(ready):
    steps, values, x, expected = ready
    running = machine(steps, values, threads=3)
    running(x)
    running.shared.clear()
    running._pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        running(x)
    running.worth = math.inf
    assert same_bits(running(x), expected)


def test_sharing_that_was_slower_is_left_for_a_while(ready):
    steps, values, x, expected = ready
    running = machine(steps, values, threads=3)
    running(x)
    size = len(x).bit_length()
    running.shared = {size: 2.0}
    alone = 0
    while running.threads_for(len(x)) == 1:
        assert running.threads_for(2 * len(x)) == 3  # of others nothing is known
        assert same_bits(running(x), expected)
        alone += 1
    assert 50 < alone < 120
    running.seconds = 1e-12  # so short that any call takes more than that
    assert same_bits(running(x), expected)
    assert running.shared[size] > MOST


def test_sharing_that_is_faster_goes_on(ready, monkeypatch):
    """Images that take time, but no processor, so that three threads need a third of it on any machine."""
    steps, values, x, _ = ready
    running = machine(steps, values, threads=3)
    running.seconds, running.block = 5e-3, 1
    monkeypatch.setattr(running, "_run", lambda images, last: time.sleep(5e-3 * len(images)))
    for _ in range(3):
        running(x)
        assert running.threads_for(len(x)) == 3
        assert 0.3 < running.shared[len(x).bit_length()] < 0.9


def test_a_thread_that_does_not_come_is_not_waited_for(ready):
    steps, values, x, expected = ready
    running, go = machine(steps, values, threads=3), threading.Event()
    running(x)
    running.shared.clear()
    busy = [running._pool.submit(go.wait, 60) for _ in range(2)]
    try:
        assert same_bits(running(x), expected)
        assert not any(each.done() for each in busy)
    finally:
        go.set()


@pytest.mark.parametrize("block", [1, 2, 5, 16, 23, 100])
def test_logits_do_not_depend_on_how_many_images_are_computed_at_once(ready, block):
    steps, values, x, expected = ready
    assert same_bits(machine(steps, values, block)(x), expected)


def test_an_images_logits_do_not_depend_on_its_neighbours(ready):
    steps, values, x, expected = ready
    rng, running = np.random.default_rng(1), machine(steps, values, 4)
    for _ in range(5):
        order = rng.permutation(len(x))
        assert same_bits(running(x[order]), expected[order])
    loud = x.copy()
    loud[1::2] = 1e30
    assert same_bits(running(loud)[::2], expected[::2])


def test_nothing_is_left_over_from_an_earlier_call(ready):
    steps, values, x, expected = ready
    running = machine(steps, values, 8)
    for count in (23, 1, 8, 3):
        running(np.full_like(x, 1e30))
        assert same_bits(running(x[:count]), expected[:count])


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_from_several_threads_at_once_do_not_disturb_each_other(ready, threads):
    steps, values, x, expected = ready
    running = machine(steps, values, 4, threads)
    with ThreadPoolExecutor(4) as pool:
        starts = [i % 20 for i in range(60)]
        found = list(pool.map(lambda start: running(x[start:]), starts))
    assert all(same_bits(logits, expected[start:]) for start, logits in zip(starts, found, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_of_a_process_that_predicted_predicts_too(ready):
    steps, values, x, expected = ready
    running = machine(steps, values, threads=3)
    running(x)
    if (child := os.fork()) == 0:
        # A prediction that waits for a thread of the parent's is ended by the alarm.
        signal.alarm(20)
        os._exit(0 if same_bits(running(x), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert same_bits(running(x), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_images_have_no_logits(ready, threads):
    steps, values, x, _ = ready
    assert machine(steps, values, threads=threads)(x[:0]).shape == (0, 5)


def test_a_block_keeps_its_parameters_on_maps_of_another_size():
    rng, step = np.random.default_rng(0), block_step(5, 7, (4, 4), 3, 2)
    shape = step.shape._replace(height=9, width=13)
    other = replace(step, shape=shape, out=shape.halved(step.out.channels, step.stride))
    assert (other.shape, other.out) == ((5, 9, 13), (7, 5, 7))
    values = block_parameters(rng, step)
    x = images(rng, 2, other.shape)
    assert same_bits(machine([other], [values])(x), reference.run([other], [values], x))


def test_arrays_begin_with_a_line_of_the_cache(ready):
    """Elsewhere a call takes up to a tenth longer or less, as chance has it."""
    steps, values, *_ = ready
    program = machine(steps, values).program
    for array in (*program.tables, *program.room.arrays(3)):
        assert array.ctypes.data % 64 == 0


def test_fewer_than_one_thread_is_refused(ready):
    steps, values, *_ = ready
    with pytest.raises(ValueError, match=r"^threads: expected at least 1, found 0$"):
        machine(steps, values, threads=0)


# ---------------------------------------------------------------- a network from a file


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> PackedNetwork:
    path = tmp_path_factory.mktemp("packed") / "colour.bnn"
    path.write_bytes(content(NetworkConfig(3, 3, 5, 3), size=(9, 7)))
    return packed.load(path)


def test_pixels_are_normalised_as_in_testing(network):
    given = pixels(4, 3, (9, 7))
    card = network.card
    expected = normalise(given.transpose(0, 2, 3, 1), card.mean, card.std)
    assert same_bits(network(given), network(expected))
    assert same_bits(network(given), reference.run(network.steps, network.parameters, expected))
    assert not same_bits(network(given), network(given.astype(np.float32)))


def read_only(x):
    found = x.copy()
    found.flags.writeable = False
    return found


LAYOUTS = {
    "read-only": read_only,
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "every other": lambda x: np.repeat(x, 2, axis=0)[::2],
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "Fortran": np.asfortranarray,
    "a part of a buffer": lambda x: np.frombuffer(b"\0" * 8 + x.tobytes(), x.dtype, offset=8).reshape(x.shape),
}


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("order", LAYOUTS)
def test_images_may_lie_in_memory_in_any_order_and_nothing_is_compiled_for_it(network, kind, order):
    x = pixels(3, 3, (9, 7)).astype(kind)
    expected, compiled = network(x), len(kernels.run.signatures)
    other = LAYOUTS[order](x)
    assert np.array_equal(other, x)
    assert same_bits(network(other), expected)
    assert len(kernels.run.signatures) == compiled


def test_probabilities_are_the_softmax_of_the_logits_and_do_not_overflow(network):
    given = pixels(4, 3, (9, 7))
    found, logits = network.probabilities(given), network(given).astype(np.float64)
    assert found.shape == (4, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.log(found[:, 1:] / found[:, :1]), logits[:, 1:] - logits[:, :1], rtol=1e-6, atol=1e-6)
    # So large that e to the power of a logit is infinite.
    assert np.isfinite(network.probabilities(np.full((1, 3, 9, 7), 1e30, np.float32))).all()


def test_a_network_names_its_classes_in_the_order_of_its_logits(network):
    assert network.classes == CLASSES


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (np.zeros((2, 9, 7, 3), np.uint8), r"found uint8 \[2, 9, 7, 3\]"),
        (np.zeros((3, 9, 7), np.uint8), r"found uint8 \[3, 9, 7\]"),
        (np.zeros((2, 3, 9, 7), np.float64), r"found float64"),
        (np.zeros((2, 3, 9, 7), np.int8), r"found int8"),
        (np.zeros((2, 3, 9, 7), bool), r"found bool"),
        (np.full((2, 3, 9, 7), np.nan, np.float32), "found nan or infinity"),
        (np.full((2, 3, 9, 7), -np.inf, np.float32), "found nan or infinity"),
    ],
    ids=str,
)
def test_images_of_another_shape_or_type_or_not_finite_are_refused(network, given, found):
    with pytest.raises(ValueError, match=rf"^images: expected .*{found}"):
        network(given)
