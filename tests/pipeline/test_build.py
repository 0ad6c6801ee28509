"""Mixed precision is refused where it cannot be had, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.build import require_bfloat16
from tests.pipeline.conftest import Searched
from tests.pipeline.forks import Forks


def test_mixed_precision_needs_a_gpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    require_bfloat16(False, cpu, "stage1")
    with pytest.raises(ValueError, match=r"^stage1\.mixed_precision: expected false where training runs on the CPU"):
        require_bfloat16(True, cpu, "stage1")
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, able=able: able)
        if able:
            require_bfloat16(True, gpu, "retrain")
        else:
            with pytest.raises(
                ValueError, match=r"^retrain\.mixed_precision: expected false on a GPU without bfloat16"
            ):
                require_bfloat16(True, gpu, "retrain")


@pytest.mark.parametrize("stage", ["stage1", "stage2", "retrain"])
def test_a_stage_refuses_it_in_one_line(searched: Searched, forks: Forks, tmp_path: Path, stage: str) -> None:
    folder = searched.before(stage, tmp_path)
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("mixed_precision: false", "mixed_precision: true"))
    done = forks.run(folder, stage)
    assert done.code != 0
    (line,) = done.err.splitlines()
    assert f"{stage}.mixed_precision: expected false where training runs on the CPU" in line
