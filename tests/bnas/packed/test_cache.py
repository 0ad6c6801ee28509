import hashlib
from pathlib import Path

from bnas import frozen_kernels
from bnas.packed import kernels, lanes


def test_a_change_of_the_instructions_is_one_of_the_file_that_numbas_cache_watches():
    content = Path(lanes.__file__).read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith(kernels.LANES_VERSION)


def test_a_change_of_those_kernels_is_one_of_the_file_that_takes_parts_of_them():
    content = Path(kernels.__file__).read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith(frozen_kernels.KERNELS_VERSION)
