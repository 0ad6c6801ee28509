import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bnas.storage.weights import WeightsError, load_weights, read_weights, save_weights
from tests.bnas import tiny


def module(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))


def test_weights_come_back_bit_for_bit_whatever_their_layout(tmp_path):
    net, other = module().to(memory_format=torch.channels_last), module(1)
    save_weights(net, tmp_path / "file")
    load_weights(other, tmp_path / "file")
    assert tiny.same_weights(net, other)
    save_weights(other, tmp_path / "other")
    assert (tmp_path / "file").read_bytes() == (tmp_path / "other").read_bytes(), "equal weights, equal files"


def test_anyone_reads_the_file_as_safetensors(tmp_path):
    save_weights(module(), tmp_path / "file")
    assert load_file(tmp_path / "file").keys() == module().state_dict().keys()


def test_a_refused_file_leaves_the_module_alone(tmp_path):
    save_weights(nn.Conv2d(2, 3, 3), tmp_path / "file")
    net, fresh = module(), module()
    with pytest.raises(WeightsError, match=r"file: 0.bias: expected float32 \[3\], found none"):
        load_weights(net, tmp_path / "file")
    assert tiny.same_weights(net, fresh)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2, torch.bool])
def test_types_that_numpy_does_not_know_are_refused_like_others(tmp_path, dtype):
    save_file({"0.bias": torch.zeros(3, dtype=dtype)}, tmp_path / "file", {"sha256": "0"})
    with pytest.raises(WeightsError, match="found other bytes than their hash says"):
        read_weights(tmp_path / "file")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 0.99])
def test_no_flipped_bit_passes_for_a_weight(tmp_path, share):
    path = tmp_path / "file"
    save_weights(module(), path)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="expected"):
        read_weights(path)
