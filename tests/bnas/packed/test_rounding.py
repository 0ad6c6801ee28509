"""Numbers of a file: what rounding may change, how many bytes it leaves, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.packed.rounding import bytes_of, restored, step_bytes, stored
from bnas.space.layout import payload
from bnas.space.network_config import NetworkConfig
from bnas.space.shipped import SHIPPED
from tests.bnas.packed import builders

CONFIG = NetworkConfig(in_channels=2, classes=7, channels=5, cells=3)
STEPS = builders.steps_of(CONFIG, 2, (8, 8), 0)
LAST = STEPS[-1]
BEFORE = payload(STEPS)[1] - LAST.floats
OWNER = [step.name for step in STEPS[:-1] if step.floats][-1]
"""Of the last number before the classifier's: not the sums and concatenations in between."""


def drawn(seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=payload(STEPS)[1])).astype(np.float32)


def weights(floats: np.ndarray) -> np.ndarray:
    return floats[BEFORE : -CONFIG.classes].reshape(CONFIG.classes, -1)


def test_float32_rounds_nothing():
    floats = drawn(0)
    assert stored(floats, STEPS, "float32") == floats.astype("<f4").tobytes()
    assert builders.same_bits(restored(stored(floats, STEPS, "float32"), STEPS, "float32"), floats)


def test_float16_is_the_nearest_half():
    floats = drawn(1)
    found = restored(stored(floats, STEPS, "float16"), STEPS, "float16")
    assert builders.same_bits(found, floats.astype(np.float16).astype(np.float32))


def test_int8_is_the_nearest_of_255_steps_of_a_class_and_the_rest_is_float16():
    floats = drawn(2)
    found = restored(stored(floats, STEPS, "int8"), STEPS, "int8")
    half = floats.astype(np.float16).astype(np.float32)
    assert builders.same_bits(found[:BEFORE], half[:BEFORE])
    assert builders.same_bits(found[-CONFIG.classes :], half[-CONFIG.classes :])
    ours, given_ = weights(found), weights(floats)
    step = (np.abs(given_).max(axis=1) / 127).astype(np.float16).astype(np.float32)[:, None]
    whole = ours / step
    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole).max() == 127
    # Half a step, and what rounding of the step itself makes of the largest weights.
    assert (np.abs(ours - given_) <= step / 2 + 127 * step * 2**-11).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(sorted(SHIPPED)), st.sampled_from([1e-6, 1e-3, 1.0, 100.0]))
def test_rounding_twice_is_rounding_once(seed, shipped, scale):
    once = restored(stored(drawn(seed, scale), STEPS, shipped), STEPS, shipped)
    if shipped == "int8" and scale == 1e-6:
        return  # a scale of a class among the smallest numbers of all is rounded by more than its weights
    assert builders.same_bits(restored(stored(once, STEPS, shipped), STEPS, shipped), once)


@pytest.mark.parametrize("shipped", SHIPPED)
def test_bytes_are_those_of_every_step_together(shipped):
    content = stored(drawn(3), STEPS, shipped)
    bits = sum(step.bits for step in STEPS)
    assert len(content) == bytes_of(STEPS, shipped)
    assert bits / 8 + len(content) == sum(step_bytes(step, shipped) for step in STEPS)


def test_a_class_without_weights_stays_without():
    floats = drawn(4)
    weights(floats)[3] = 0
    assert not weights(restored(stored(floats, STEPS, "int8"), STEPS, "int8"))[3].any()


@pytest.mark.parametrize("shipped", ["float16", "int8"])
@pytest.mark.parametrize(("at", "name"), [(0, "stem.0"), (BEFORE - 1, OWNER), (-1, "classifier")])
def test_a_number_out_of_reach_is_refused_by_the_name_of_its_step(shipped, at, name):
    floats = drawn(5)
    floats[at] = -7e4
    expected = f"^{name}: expected numbers of at most 65,504 for float16, found -70000; float32 holds it$"
    with pytest.raises(ValueError, match=expected):
        stored(floats, STEPS, shipped)


def test_int8_reaches_weights_that_float16_does_not():
    floats = drawn(6)
    weights(floats)[2, 1] = 1e6
    assert weights(restored(stored(floats, STEPS, "int8"), STEPS, "int8"))[2, 1] == pytest.approx(1e6, rel=1e-3)
