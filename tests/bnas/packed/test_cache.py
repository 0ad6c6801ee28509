"""Compiled once: numba's cache on disk, for all networks and processes."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from bnas import frozen_kernels, fused_convolutions, fused_kernels
from bnas.config import NetworkConfig
from bnas.packed import kernels, lanes
from tests.bnas.packed import builders

PREDICT = """
import sys
from bnas import packed
from bnas.packed import kernels
import numpy as np
for path in sys.argv[1:]:
    network = packed.load(path)
    image = network.card.image
    pixels = np.zeros((2, image.channels, image.height, image.width), np.uint8)
    print(network(pixels).tolist())
    print(network(pixels.astype(np.float32))[0, 0] * 0)
stats = kernels.run.stats
print(len(kernels.run.signatures), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def predicted(*models: Path) -> list[str]:
    """The lines that a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", PREDICT, *models], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_what_one_process_compiled_serves_every_network_in_the_next(tmp_path):
    models = []
    grey, colour, wide = NetworkConfig(1, 3, 4, 3), NetworkConfig(3, 2, 5, 4, 2), NetworkConfig(2, 7, 3, 3)
    for config, size in ((grey, (8, 8)), (colour, (9, 7)), (wide, (1, 20))):
        models.append(tmp_path / f"{len(models)}.bnn")
        models[-1].write_bytes(builders.content(config, size=size))
    first, later = predicted(models[0]), predicted(*models)
    assert later[:2] == first[:2]
    # One form of the code, found on disk once, and nothing compiled.
    assert later[-1] == "1 1 0"


def test_without_a_folder_for_the_cache_every_process_compiles_and_says_so():
    code = """
import warnings
from numba.core import caching
caching.CacheImpl._locator_classes = []
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    from bnas import frozen_kernels, fused_kernels
    from bnas.packed import kernels
    fused_kernels.runner()
assert ["NUMBA_CACHE_DIR" in str(warning.message) for warning in found] == [True]
import numpy as np
kernels._fill(out := np.zeros(3), 1, 2, 5.0)
assert out.tolist() == [0, 5, 5]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_change_of_the_instructions_is_one_of_the_file_that_numbas_cache_watches():
    content = Path(lanes.__file__).read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith(kernels.LANES_VERSION)


def test_a_change_of_those_kernels_is_one_of_the_file_that_takes_parts_of_them():
    content = Path(kernels.__file__).read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith(frozen_kernels.KERNELS_VERSION)


@pytest.mark.parametrize(
    ("watched", "parts"),
    [
        (fused_convolutions, ("fused_plan", "fused_tiles", "fused_vectors")),
        (fused_kernels, ("fused_convolutions", "fused_pool_kernels")),
    ],
)
def test_a_change_of_what_training_kernels_are_made_of_is_one_of_the_file_that_numbas_cache_watches(watched, parts):
    content = b"".join((Path(watched.__file__).parent / f"{part}.py").read_bytes() for part in parts)
    assert watched.PARTS_VERSION
    assert hashlib.sha256(content).hexdigest().startswith(watched.PARTS_VERSION)
