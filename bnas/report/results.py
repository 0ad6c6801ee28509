"""The records of a finished run as one value, which everything in a report is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnas.data.split_rows import balancing, uneven
from bnas.records.dataset import DatasetDescription
from bnas.records.export import ExportedNetwork, NetworkLatency
from bnas.records.networks import LinearBaseline, RetrainedNetwork, Role
from bnas.records.search import ErrorKind, Front, GenerationRecord, Resource, SearchSummary, SpaceRange
from bnas.records.training import EpochRecord, Predictions
from bnas.records.trial import TrialNetwork
from bnas.report.weight_bytes import Part

STAGE_NAMES = {"stage1": "stage 1", "stage2": "stage 2", "search": "search"}
"""Stages that evolve a population → their names in texts."""


@dataclass(frozen=True)
class ShippedFile:
    """A network's bit-packed file, its path from the project's folder, and how long it takes (None: not timed)."""

    path: str
    file: ExportedNetwork
    latency: NetworkLatency | None


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """Networks trained and tested on one data set; the two mappings of seconds may lack entries.

    `space` is the range of sizes at the networks' scale. `curves`, `predictions` and `network_seconds` map a
    network's name, `stage_seconds` a stage's. `parts` (where its bytes are) and `packed` map a network's name
    and may lack entries; `linear` is None where no such baseline was trained. `resource` is what the search minimised
    beside the `error` of its kind, `latency_correlation` that of a latency table's sums with whole networks (None: no
    table).

    Raises ValueError if there is no front network, or if a network's per-image answers are missing, were given to
    other images than the first network's, or hold another number of mistakes than its record.
    """

    dataset: DatasetDescription
    space: SpaceRange
    networks: tuple[RetrainedNetwork, ...]
    curves: Mapping[str, tuple[EpochRecord, ...]]
    predictions: Mapping[str, Predictions]
    stage_seconds: Mapping[str, float]
    network_seconds: Mapping[str, float]
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    packed: Mapping[str, ShippedFile] = field(default_factory=dict)
    linear: LinearBaseline | None = None
    resource: Resource = "size"
    error: ErrorKind = "plain"
    latency_correlation: float | None = None

    def __post_init__(self) -> None:
        if not self.of_role("front"):
            raise ValueError("networks: expected at least one of the front, found none")
        first = self.networks[0].name
        for network in self.networks:
            where = f"predictions of {network.name}"
            if network.name not in self.predictions:
                raise ValueError(f"{where}: expected one per test image, found none")
            answers = self.predictions[network.name]
            if not np.array_equal(answers.labels, self.predictions[first].labels):
                raise ValueError(f"{where}: expected the labels that {first} was tested on, found others")
            last = max(answers.labels.max(initial=0), answers.predictions.max(initial=0))
            if last >= len(self.dataset.classes):
                raise ValueError(f"{where}: expected classes below {len(self.dataset.classes)}, found {last}")
            wrong, images = int((~answers.correct).sum()), len(answers.labels)
            if (wrong, images) != (network.wrong, network.test_images):
                expected = f"{network.wrong} mistakes in {network.test_images} images"
                raise ValueError(f"{where}: expected {expected}, found {wrong} in {images}")

    def of_role(self, *roles: Role) -> tuple[RetrainedNetwork, ...]:
        """The retrained networks of these roles, smallest first."""
        chosen = (network for network in self.networks if network.role in roles)
        return tuple(sorted(chosen, key=lambda network: (network.size_bytes, network.name)))

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each test image, `[N]`."""
        return self.predictions[self.networks[0].name].labels

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """Test images of each class, `[classes]`."""
        return np.bincount(self.labels, minlength=len(self.dataset.classes))

    @property
    def shows_balanced(self) -> bool:
        """Whether balanced errors stand beside plain ones: if they were minimised, or the classes are not even."""
        return self.error == "balanced" or uneven(self.class_counts)

    def balanced_error(self, network: RetrainedNetwork) -> float:
        """The mean of the network's test errors within each class, in [0, 1]."""
        return float(np.average(~self.predictions[network.name].correct, weights=balancing(self.labels)))

    def error_of(self, network: RetrainedNetwork) -> float:
        """The network's test error, of the kind that the search minimised."""
        return network.test_error if self.error == "plain" else self.balanced_error(network)

    @property
    def best(self) -> RetrainedNetwork:
        """The front network with the lowest error of that kind (of equals the smallest)."""
        return min(self.of_role("front"), key=lambda network: (self.error_of(network), network.size_bytes))

    @property
    def matched(self) -> tuple[tuple[RetrainedNetwork, tuple[RetrainedNetwork, ...]], ...]:
        """(front network, all random networks of its size), smallest first."""
        random = self.of_role("random")
        groups = ((n, tuple(other for other in random if other.matched == n.name)) for n in self.of_role("front"))
        return tuple((network, others) for network, others in groups if others)

    @property
    def random_fronts(self) -> tuple[tuple[RetrainedNetwork, ...], ...]:
        """Random networks, one of each size in `matched`: as many fronts as every size has networks for."""
        return tuple(zip(*(others for _, others in self.matched), strict=False))


@dataclass(frozen=True, kw_only=True)
class Run(Retrained):
    """All that the report of a search is made of.

    `training` maps a supernet stage to its curve; `front` is that of the search, of which, or of the trial's, so many
    networks were `handed_over`. `trial_bins` says in how many parts of the range of sizes the trial compared networks.
    """

    training: Mapping[str, tuple[EpochRecord, ...]]
    generations: tuple[GenerationRecord, ...]
    front: Front
    summary: SearchSummary
    trial: tuple[TrialNetwork, ...] = ()
    trial_bins: int = 8
    handed_over: int = 0


def best_by_test(
    networks: Sequence[RetrainedNetwork], error: Callable[[RetrainedNetwork], float]
) -> RetrainedNetwork | None:
    """The front network with the lowest test error (of equals the smallest): chosen by the test split."""
    front = [network for network in networks if network.role == "front"]
    return min(front, key=lambda network: (error(network), network.size_bytes), default=None)
