"""The rival: a network that PyTorch computes alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from torch import Tensor

from bnas.nn import pooling
from bnas.nn.operations import BinaryBlock, match_channels, pooled


@contextmanager
def plain() -> Iterator[None]:
    """Blocks run their layers one by one, and PyTorch pools."""

    def layers(block: BinaryBlock, x: Tensor) -> Tensor:
        return block.plain(x, match_channels(pooled(x, block.stride), block.out_channels))

    with ExitStack() as patches:
        patches.enter_context(patch.object(BinaryBlock, "forward", layers))
        patches.enter_context(patch.object(pooling, "fits", lambda x: False))
        yield
