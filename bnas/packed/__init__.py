"""Packed 1-bit models: a file of bits, and predictions from it without torch.

`load(path)` reads a file, and the network it returns takes images `[N, C, H, W]` to logits; `save(network, path, card)`
writes one and is the only part that needs torch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bnas.packed.card import ModelCard
from bnas.packed.file import PackedError, PackedFile, read
from bnas.packed.network import PackedNetwork, load
from bnas.storage.files import atomic_write

if TYPE_CHECKING:
    from bnas.nn.network import Network

__all__ = ["ModelCard", "PackedError", "PackedFile", "PackedNetwork", "load", "packed", "read", "save"]


def packed(network: Network, card: ModelCard) -> bytes:
    """The content of the file of a trained network; raises ValueError if the card is of another network."""
    from bnas.packed.file import to_bytes
    from bnas.packed.fold import fold
    from bnas.packed.parameters import joined

    if (network.config, network.genotype) != (card.config, card.network.genotype):
        raise ValueError("card: expected the network's configuration and genotype, found another's")
    bits, floats = joined(fold(network, card.steps()))
    return to_bytes(card, bits, floats)


def save(network: Network, path: str | os.PathLike[str], card: ModelCard) -> None:
    """Write the file of a trained network, whole or not at all."""
    atomic_write(Path(path), packed(network, card))
