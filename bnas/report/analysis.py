"""Indicators of a finished run's fronts, and comparisons of its networks on the test split.

Everything is computed from `Run`, the records of the stages. Comparisons of retrained networks are paired, image by
image, because all were tested on the same split [ours].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from bnas.data.split_rows import balancing, uneven
from bnas.records.dataset import DatasetDescription
from bnas.records.export import ExportedNetwork, NetworkLatency
from bnas.records.networks import ROLES, LinearBaseline, RetrainedNetwork, Role
from bnas.records.search import ErrorKind, Front, GenerationRecord, Member, Resource, SearchSummary, SpaceRange
from bnas.records.training import EpochRecord, Predictions
from bnas.records.trial import Origin, TrialNetwork
from bnas.report.weight_bytes import Part
from bnas.search import pareto
from bnas.storage.terminal import printable

Estimate = Literal["supernet_error", "trial_estimate"]
"""An estimate of a network's error from before it was trained: the field of its record."""

RESAMPLES = 1000
"""Bootstrap samples of the test split."""

STAGE_NAMES = {"stage1": "stage 1", "stage2": "stage 2", "search": "search"}
"""Stages that evolve a population → their names in texts."""

ROUNDING = 6
"""Digits after the point in metrics and plot data."""


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
    def pairs(self) -> tuple[tuple[RetrainedNetwork, RetrainedNetwork], ...]:
        """(front network, random network of its size), smallest first; one random network each."""
        matches: dict[str | None, RetrainedNetwork] = {}
        for network in self.of_role("random"):
            matches.setdefault(network.matched, network)
        return tuple((n, matches[n.name]) for n in self.of_role("front") if n.name in matches)

    @property
    def matched(self) -> tuple[tuple[RetrainedNetwork, tuple[RetrainedNetwork, ...]], ...]:
        """(front network, all random networks of its size), smallest first."""
        random = self.of_role("random")
        groups = ((n, tuple(other for other in random if other.matched == n.name)) for n in self.of_role("front"))
        return tuple((network, others) for network, others in groups if others)


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


def network_hypervolume(run: Retrained, networks: Sequence[RetrainedNetwork]) -> float:
    """Hypervolume of the networks' test errors and sizes."""
    errors = [run.error_of(network) for network in networks]
    return _hypervolume(errors, [network.size_bytes for network in networks], run.space)


def family_hypervolume(run: Retrained, networks: Sequence[RetrainedNetwork]) -> float:
    """The same of networks outside the space: smaller ones count as its smallest, larger ones not at all."""
    space = run.space
    within = [network for network in networks if network.size_bytes <= space.largest_bytes]
    sizes = [max(network.size_bytes, space.smallest_bytes) for network in within]
    return _hypervolume([run.error_of(network) for network in within], sizes, space)


def _hypervolume(errors: Sequence[float] | NDArray[np.float64], sizes: Sequence[float], space: SpaceRange) -> float:
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
    place = np.searchsorted(edges[1:-1], [n.size_bytes for n in scored])

    def tau(networks: Sequence[TrialNetwork]) -> float:
        return pareto.kendall_tau([n.supernet_error or 0.0 for n in networks], [n.loss for n in networks])

    groups = [[n for n, at in zip(scored, place, strict=True) if at == each] for each in range(run.trial_bins)]
    weighted = [(len(group) * (len(group) - 1), tau(group)) for group in groups if len(group) > 1]
    weighted = [(pairs, value) for pairs, value in weighted if not math.isnan(value)]
    pairs = sum(weight for weight, _ in weighted)
    return tau(scored), sum(weight * value for weight, value in weighted) / pairs if pairs else math.nan


# Front and random networks on this test split.


@dataclass(frozen=True)
class PairedTest:
    """Two networks tested on the same images: how often only one of them was wrong; McNemar's exact test."""

    first: str
    second: str
    only_first_wrong: int
    only_second_wrong: int
    images: int

    @property
    def difference(self) -> float:
        """Test error of the first minus that of the second, in [−1, 1]."""
        return (self.only_first_wrong - self.only_second_wrong) / self.images

    @property
    def p_value(self) -> float:
        """Two-sided probability of so uneven a split of the discordant images, errors being equal."""
        discordant = self.only_first_wrong + self.only_second_wrong
        if not discordant:
            return 1.0
        return float(scipy.stats.binomtest(self.only_first_wrong, discordant, 0.5).pvalue)


def paired_test(run: Retrained, first: str, second: str) -> PairedTest:
    """The comparison of two networks of the run, by name."""
    one, other = run.predictions[first].correct, run.predictions[second].correct
    return PairedTest(first, second, int((~one & other).sum()), int((one & ~other).sum()), len(one))


@dataclass(frozen=True)
class Interval:
    """A value, and its bootstrap median with the limits between which 95 % of the resampled values lie."""

    observed: float
    low: float
    median: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the limits."""
        return self.low > 0 or self.high < 0


def hypervolume_difference(run: Retrained, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """Hypervolume of the paired front networks minus that of their random partners; None without pairs.

    Equal counts on both sides. Test images are resampled with replacement, the same for all networks, so the
    interval holds the test split's uncertainty and no other: not that of training or searching again.
    """
    if not run.pairs:
        return None
    sides = tuple(zip(*run.pairs, strict=True))
    networks, count = [network for side in sides for network in side], len(run.pairs)
    sizes = [network.size_bytes for network in networks]

    def difference(errors: Errors) -> float:
        front, other = (
            _hypervolume(errors[part], sizes[part], run.space) for part in (slice(count), slice(count, None))
        )
        return front - other

    return _resampled(run, networks, difference, seed, resamples)


def error_difference(run: Retrained, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """Mean over the front of a network's test error minus the mean of its random networks'; None without such.

    Resampled as `hypervolume_difference`, and holding the same uncertainty.
    """
    groups = run.matched
    if not groups:
        return None
    networks = [network for first, others in groups for network in (first, *others)]
    starts = np.cumsum([0] + [1 + len(others) for _, others in groups])

    def difference(errors: Errors) -> float:
        each = [errors[start] - errors[start + 1 : end].mean() for start, end in pairwise(starts.tolist())]
        return float(np.mean(each))

    return _resampled(run, networks, difference, seed, resamples)


def relative_improvement(run: Retrained) -> float:
    """`100 · (accuracy − random accuracy) / random accuracy`, both means as in `error_difference`; nan without random.

    The measure by which searches are compared in the literature (Yang et al. 2020, *NAS evaluation is frustratingly
    hard*).
    """
    if not run.matched:
        return math.nan
    front = 1 - _mean([run.error_of(first) for first, _ in run.matched])
    other = 1 - _mean([_mean([run.error_of(n) for n in others]) for _, others in run.matched])
    return 100 * (front - other) / other


Errors = NDArray[np.float64]
"""A test error for each network, on a sample of the test split."""


def _resampled(
    run: Retrained,
    networks: Sequence[RetrainedNetwork],
    statistic: Callable[[Errors], float],
    seed: int,
    resamples: int,
) -> Interval:
    """A statistic of the networks' errors, and its interval over resampled test images."""
    wrong = np.stack([~run.predictions[network.name].correct for network in networks])  # [networks, images]
    weights = balancing(run.labels) if run.error == "balanced" else np.ones(len(run.labels))

    def value(sample: NDArray[np.int64]) -> float:
        return statistic(np.average(wrong[:, sample], axis=1, weights=weights[sample]))

    rng, every = np.random.default_rng(seed), np.arange(wrong.shape[1])
    values = [value(rng.choice(every, len(every))) for _ in range(resamples)]
    low, median, high = np.quantile(values, (0.025, 0.5, 0.975))
    return Interval(value(every), float(low), float(median), float(high))


# Generations.


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
    return _hypervolume(errors, sizes, space), coverage(kept, space, bins)


def operation_shares(record: GenerationRecord) -> dict[str, float]:
    """Operation → its share, in [0, 1], of all genes of a generation's members."""
    counts = Counter(gene.op for member in record.members for gene in member.genotype.genes)
    return {op: count / counts.total() for op, count in sorted(counts.items())}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


# Numbers for `dvc exp show` and `dvc plots`.


def metrics(run: Retrained) -> dict[str, float | None]:
    """The numbers by which searches are compared, under names that no other stage uses; None where one does not exist.

    `hv_others` is the larger of hand-designed and published networks' hypervolumes, `gain` how many points
    fewer the front errs than random networks of its sizes. `tau` (Kendall's, of errors in the
    supernet and test errors) is left out where there was no search, balanced errors where `Retrained.shows_balanced`
    says so.
    """
    front, partners = run.of_role("front"), [partner for _, partner in run.pairs]
    families = [run.of_role("hand"), run.of_role("published")]
    others = [family_hypervolume(run, family) for family in families if family]
    difference = error_difference(run, resamples=1)
    values = {
        "hypervolume": network_hypervolume(run, front),
        "hypervolume_random": network_hypervolume(run, partners) if partners else math.nan,
        "hv_others": max(others, default=math.nan),
        "gain": -100 * difference.observed if difference else math.nan,
        "best_error": min(network.test_error for network in front),
        **(_balanced_metrics(run) if run.shows_balanced else {}),
        "smallest_kib": min(network.size_bytes for network in front) / 1024,
        **({"tau": fidelity(run)} if isinstance(run, Run) else {}),
    }
    return {name: None if math.isnan(value) else round(value, ROUNDING) for name, value in values.items()}


def _balanced_metrics(run: Retrained) -> dict[str, float]:
    balanced = min(run.balanced_error(network) for network in run.of_role("front"))
    return {"best_balanced_error": balanced, "majority_error": pareto.guessing_error(run.labels)}


def pareto_rows(run: Retrained) -> list[dict[str, str | float]]:
    """Every retrained network as a point: network, role, size_kib, test_error, balanced_error where that is shown."""
    return [
        {
            "network": network.name,
            "role": network.role,
            "size_kib": round(network.size_bytes / 1024, ROUNDING),
            "test_error": round(network.test_error, ROUNDING),
            **({"balanced_error": round(run.balanced_error(network), ROUNDING)} if run.shows_balanced else {}),
        }
        for network in run.of_role(*ROLES)
    ]


def loss_rows(run: Retrained) -> list[dict[str, str | float | int | None]]:
    """Every epoch of every training: network (of the supernet its stage), kind, size_kib, epoch, loss, error."""
    supernet = run.training if isinstance(run, Run) else {}
    curves: list[tuple[str, str, float | None, tuple[EpochRecord, ...]]] = [
        (STAGE_NAMES[stage], "supernet", None, curve) for stage, curve in supernet.items()
    ]
    for network in run.of_role(*ROLES):
        size_kib = round(network.size_bytes / 1024, ROUNDING)
        curves.append((network.name, network.role, size_kib, run.curves.get(network.name, ())))
    return [
        {
            "network": name,
            "kind": kind,
            "size_kib": size_kib,
            "epoch": record.epoch,
            "loss": round(record.loss, ROUNDING),
            "error": round(record.error, ROUNDING),
        }
        for name, kind, size_kib, curve in curves
        for record in curve
    ]


def confusion_rows(run: Retrained) -> list[dict[str, str | int]]:
    """Images of each class by the class that the front's most accurate network named; pairs without images have no row.

    A row has the names of both classes and their numbers, by which they are ordered.
    """
    network, classes = run.best, list(map(printable, run.dataset.classes))
    return [
        {
            "network": network.name,
            "actual": classes[actual],
            "actual_number": actual,
            "predicted": classes[predicted],
            "predicted_number": predicted,
            "images": count,
        }
        for actual, predicted, count in confusions(run.predictions[network.name])
    ]


def confusions(answers: Predictions) -> list[tuple[int, int, int]]:
    """(class, class that it was taken for, number of such images) wherever there are any, in order."""
    pairs, counts = np.unique(np.column_stack((answers.labels, answers.predictions)), axis=0, return_counts=True)
    return [(actual, predicted, count) for actual, predicted, count in np.column_stack((pairs, counts)).tolist()]
