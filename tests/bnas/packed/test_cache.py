import hashlib
from pathlib import Path

from bnas.packed import kernels, lanes


def test_a_change_of_the_instructions_is_one_of_the_file_that_numbas_cache_watches():
    content = Path(lanes.__file__).read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith(kernels.LANES_VERSION)
