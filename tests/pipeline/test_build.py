"""From parameters to values of the library: mixed precision that cannot be had, and how individuals are scored."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from bnas.records.dataset import DatasetDescription, ImageShape, SplitCounts
from bnas.scoring.scorer import ALL_BATCHES
from pipeline.build import problem, require_bfloat16, scored_batches, scoring
from pipeline.params import load
from tests.imports import ROOT
from tests.pipeline.conftest import Searched
from tests.pipeline.forks import Forks


def test_mixed_precision_needs_a_gpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    require_bfloat16(False, cpu)
    with pytest.raises(ValueError, match=r"^mixed_precision: expected false where training runs on the CPU"):
        require_bfloat16(True, cpu)
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, able=able: able)
        if able:
            require_bfloat16(True, gpu)
        else:
            with pytest.raises(ValueError, match=r"^mixed_precision: expected false on a GPU without bfloat16"):
                require_bfloat16(True, gpu)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "retrain"])
def test_a_stage_refuses_it_in_one_line(searched: Searched, forks: Forks, tmp_path: Path, stage: str) -> None:
    folder = searched.before(stage, tmp_path)
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("mixed_precision: false", "mixed_precision: true"))
    done = forks.run(folder, stage)
    assert done.code != 0
    (line,) = done.err.splitlines()
    assert f"{stage}.mixed_precision: expected false where training runs on the CPU" in line


def test_mode_full_scores_on_all_mini_batches() -> None:
    section = load(ROOT / "params.yaml").search.evaluation
    for mode, count in (("minibatch", section.batches), ("full", ALL_BATCHES)):
        assert scored_batches(section.model_copy(update={"mode": mode})) == count


@pytest.mark.parametrize("resource", ["size", "ops", "ram"])
def test_the_second_objective_is_the_resource_that_the_parameters_name(resource: str) -> None:
    params = load(ROOT / "params.yaml")
    named = params.model_copy(update={"objectives": params.objectives.model_copy(update={"resource": resource})})
    digits = DatasetDescription(
        "digits", "Digits", tuple("0123456789"), ImageShape(28, 28, 1), SplitCounts(8, 1, 1), (0.1,), (0.3,), "0"
    )
    found = problem(named, digits)
    genotype = found.space.sample(random.Random(0))
    cost = found.costs(genotype)
    expected = {"size": cost.size_bytes, "ops": cost.ops, "ram": cost.ram_bytes}
    assert found.resource(genotype) == pytest.approx(expected[resource])
    assert len(set(expected.values())) == 3


def test_the_parameter_of_the_error_reaches_every_scoring() -> None:
    params = load(ROOT / "params.yaml")
    assert not scoring(params, params.search.evaluation).balanced
    balanced = params.model_copy(update={"objectives": params.objectives.model_copy(update={"error": "balanced"})})
    for section in (params.stage1, params.stage2, params.search):
        assert scoring(balanced, section.evaluation).balanced
