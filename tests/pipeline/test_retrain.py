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
    for nodes in (4, 3):
        costs = CostTable(NetworkConfig(1, 10, 8, 3), SearchSpace(nodes=nodes), (1, 8, 8))
        found = fixed(section, costs, lambda genotype: 0.25)
        known = 0.25 if nodes == 4 else None  # the supernet holds architectures of its space only
        assert [(c.name, c.role, c.architecture.config.channels, c.supernet_error) for c in found] == [
            ("hand-4", "hand", 4, None),
            ("hand-8", "hand", 8, 0.25),
            ("bnas-4", "published", 4, None),
            ("bnas-8", "published", 8, known),
            ("ebnas-4", "published", 4, None),
            ("ebnas-8", "published", 8, known),
        ]
        assert [c.architecture.genotype for c in found[2::2]] == [PUBLISHED["bnas"], PUBLISHED["ebnas"]]
