import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.scoring.composite_error import PRIOR_IMAGES, Composite

TOTAL = 800


def unfitted():
    return Composite.fitted(TOTAL, ())


@st.composite
def seen(draw):
    """(wrong, expected, images) of a network."""
    images = draw(st.integers(1, TOTAL))
    return draw(st.integers(0, images)), draw(st.floats(0, images)), images


@settings(max_examples=100, deadline=None)
@given(st.lists(seen(), max_size=6), seen(), st.floats(0, 1))
def test_on_all_images_it_is_the_counted_error_and_never_below_zero(others, one, doubt):
    composite = Composite.fitted(TOTAL, others)
    assert composite(one[0], doubt * TOTAL, TOTAL) == one[0] / TOTAL
    assert composite(*one) >= 0


def test_of_nothing_known_expected_errors_are_not_corrected():
    assert unfitted()(10, 30, 200) == pytest.approx(0.25 * 10 / 200 + 0.75 * 30 / 200)


def test_the_fewer_images_the_more_the_expected_error_counts():
    shares = [unfitted()(0, images / 2, images) for images in (8, 80, 400, 792)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(0.5 * 0.99)
    assert shares[-1] == pytest.approx(0.5 * 0.01)


def test_networks_less_sure_than_they_ought_to_be_are_corrected():
    shares = np.linspace(0.05, 0.6, 40)
    known = [(round(10**6 * (s**2 + 0.2 * s)), 10**6 * s, 10**6) for s in shares]
    composite = Composite.fitted(10**9, known)
    assert composite(0, 25, 100) == pytest.approx(0.25**2 + 0.2 * 0.25, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(seen(), min_size=1, max_size=8), st.integers(0, 2), st.sampled_from([-1e-3, 1e-3]))
def test_no_other_correction_fits_better(known, which, by):
    def loss(correction):
        terms = [(w / n, v / n, n) for w, v, n in known]
        misses = sum(n * (h - s - np.polyval(correction[::-1], s)) ** 2 for h, s, n in terms)
        return misses + PRIOR_IMAGES * np.sum(np.square(correction))

    best = np.array(Composite.fitted(TOTAL, known).correction)
    other = best.copy()
    other[which] += by
    assert loss(best) <= loss(other) + 1e-9


def test_it_is_nearer_to_the_error_on_all_images_than_the_counted_error():
    rng = np.random.default_rng(0)
    # Networks of different quality that know how sure they are, on 50 of 800 images.
    known, whole, counted = [], [], []
    for strength in rng.uniform(0.5, 3, 200):
        doubts = 1 / (1 + np.exp(strength * rng.uniform(0, 4, TOTAL)))
        wrong = rng.random(TOTAL) < doubts
        known.append((int(wrong[:50].sum()), float(doubts[:50].sum()), 50))
        counted.append(wrong[:50].mean())
        whole.append(wrong.mean())
    composite = Composite.fitted(TOTAL, known)
    found = np.array([composite(*each) for each in known])
    assert np.abs(found - whole).mean() < 0.6 * np.abs(np.array(counted) - whole).mean()
