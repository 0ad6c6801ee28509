import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnas.data.image_array import Joined, Selected, chunks
from bnas.data.problems import DataError


def images(count, first=0, side=2):
    return (np.arange(first, first + count).reshape(-1, 1, 1, 1) * np.ones((1, side, side, 1))).astype(np.uint8)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_a_joined_array_is_indexed_as_if_it_were_in_memory(a, b, data):
    joined, plain = Joined(images(a), images(b, 100)), np.concatenate([images(a), images(b, 100)])
    number = st.integers(-a - b, a + b - 1)
    rows = data.draw(st.one_of(number, st.lists(number, min_size=1).map(np.array), st.slices(a + b)))
    np.testing.assert_array_equal(joined[rows], plain[rows])
    assert (joined.shape, joined.dtype, len(joined)) == (plain.shape, plain.dtype, len(plain))


@given(st.lists(st.integers(0, 8), min_size=1), st.data())
def test_selected_rows_are_those_of_the_array(rows, data):
    chosen, plain = Selected(images(9), np.array(rows)), images(9)[np.array(rows)]
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1).map(np.array))
    np.testing.assert_array_equal(chosen[wanted], plain[wanted])
    assert (chosen.shape, len(chosen)) == (plain.shape, len(plain))


def test_images_of_other_sizes_are_not_joined():
    with pytest.raises(DataError, match=r"expected images of one shape .* \[2, 2, 1\] and \[3, 3, 1\]"):
        Joined(images(2), images(2, side=3))


@pytest.mark.parametrize("at_once", [1, 8, 12, 1000])
def test_chunks_cover_every_row_once_in_order(at_once):
    found = chunks(images(7), at_once)
    assert [i for chunk in found for i in range(7)[chunk]] == list(range(7))
    assert all((chunk.stop - chunk.start) * 4 <= max(at_once, 4) for chunk in found)
