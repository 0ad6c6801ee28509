"""A finished run of the whole pipeline on tiny parameters, one for each module that asks for it."""

from __future__ import annotations

import pytest

from tests.pipeline.workspace import STAGES, Workspace


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """All stages run and committed; a test that changes something puts it back."""
    workspace = Workspace(tmp_path_factory.mktemp("project"))
    assert workspace.repro() == list(STAGES)
    workspace.commit()
    return workspace
