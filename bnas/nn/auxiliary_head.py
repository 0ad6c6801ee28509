"""The head that helps to train a deep network: a second classifier at two thirds of its depth, then thrown away."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnas.nn.network import Network, PathDropout


class AuxiliaryHead(nn.Module):
    """State `[N, channels, H, W]` → logits `[N, classes]`, in full precision: the head of DARTS (Liu et al. 2019).

    ReLU, average over a 2×2 grid ([ours]: whatever the state's size; there 5×5 windows with stride 3 of 8×8 pixels),
    1×1 convolution to 128 channels, 2×2 convolution to 768, each with BatchNorm and ReLU, and a linear layer.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, state: Tensor) -> Tensor:
        """[N, channels, H, W] → [N, classes]."""
        logits: Tensor = self.classifier(self.features(state).flatten(1))
        return logits


class WithAuxiliary(nn.Module):
    """A network in training, with a head behind its second reduction cell.

    The network itself knows nothing of the head: size, cost, files and predictions are the network's.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network, config = network, network.config
        self.after = config.reductions[1]
        self.head = AuxiliaryHead(network.topology.cells[self.after].out_channels, config.classes)

    def forward(self, x: Tensor, dropout: PathDropout | None = None) -> tuple[Tensor, Tensor]:
        """Images `[N, C, H, W]` → the network's logits and the head's, `[N, classes]` each."""
        auxiliary = torch.empty(0)
        for index, state in enumerate(self.network.states(x, self.network.genotype, dropout)):
            if index == self.after:
                auxiliary = self.head(state)
            last = state
        return self.network.classify(last), auxiliary
