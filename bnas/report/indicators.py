"""Indicators of a finished run: of its fronts, its trial and its generations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bnas.records.networks import RetrainedNetwork
from bnas.records.search import GenerationRecord, Member, SpaceRange
from bnas.records.trial import Origin, TrialNetwork
from bnas.report.results import Retrained, Run
from bnas.search import pareto

Estimate = Literal["supernet_error", "trial_estimate"]
"""An estimate of a network's error from before it was trained: the field of its record."""


def network_hypervolume(run: Retrained, networks: Sequence[RetrainedNetwork]) -> float:
    """Hypervolume of the networks' test errors and sizes."""
    errors = [run.error_of(network) for network in networks]
    return hypervolume(errors, [network.size_bytes for network in networks], run.space)


def random_hypervolume(run: Retrained) -> float:
    """The mean of the same over `Retrained.random_fronts`; nan if there are none."""
    return _mean([network_hypervolume(run, front) for front in run.random_fronts])


def family_hypervolume(run: Retrained, networks: Sequence[RetrainedNetwork]) -> float:
    """The same of networks outside the space: smaller ones count as its smallest, larger ones not at all."""
    space = run.space
    within = [network for network in networks if network.size_bytes <= space.largest_bytes]
    sizes = [max(network.size_bytes, space.smallest_bytes) for network in within]
    return hypervolume([run.error_of(network) for network in within], sizes, space)


def hypervolume(errors: Sequence[float] | NDArray[np.float64], sizes: Sequence[float], space: SpaceRange) -> float:
    """Hypervolume of errors and sizes, chance and the range of the space being the corners."""
    return pareto.front_hypervolume(errors, sizes, space.chance_error, space.smallest_bytes, space.largest_bytes)


def coverage(sizes: Sequence[float], space: SpaceRange, bins: int) -> float:
    """Size coverage of the space's range."""
    return pareto.size_coverage(sizes, space.smallest_bytes, space.largest_bytes, bins)


def network_coverage(run: Retrained, networks: Sequence[RetrainedNetwork], bins: int) -> float:
    """Size coverage of the networks, at least one, on the front of their test errors and sizes."""
    mask = pareto.nondominated([(run.error_of(network), network.size_bytes) for network in networks])
    return coverage([n.size_bytes for n, kept in zip(networks, mask, strict=True) if kept], run.space, bins)


def fidelity(run: Retrained, estimate: Estimate = "supernet_error") -> float:
    """Kendall τ-b between an estimate and test error over front and random networks; nan if undefined."""
    scored = [n for n in run.of_role("front", "random") if getattr(n, estimate) is not None]
    return pareto.kendall_tau([getattr(n, estimate) for n in scored], [run.error_of(n) for n in scored])


@dataclass(frozen=True)
class TrialBin:
    """The trial of one size: bytes from `low` to `high`, networks by origin, finalists, the best estimates."""

    low: float
    high: float
    origins: Mapping[Origin, int]
    finalists: int
    best: TrialNetwork
    best_finalist: TrialNetwork | None


def trial_bins(run: Run) -> list[TrialBin]:
    """The trial by equal log-size bins of the space; those that nothing was trained of are left out."""
    edges = np.geomspace(run.space.smallest_bytes, run.space.largest_bytes, run.trial_bins + 1)
    shortest = min((network.epochs for network in run.trial), default=0)
    tried = []
    for low, high in pairwise(edges.tolist()):
        # Rounding must not put the smallest or the largest network outside.
        inside = [n for n in run.trial if low * (1 - 1e-9) <= n.size_bytes < high or n.size_bytes >= high == edges[-1]]
        first = sorted((n for n in inside if n.epochs == shortest), key=lambda n: n.estimate)
        last = sorted((n for n in inside if n.epochs != shortest), key=lambda n: n.estimate)
        if first:
            origins = Counter(network.origin for network in first)
            tried.append(TrialBin(low, high, origins, len(last), first[0], last[0] if last else None))
    return tried


def supernet_worth(run: Run) -> tuple[float, float]:
    """Kendall τ-b of supernet errors with training losses of the trial's first rung: over all sizes, and at equal size.

    The latter is the mean over equal log-size bins, weighted by the pairs in them; nan where undefined.
    """
    shortest = min((network.epochs for network in run.trial), default=0)
    scored = [n for n in run.trial if n.epochs == shortest and n.supernet_error is not None]
    edges = np.geomspace(run.space.smallest_bytes, run.space.largest_bytes, run.trial_bins + 1)
    errors, losses = [n.supernet_error or 0.0 for n in scored], [n.loss for n in scored]
    return pareto.kendall_tau(errors, losses), tau_at_equal_size(errors, losses, [n.size_bytes for n in scored], edges)


def tau_at_equal_size(
    estimates: Sequence[float], losses: Sequence[float], sizes: Sequence[float], edges: NDArray[np.float64]
) -> float:
    """Kendall τ-b within the bins of size that `edges` part, weighted by the pairs in them; nan where undefined."""
    place = np.searchsorted(edges[1:-1], sizes)
    groups = [np.flatnonzero(place == each) for each in np.unique(place)]
    weighted = [
        (len(group) * (len(group) - 1), pareto.kendall_tau(np.take(estimates, group), np.take(losses, group)))
        for group in groups
        if len(group) > 1
    ]
    weighted = [(pairs, value) for pairs, value in weighted if not math.isnan(value)]
    pairs = sum(weight for weight, _ in weighted)
    return sum(weight * value for weight, value in weighted) / pairs if pairs else math.nan


def loss_by_origin(run: Run) -> dict[Origin, float]:
    """Origin of networks of the trial's first rung → by how many nats their losses exceed what is usual at their size.

    Usual is a parabola in log size, fitted to all of them by least squares; a negative mean is a good one. Empty where
    fewer than three sizes were trained.
    """
    shortest = min((network.epochs for network in run.trial), default=0)
    first = [network for network in run.trial if network.epochs == shortest]
    sizes, losses = np.log([n.size_bytes for n in first]), np.array([n.loss for n in first])
    if len(np.unique(sizes)) < 3:
        return {}
    excess = losses - np.polynomial.Polynomial.fit(sizes, losses, 2)(sizes)
    origins = dict.fromkeys(network.origin for network in first)
    return {each: float(excess[[n.origin == each for n in first]].mean()) for each in origins}


@dataclass(frozen=True)
class GenerationIndicators:
    """One generation's front, as scored then and with the final supernet weights (nan if not rescored).

    `population_coverage` is the size coverage of all members, on the front or not.
    """

    stage: str
    generation: int
    hypervolume: float
    rescored_hypervolume: float
    size_coverage: float
    rescored_size_coverage: float
    population_coverage: float
    parameter_free_share: float


def generation_indicators(run: Run, bins: int) -> list[GenerationIndicators]:
    """The indicators of every generation, in order."""
    space, rows = run.space, []
    for record in run.generations:
        members = record.members
        then = _front_indicators(members, [m.error for m in members], space, bins)
        rescored = [m.rescored_error for m in members if m.rescored_error is not None]
        known = len(rescored) == len(members)
        now = _front_indicators(members, rescored, space, bins) if known else (math.nan, math.nan)
        rows.append(
            GenerationIndicators(
                stage=record.stage,
                generation=record.generation,
                hypervolume=then[0],
                rescored_hypervolume=now[0],
                size_coverage=then[1],
                rescored_size_coverage=now[1],
                population_coverage=coverage([m.size_bytes for m in members], space, bins),
                parameter_free_share=_mean([m.parameter_free_share for m in members]),
            )
        )
    return rows


def _front_indicators(
    members: Sequence[Member], errors: Sequence[float], space: SpaceRange, bins: int
) -> tuple[float, float]:
    sizes = [member.size_bytes for member in members]
    mask = pareto.nondominated(np.column_stack((errors, sizes)))
    kept = [size for size, on_front in zip(sizes, mask, strict=True) if on_front]
    return hypervolume(errors, sizes, space), coverage(kept, space, bins)


def operation_shares(record: GenerationRecord) -> dict[str, float]:
    """Operation → its share, in [0, 1], of all genes of a generation's members."""
    counts = Counter(gene.op for member in record.members for gene in member.genotype.genes)
    return {op: count / counts.total() for op, count in sorted(counts.items())}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
