"""Compiled once: numba's cache on disk, for all networks and processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnas.space.network_config import NetworkConfig
from tests.bnas.packed import builders
from tests.imports import ROOT

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


def test_without_a_folder_for_the_cache_every_process_compiles_and_says_so(tmp_path):
    code = """
import warnings
from numba.core import caching
caching.CacheImpl._locator_classes = []
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    from bnas.scoring import kernels
    from bnas.kernels import passes
    from bnas.packed import kernels
    from inner import run
    assert run.ctypes() == 1
assert ["NUMBA_CACHE_DIR" in str(warning.message) for warning in found] == [True]
import numpy as np
kernels.fill_with(out := np.zeros(3), 1, 2, 5.0)
assert out.tolist() == [0, 5, 5]
"""
    (tmp_path / "inner.py").write_text(RUN.format(part="part", decorator="compiled_for_c('int64()')"))
    (tmp_path / "part.py").write_text("VALUE = 1\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


CACHED = """
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from kernels import run
is_c = hasattr(run, "ctypes")
value = run.ctypes() if is_c else run()
print(value, run.cache_hits if is_c else sum(run.stats.cache_hits.values()))
"""
RUN = """
from bnas.kernels import numba_cache
from {part} import VALUE

@numba_cache.{decorator}
def run():
    return VALUE
"""


@pytest.mark.parametrize("decorator", ["compiled()", "compiled_for_c('int64()')"])
def test_a_change_of_a_module_that_a_kernel_imports_from_compiles_it_again(decorator, tmp_path):
    def run():
        done = subprocess.run([sys.executable, "-c", CACHED, tmp_path], capture_output=True, text=True, check=True)
        return done.stdout.split()

    (tmp_path / "kernels.py").write_text("from inner import run\n")
    (tmp_path / "inner.py").write_text(RUN.format(part="part", decorator=decorator))
    (tmp_path / "part.py").write_text("from deepest import VALUE\n")
    (tmp_path / "deepest.py").write_text("VALUE = 1\n")
    assert run() == ["1", "0"]
    assert run() == ["1", "1"]
    (tmp_path / "deepest.py").write_text("VALUE = 2\n")
    assert run() == ["2", "0"]
