"""A trained network for all tests of firmware."""

from __future__ import annotations

import pytest

from bnas.data.split import Split
from bnas.packed.content import PackedContent
from tests.bnas.firmware.networks import digits


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackedContent, Split]:
    """The network, and images that it was not trained on."""
    return digits(tmp_path_factory.mktemp("trained") / "digits.bnn")
