import numpy as np
import pytest
from numba import njit

from bnas.kernels import emitter, tiles
from bnas.kernels.emitter import LANES
from bnas.kernels.vectors import load, load_bytes, load_counts, store, store_bytes

# Whatever processor this is: both kinds of inner loops are compiled for it, wide registers or not.
TILES = ((1, 16), (2, 8), (4, 4), (2, 3), (1, 4), (2, 2), (1, 1))


def called(tile):
    """A tile, to be called with its numbers."""
    return njit(lambda *values: tile(*values))


def test_the_tiles_of_this_processor_are_among_those_tested():
    assert set(tiles.TILES) <= set(TILES)


@pytest.mark.parametrize("rows_columns", TILES, ids=str)
@pytest.mark.parametrize("wide", [False, True])
def test_a_tile_of_the_inputs_gradient_sums_over_taps_and_channels(rows_columns, wide, monkeypatch):
    monkeypatch.setattr(emitter, "WIDE", wide)
    tile, (rows, columns) = called(tiles._inputs(*rows_columns)), rows_columns
    rng, depth, taps = np.random.default_rng(0), LANES + 4, ((0, 0), (2, 1), (1, 0))
    gradient = rng.standard_normal((2, rows + 2, columns + 1, LANES)).astype(np.float32)
    weights = rng.standard_normal((len(taps), depth, LANES)).astype(np.float32)
    offsets = np.array([(y * (columns + 1) + x) * LANES for y, x in taps])
    line, part = gradient.strides[1] // 4, gradient.strides[0] // 4
    padded = np.concatenate([gradient[0], gradient[1]], axis=2)[..., :depth]
    expected = sum(padded[y : y + rows, x : x + columns] @ weights[t] for t, (y, x) in enumerate(taps))
    for channels in (LANES, LANES // 2, 5):
        out = np.full((rows, columns + 1, channels), 7, np.float32)
        tile(
            *(gradient.ctypes.data, line, part, offsets.ctypes.data, len(taps), weights.ctypes.data, depth),
            *(out.ctypes.data, out.strides[0] // 4, channels, channels),
        )
        np.testing.assert_allclose(out[:, :-1], expected[..., :channels], rtol=1e-5, atol=1e-5)
        assert (out[:, -1] == 7).all()  # nothing is written beside the tile


@pytest.mark.parametrize("together", [4, 8])
@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_a_tile_of_the_weights_gradient_sums_over_pixels(chunks, together, monkeypatch):
    monkeypatch.setattr(tiles, "TOGETHER", together)
    tile, rng, (rows, columns, step) = called(tiles._weights(chunks)), np.random.default_rng(0), (3, 5, 6)
    gradient = rng.standard_normal((rows, columns + 2, LANES)).astype(np.float32)
    seen = rng.standard_normal(rows * 100 + 100).astype(np.float32)
    offsets, pitch = (0, 11, 40)[:chunks], 10 * LANES
    before = rng.standard_normal((chunks, 10, LANES)).astype(np.float32)
    out = before.copy()
    line = gradient.strides[0] // 4
    tile(gradient.ctypes.data, line, seen.ctypes.data, 100, step, rows, columns, out.ctypes.data, pitch, offsets)
    expected = before.copy()
    for k, offset in enumerate(offsets):
        for r in range(rows):
            for c in range(columns):
                start = r * 100 + c * step + offset
                expected[k, :together] += np.outer(gradient[r, c, :together], seen[start : start + LANES])
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert (out[:, together:] == before[:, together:]).all()


@pytest.mark.parametrize("wide", [False, True])
def test_lanes_that_are_not_there_are_read_as_zero_and_not_written(wide, monkeypatch):
    monkeypatch.setattr(emitter, "WIDE", wide)

    @njit
    def copy(kind, source, to, count):
        if kind == 0:
            store(to, 0, LANES, load(source, 0, count))
        elif kind == 1:
            store(to, 0, LANES, load_counts(source, 0, count))
        elif kind == 2:
            store(to, 0, LANES, load_bytes(source, 0, count))
        elif kind == 3:
            store(to, 0, count, load(source, 0, LANES))
        else:
            store_bytes(to, 0, count, load(source, 0, LANES))

    values = np.arange(1, LANES + 1)
    for count in range(LANES + 1):
        there = np.arange(LANES) < count
        for kind, source in enumerate((np.float32, np.int16, np.uint8)):
            read, out = values.astype(source), np.full(LANES, 99, np.float32)
            copy(kind, read.ctypes.data, out.ctypes.data, count)
            assert out.tolist() == np.where(there, values, 0).tolist()
        read = values.astype(np.float32)
        for kind, made in ((3, np.float32), (4, np.uint8)):
            out = np.full(LANES, 99, made)
            copy(kind, read.ctypes.data, out.ctypes.data, count)
            assert out.tolist() == np.where(there, values, 99).tolist()
