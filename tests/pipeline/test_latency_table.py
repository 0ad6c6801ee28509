"""A search for the least time measures every operation first."""

from __future__ import annotations

import json
from pathlib import Path

from tests.pipeline.conftest import Searched
from tests.pipeline.forks import Forks


def test_a_search_for_the_least_time_goes_by_a_table_that_is_measured_first(
    searched: Searched, forks: Forks, tmp_path: Path
) -> None:
    folder = searched.before("stage1", tmp_path)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("resource: size", "resource: latency"))
    done = forks.run(folder, "latency_table")
    assert done.code == 0, done.err
    table = json.loads((folder / "data/latency_table/table.json").read_text())["table"]
    assert any(edge["seconds"] > 0 for cell in table["cells"] for edge in cell["edges"])
    metrics = json.loads((folder / "reports/metrics/latency_table.json").read_text())
    assert -1 <= metrics["latency_correlation"] <= 1
    done = forks.run(folder, "stage1")
    assert (done.code, done.err) == (0, "")
