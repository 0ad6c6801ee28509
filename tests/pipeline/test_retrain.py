"""What is retrained beside the front."""

from __future__ import annotations

from bnas.nn.cost import CostTable
from bnas.space.network_config import NetworkConfig
from bnas.space.published import PUBLISHED
from bnas.space.search_space import SearchSpace
from pipeline.params import load
from pipeline.retrain import fixed
from tests.imports import ROOT


def test_hand_designed_widths_and_published_architectures_stand_beside_the_front() -> None:
    section = load(ROOT / "params.yaml").retrain
    section = section.model_copy(update={"hand_designed_channels": (4, 8), "published": ("bnas", "ebnas")})
    costs = CostTable(NetworkConfig(1, 10, 8, 3), SearchSpace(nodes=4), (1, 8, 8))
    found = fixed(section, costs, lambda genotype: 0.25)
    assert [(c.name, c.role, c.architecture.config.channels, c.supernet_error) for c in found] == [
        ("hand-4", "hand", 4, None),
        ("hand-8", "hand", 8, 0.25),
        ("published-bnas", "published", 8, 0.25),
        ("published-ebnas", "published", 8, 0.25),
    ]
    assert [c.architecture.genotype for c in found[2:]] == [PUBLISHED["bnas"], PUBLISHED["ebnas"]]
