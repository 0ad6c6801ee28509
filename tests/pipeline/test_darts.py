"""The darts space, a stem of two convolutions and an auxiliary head, through every stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from bnas import packed
from bnas.records.export import read_exported
from bnas.records.networks import read_networks
from bnas.records.training import read_predictions
from bnas.space.genotype import Genotype
from bnas.space.operations import OPERATIONS
from tests.pipeline.conftest import project
from tests.pipeline.forks import Forks
from tests.pipeline.workspace import compile_kernels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Path:
    folder = project(tmp_path_factory.mktemp("darts"))
    compile_kernels()
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["space"] |= {"name": "darts", "operations": list(OPERATIONS["darts"])}
    values["network"] |= {"stem_stride": 4, "final": {"channels": 4, "cells": 3}}
    values["retrain"] |= {"count": 1, "auxiliary_weight": 0.4, "hand_designed_channels": [4], "published": ["ebnas"]}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for stage in ("prepare", "stage1", "stage2", "search", "trial", "retrain", "export", "report"):
        done = forks.run(folder, stage)
        assert done.code == 0, done.err
    return folder


def test_every_network_is_of_the_space_and_exported_as_it_was_tested(run: Path) -> None:
    networks = read_networks(run / "data/retrain/networks.json")
    assert {network.role for network in networks} == {"front", "random", "hand", "published"}
    images = np.load(run / "data/prepared/test/images.npy").transpose(0, 3, 1, 2)
    deviating = {file.network: file.deviating for file in read_exported(run / "data/export/files.json")}
    for network in networks:
        assert network.genotype.space == ("bnas" if network.role == "published" else "darts")
        loaded = packed.load(run / "data/export" / f"{network.name}.bnn", 1)
        assert loaded.card.network == replace(network, trial_estimate=None, ram_bytes=None), "a file holds nothing else"
        assert loaded.content.payload_bytes == pytest.approx(network.size_bytes, rel=0.02)
        assert loaded.card.config.shipped == "int8"
        assert network.rounded is not None
        # The error is that of the file: its answers are those that count, but where rounding decides a sign.
        tested = read_predictions(run / f"data/retrain/{network.name}/predictions.csv").predictions
        other = loaded(images).argmax(axis=1) != tested
        assert other.sum() <= deviating[network.name]
    (hand,) = (network for network in networks if network.role == "hand")
    assert {gene.op for gene in hand.genotype.genes} == {"sep_conv_3x3"}


def test_the_report_draws_the_operations_and_holds_the_genotypes(run: Path) -> None:
    page = (run / "reports/index.html").read_text()
    assert "sep 3×3" in page
    networks = read_networks(run / "data/retrain/networks.json")
    assert all(network.key in page for network in networks)
    assert json.loads((run / "data/search/front.json").read_text())


def test_a_genotype_of_the_other_space_is_refused(run: Path) -> None:
    network = read_networks(run / "data/retrain/networks.json")[0]
    with pytest.raises(ValueError, match="expected an operation out of skip_connect"):
        Genotype.from_dict(
            {**network.genotype.to_dict(), "space": "bnas", "normal": [[["sep_conv_3x3", 0], ["none", 1]]]}
        )
