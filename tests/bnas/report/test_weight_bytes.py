import random

import pytest
from safetensors.torch import save_file

from bnas.nn.cost import cost
from bnas.nn.network import Network, NetworkConfig
from bnas.report.weight_bytes import weight_parts
from bnas.space.search_space import SearchSpace
from bnas.space.shipped import SHIPPED


@pytest.mark.parametrize("shipped", SHIPPED)
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_add_up_to_the_size_that_cost_counts(tmp_path, seed, shipped):
    config = NetworkConfig(in_channels=3, classes=7, channels=4, cells=5)
    network = Network(config, SearchSpace(nodes=2).sample(random.Random(seed)))
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    parts = weight_parts(tmp_path / "weights.safetensors", shipped)
    counted = cost(network, (3, 16, 16), shipped)
    assert [part.name for part in parts] == ["stem", *(f"cell {i}" for i in range(1, 6)), "classifier"]
    assert sum(part.size_bytes for part in parts) == counted.size_bytes
    assert sum(8 * part.binary_bytes for part in parts) == counted.binary_params


def test_what_is_no_weights_file_is_refused_in_one_line(tmp_path):
    for name, content in (("empty", b""), ("text", b"no weights at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="expected the weights of a network"):
            weight_parts(tmp_path / name, "float32")
