"""The ONNX model computes, in onnxruntime, what the packed network computes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from bnas import packed
from bnas.cli import main
from bnas.data.picture import normalise
from bnas.packed import reference
from bnas.packed.network import PackedNetwork
from bnas.space.genotype import Gene, Genotype
from bnas.space.layout import Block, Pool
from bnas.space.network_config import NetworkConfig
from bnas.space.operations import OPERATIONS
from tests.bnas.packed import builders

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROUNDING = 2e-6

NETWORKS = {
    "grey": (NetworkConfig(1, 3, 4, 3), 2, (8, 8)),
    "colour": (NetworkConfig(3, 3, 4, 3), 3, (12, 12)),
    "odd": (NetworkConfig(3, 3, 5, 4), 2, (17, 13)),
    "one pixel": (NetworkConfig(1, 3, 3, 3), 2, (1, 1)),
    "halved by the stem": (NetworkConfig(3, 3, 4, 3, 2), 2, (11, 15)),
    # One node: a reduction doubles what it gets. Four: a cell gets twice or four times what it is wide.
    "widening": (NetworkConfig(1, 3, 5, 5), 1, (9, 9)),
    "narrowing": (NetworkConfig(1, 3, 3, 6), 4, (9, 6)),
    "a stem of three": (NetworkConfig(3, 3, 6, 3, 8), 2, (40, 33)),
    "in 16 bits": (NetworkConfig(3, 3, 4, 3, shipped="float16"), 2, (12, 12)),
    "in 8 bits": (NetworkConfig(3, 3, 4, 3, shipped="int8"), 2, (12, 12)),
}


def undecided(network: PackedNetwork, x: np.ndarray) -> np.ndarray:
    """Which images have a value before a sign within rounding of its threshold, bool `[N]`."""
    maps, found = reference.maps(network.steps, network.parameters, x), np.zeros(len(x), bool)
    for step, values in zip(network.steps, network.parameters, strict=True):
        if isinstance(step, Block):
            value = maps[step.source].astype(float)
            scale, shift = (each.astype(float)[:, None, None] for each in (values.scale_in, values.shift_in))
            size = abs(scale) * (abs(value) + abs(value).max(axis=(1, 2, 3), keepdims=True)) + abs(shift)
            near = abs(scale * value + shift) <= ROUNDING * size
            found |= near.reshape(len(x), -1).any(axis=1)
    return found


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def agrees(path: Path, exported: Path, count: int = 60) -> None:
    """Asserts equal classes and close logits, but where rounding decides; and that it seldom does."""
    network = packed.load(path, 1)
    image = network.card.image
    given = builders.pixels(count, image.channels, (image.height, image.width), seed=3)
    expected = network(given)
    (logits,) = session(exported).run(["logits"], {"pixels": given.astype(np.float32)})
    sure = ~undecided(network, normalise(given.transpose(0, 2, 3, 1), network.card.mean, network.card.std))
    assert sure.mean() > 0.8
    assert len(np.unique(expected[sure].argmax(axis=1))) > 1
    assert np.array_equal(logits[sure].argmax(axis=1), expected[sure].argmax(axis=1))
    # Of what was added, since the biases here cancel most of it.
    size = np.abs(expected).max(axis=1, keepdims=True) + np.abs(network.parameters[-1].bias).max()
    np.testing.assert_allclose((logits / size)[sure], (expected / size)[sure], atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_gives_the_same_classes(tmp_path, name):
    config, nodes, size = NETWORKS[name]
    path, exported = tmp_path / "network.bnn", tmp_path / "network.onnx"
    path.write_bytes(builders.content(config, nodes, size, seed=2))
    assert main(["export-onnx", str(path)]) == 0
    agrees(path, exported)


def every_operation(space: str) -> Genotype:
    """A genotype in which every operation is used in both kinds of cell, strided in the second."""
    ops = [*OPERATIONS[space], "avg_pool_3x3"][:8]
    nodes = tuple((Gene(0, a), Gene(1, b)) for a, b in zip(ops[:4], ops[4:], strict=True))
    return Genotype(nodes, nodes, space)


@pytest.mark.parametrize(
    ("space", "size", "channels"),
    [("bnas", (9, 7), 3), ("bnas", (8, 8), 3), ("bnas", (5, 16), 3), ("darts", (9, 7), 6), ("darts", (8, 8), 8)],
    ids=str,
)
def test_onnxruntime_agrees_on_every_operation(tmp_path, monkeypatch, space, size, channels):
    monkeypatch.setattr(builders, "genotype", lambda seed, nodes, name: every_operation(space))
    config = NetworkConfig(1, 3, channels, 3)
    model = builders.balanced(builders.network(config, 4, seed=1), size)
    path, exported = tmp_path / "network.bnn", tmp_path / "network.onnx"
    packed.save(model, path, builders.card(model, size))
    used = {step.kind for step in packed.load(path, 1).steps if isinstance(step, Pool)}
    assert used == {"skip", "max", "avg"} | ({"none"} if space == "darts" else set())
    assert main(["export-onnx", str(path), "-o", str(exported)]) == 0
    agrees(path, exported)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "network.bnn"
    path.write_bytes(builders.content(NetworkConfig(3, 3, 4, 3), size=(9, 7)))
    return path


def test_the_model_lies_beside_the_file_or_where_it_is_told(model, tmp_path, capsys):
    target = tmp_path / "other.onnx"
    for argv, expected in (([], model.with_suffix(".onnx")), (["-o", str(target)], target)):
        assert main(["export-onnx", str(model), *argv]) == 0
        assert str(expected) in capsys.readouterr().out
    assert target.read_bytes() == model.with_suffix(".onnx").read_bytes()
    assert main(["export-onnx", str(model), "-o", str(tmp_path / "no" / "folder.onnx")]) == 2


def test_the_model_carries_class_names_and_hash_and_takes_any_number_of_images(model, tmp_path):
    target = tmp_path / "network.onnx"
    main(["export-onnx", str(model), "-o", str(target)])
    running = session(target)
    properties = running.get_modelmeta().custom_metadata_map
    assert properties["classes"].split("\n") == list(builders.CLASSES)
    assert properties["hash"] == packed.read(model).hash
    for count in (1, 2, 7):
        (logits,) = running.run(None, {"pixels": np.zeros((count, 3, 9, 7), np.float32)})
        assert logits.shape == (count, 3)


def test_without_the_package_onnx_one_line_says_what_to_install(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "bnas.packed.onnx_export", raising=False)
    assert main(["export-onnx", str(model)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "bnas[onnx]" in errors[0]
