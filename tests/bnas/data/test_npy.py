import resource
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bnas.data.npy import open_array, save_array, saved_array


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


def test_a_header_that_does_not_close_its_brackets_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"descr':", b"descr'(", 1))
    with pytest.raises(ValueError, match=r"a\.npy: expected an array"):
        open_array(tmp_path / "a.npy")


def test_a_failing_write_names_the_file(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match=r"a\.npy: cannot be written: File too large"):
            save_array(tmp_path / "a.npy", np.zeros(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


def test_an_array_may_be_written_a_few_rows_at_a_time(tmp_path):
    array = np.arange(60).reshape(10, 3, 2)
    with saved_array(tmp_path / "a.npy", array.dtype, array.shape) as write:
        for start in (0, 4, 8):
            write(array[start : start + 4])
    np.testing.assert_array_equal(open_array(tmp_path / "a.npy"), array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
