import errno

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bnas.arrays import open_array, save_array


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(st.sampled_from(["u1", "<i8", ">f4", "?"]), hnp.array_shapes(max_dims=4, max_side=5)), st.booleans())
def test_an_array_comes_back_as_it_was(tmp_path_factory, array, fortran):
    path = tmp_path_factory.mktemp("arrays") / "a.npy"
    save_array(path, np.asfortranarray(array) if fortran else array)
    found = open_array(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable


def test_an_array_is_mapped_not_read(tmp_path):
    path = tmp_path / "a.npy"
    save_array(path, np.zeros((10, 10), np.uint8))
    assert isinstance(open_array(path), np.memmap)


@pytest.mark.parametrize("array", [np.zeros(0), np.zeros((3, 0)), np.array(1.0), np.zeros(2, [("a", "u1")])])
def test_what_holds_no_row_of_numbers_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"a\.npy: expected"):
        open_array(tmp_path / "a.npy")


def test_a_failing_write_names_the_file(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match=r"a\.npy: cannot be written: No space left"):
        save_array(tmp_path / "a.npy", np.zeros(3))
