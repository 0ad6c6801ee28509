"""Stage `export`: every retrained network as a packed file, checked against PyTorch and timed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from bnas.data.image_array import ImageArray, chunks
from bnas.data.picture import normalise
from bnas.data.split import Split
from bnas.nn.network import Network
from bnas.packed.agreement import deviating
from bnas.packed.card import ModelCard
from bnas.packed.fold import save, shipped
from bnas.packed.network import PackedNetwork, load
from bnas.packed.timing import timed
from bnas.records.dataset import DatasetDescription
from bnas.records.export import ExportedNetwork, ExportedNetworks, NetworkLatency
from bnas.records.networks import RetrainedNetwork, read_networks
from bnas.space.network_config import NetworkConfig
from bnas.storage.weights import load_weights
from pipeline.config import dataset, files_root, network_config
from pipeline.params import Params
from pipeline.params import sections as schema
from pipeline.stage import PREPARED, REPORTS, Stage, main, write_json

RETRAIN = Path("data/retrain")

AT_ONCE = 2**27
"""The most bytes of test images that are compared at once."""


def run(stage: Stage) -> None:
    """Write, check and time the networks one by one."""
    description = dataset()
    networks = read_networks(RETRAIN / "networks.json")
    runtime = stage.params.runtime
    test = Split.open(PREPARED / "test", files_root(description, runtime), runtime.loader_workers)
    test.verify(PREPARED / "test")
    images = test.images
    advance = stage.progress(len(networks))
    exported, latencies = [], []
    for retrained in networks:
        path, network = stage.out / f"{retrained.name}.bnn", trained(retrained, stage.params, description)
        save(network, path, card(retrained, network.config, description))
        network = shipped(network)
        loaded = load(path, torch.get_num_threads())
        decided, content = check(network, loaded, images, retrained), loaded.content
        exported.append(
            ExportedNetwork(
                retrained.name, content.file_bytes, content.payload_bytes, content.header_bytes, content.hash, decided
            )
        )
        latencies.append(latency(retrained.name, network, loaded, images).to_dict())
        advance(1, retrained.name)
    write_json(stage.out / "files.json", ExportedNetworks(tuple(exported)).to_dict())
    write_json(REPORTS / "times" / "latency.json", latencies)


def trained(retrained: RetrainedNetwork, params: Params, description: DatasetDescription) -> Network:
    """The network with the weights that `retrain` left."""
    network = untrained(retrained, params, description)
    load_weights(network, RETRAIN / retrained.name / "weights.safetensors")
    return network.eval().to(memory_format=torch.channels_last)


def untrained(retrained: RetrainedNetwork, params: Params, description: DatasetDescription) -> Network:
    """The network with random weights."""
    scale = schema.ScaleSection(channels=retrained.channels, cells=retrained.cells)
    return Network(network_config(params, description, scale), retrained.genotype)


def card(retrained: RetrainedNetwork, config: NetworkConfig, description: DatasetDescription) -> ModelCard:
    """The card of the network's file."""
    return ModelCard(
        network=retrained,
        config=config,
        title=description.title,
        classes=description.classes,
        image=description.image,
        mean=description.mean,
        std=description.std,
        data=description.hash,
    )


def check(network: Network, loaded: PackedNetwork, images: ImageArray, retrained: RetrainedNetwork) -> int:
    """The number of test images on which rounding decided a sign; ValueError if packed and PyTorch differ otherwise.

    Labels are not read, and nothing is chosen.
    """
    try:
        parts = (normalise(images[chunk], loaded.card.mean, loaded.card.std) for chunk in chunks(images, AT_ONCE))
        return sum(len(deviating(network, loaded, part)) for part in parts)
    except ValueError as error:
        raise ValueError(f"{retrained.name}: {error}") from None


def latency(name: str, network: Network, loaded: PackedNetwork, images: ImageArray) -> NetworkLatency:
    """Seconds for one image and for 64, packed and in PyTorch, on the same threads (all cores, or OMP_NUM_THREADS)."""
    seconds = []
    for count in (1, 64):
        inputs = normalise(images[:count], loaded.card.mean, loaded.card.std)
        x = torch.from_numpy(inputs).contiguous(memory_format=torch.channels_last)
        seconds.append(timed(lambda: loaded(inputs), seconds=0.08).median)  # noqa: B023
        with torch.inference_mode():
            seconds.append(timed(lambda: network(x), seconds=0.08).median)  # noqa: B023
    return NetworkLatency(name, *seconds)


if __name__ == "__main__":
    sys.exit(main("export", run))
