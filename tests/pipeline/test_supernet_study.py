"""The study of supernets trains and scores them as the pipeline does."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from bnas.records.search import read_front
from pipeline import build
from pipeline.config import dataset, search_space
from pipeline.params import load
from tests.benchmarks import supernet
from tests.imports import ROOT
from tests.pipeline.workspace import Workspace


def test_without_a_change_its_supernet_and_its_errors_are_those_of_the_run(
    finished: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    unchanged = supernet.of_both({})
    params, description = load("params.yaml"), dataset()
    trained = supernet.train(params, supernet.Way(unchanged))
    kept = build.load_supernet(params, description, search_space(params), Path("data/stage2/supernet.safetensors"))
    assert all(torch.equal(value, kept.state_dict()[name]) for name, value in trained.state_dict().items())
    other = supernet.train(params, supernet.Way(unchanged, uniform=1.0)).state_dict()
    assert not all(torch.equal(value, other[name]) for name, value in trained.state_dict().items())

    front = read_front(Path("data/search/front.json")).members
    networks = pd.DataFrame({"genotype": [json.dumps(member.genotype.to_dict()) for member in front]})
    wrong, losses = supernet.scores(trained, params, networks)
    assert wrong.tolist() == pytest.approx(
        [member.wrong for member in front], abs=1
    )  # of 60; the scorer rounds otherwise
    assert losses.min() > 0
    tuned = supernet.fine_tuned(trained, params, networks)
    assert tuned.index.equals(losses.index)
    assert (tuned != losses).all()


def test_all_ways_of_training_are_parameters_that_there_are(finished: Workspace) -> None:
    params = load(finished.folder / "params.yaml")
    ways = {name: supernet.changed(params, way.change, 3) for name, way in supernet.WAYS.items()}
    assert all((way.stage1.seed, way.stage2.seed) == (3, 3) for way in ways.values())
    unchanged = [name for name, way in ways.items() if way == ways["co-evolved"]]
    assert unchanged == [
        "co-evolved",
        "half of the paths uniform",
        "weights shared by sources",
        "kernels cut from larger ones",
    ]
    default = load(ROOT / "params.yaml")
    assert supernet.changed(default, supernet.WAYS["co-evolved: the default"].change, 0) == default


def test_with_shared_weights_an_operation_of_a_node_is_one_module_for_all_sources_of_a_stride(
    finished: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    params = load("params.yaml")
    net = build.new_supernet(params, dataset(), search_space(params), 0)
    separate = sum(1 for _ in net.parameters())
    supernet.share_by_source(net)
    assert sum(1 for _ in net.parameters()) < separate
    for cell, layout in zip(net.cells, net.topology.cells, strict=True):
        for node in layout.nodes:
            modules = {(edge.op, edge.stride): cell.edges[edge.name] for edge in node}
            assert all(cell.edges[edge.name] is modules[edge.op, edge.stride] for edge in node)
            assert len(set(map(id, modules.values()))) == len(modules)


def test_a_nested_kernel_is_the_middle_of_the_larger_one_which_learns_from_its_use(
    finished: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished.folder)
    params, description = load("params.yaml"), dataset()
    net = build.new_supernet(params, description, search_space(params), 0)
    supernet.nest_kernels(net)
    edges = net.cells[0].edges
    small, large = edges["0_0_bin_dil_conv_3x3"], edges["0_0_bin_dil_conv_5x5"]
    assert torch.equal(small.conv.weight, large.conv.weight[:, :, 1:-1, 1:-1])
    assert edges["0_0_bin_conv_3x3"].conv.weight.shape != large.conv.weight.shape
    assert not torch.equal(small.conv.weight, edges["0_0_bin_conv_3x3"].conv.weight)
    channels = small.conv.weight.shape[1]
    small.train()(torch.randn(4, channels, 6, 6)).square().sum().backward()
    gradient = large.conv.weight.grad
    assert gradient[:, :, 1:-1, 1:-1].abs().sum() > 0
    assert gradient.abs().sum() == gradient[:, :, 1:-1, 1:-1].abs().sum(), "nothing else was used"
