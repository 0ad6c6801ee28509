"""Values for the templates of the page: picks for the cards, and one view for each network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from bnas.data.image_array import ImageArray
from bnas.records.networks import RetrainedNetwork
from bnas.records.training import Predictions
from bnas.report.axes import ROLE_COLOURS, ROLE_NAMES
from bnas.report.cell_drawing import STACKED, STAIRCASE, cell_chart, cell_words
from bnas.report.charts import curve_chart
from bnas.report.formats import duration, kib, moment, percent
from bnas.report.network_tables import interval_text
from bnas.report.page.inline_svg import CELL, inline_svg
from bnas.report.page.mistakes import Confusion, image_uri, worst_confusions, worst_of_each
from bnas.report.plot_data import confusions
from bnas.report.results import Retrained, ShippedFile, best_by_test
from bnas.report.weight_bytes import Part
from bnas.search import pareto

MATRIX_CLASSES = 20
"""The most classes of a matrix; with more, a list of confusions is shown instead."""
LISTED, LISTED_OF_EACH = 12, 3
"""Confusions of that list that are shown at first, and how many of each class it holds."""
CONFUSIONS, CONFUSION_IMAGES = 4, 5
MOST_EXAMPLES = 10


@dataclass(frozen=True)
class Pick:
    """A network that has a card on the page, and the reasons for it."""

    reasons: tuple[str, ...]
    network: RetrainedNetwork


def picks(run: Retrained) -> list[Pick]:
    """The smallest, the knee, the best under a round size and the most accurate of the front, smallest first."""
    front = run.of_role("front")
    reasons: dict[str, list[str]] = {}

    def name(reason: str, network: RetrainedNetwork | None) -> None:
        if network is not None:
            reasons.setdefault(network.name, []).append(reason)

    name("smallest", front[0])
    name("knee", knee(front, run.error_of))
    if (limit := round_limit(front)) is not None:
        name(f"best under {limit:g} KiB", best_by_test([n for n in front if n.size_bytes < 1024 * limit], run.error_of))
    name("most accurate", run.best)
    return [Pick(tuple(reasons[network.name]), network) for network in front if network.name in reasons]


def round_limit(front: Sequence[RetrainedNetwork]) -> float | None:
    """The largest of 1, 2, 5, 10, 20, 50, … KiB that only a part of the networks stays under; None if there is none."""
    sizes = [network.size_bytes / 1024 for network in front]
    limits = [step * 10.0**power for power in range(-3, 9) for step in (1, 2, 5)]
    return max((limit for limit in limits if min(sizes) < limit <= max(sizes)), default=None)


def knee(front: Sequence[RetrainedNetwork], error: Callable[[RetrainedNetwork], float]) -> RetrainedNetwork | None:
    """The non-dominated network farthest below the line between the ends, over (log size, test error) [ours].

    None with fewer than three such networks, or if none is below the line.
    """
    kept = pareto.nondominated([(network.size_bytes, error(network)) for network in front])
    chosen = sorted((n for n, on in zip(front, kept, strict=True) if on), key=lambda n: n.size_bytes)
    if len(chosen) < 3:
        return None
    first, last = chosen[0], chosen[-1]
    width, height = math.log(last.size_bytes / first.size_bytes), error(first) - error(last)

    def depth(network: RetrainedNetwork) -> float:
        along = math.log(network.size_bytes / first.size_bytes) / width
        return (error(first) - error(network)) / height - along

    best = max(chosen, key=depth)
    return best if depth(best) > 0 else None


@dataclass(frozen=True)
class Mistake:
    """A confusion in words and pictures."""

    actual: str
    predicted: str
    count: int
    pictures: tuple[tuple[str, int], ...]
    """(address, number of the image in the test split)."""


@dataclass(frozen=True)
class MatrixRow:
    """Images of one class by the class that the network named: a count for each."""

    number: int
    name: str
    counts: tuple[int, ...]

    def share(self, count: int) -> float:
        """A count's share of the row, for its shade."""
        return count / max(sum(self.counts), 1)


class CellView(NamedTuple):
    """Drawings of one cell, for wide and for narrow windows."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class NetworkView:
    """All values that the page shows of a network."""

    network: RetrainedNetwork
    role_name: str
    facts: tuple[tuple[str, str], ...]
    cells: tuple[CellView, ...]
    curve: Markup | None
    matrix: tuple[MatrixRow, ...]
    confused: tuple[tuple[int, int, int], ...]
    """(class, class it was taken for, images), the most frequent first; empty where there is a matrix."""
    mistakes: tuple[Mistake, ...]
    parts: tuple[Part, ...]
    packed: ShippedFile | None
    training_time: str

    @property
    def summary(self) -> str:
        """One line that a screen reader reads for the network's point."""
        n = self.network
        return f"{n.name}, {self.role_name}: {kib(n.size_bytes)} KiB, test error {percent(n.test_error)} %"


def network_view(run: Retrained, network: RetrainedNetwork, images: ImageArray | None) -> NetworkView:
    """The view of a network of the run; `images` `[N, H, W, C]` are those of the test split."""
    packed = run.packed.get(network.name)
    answers, curve = run.predictions[network.name], run.curves.get(network.name, ())
    colour = ROLE_COLOURS[network.role]
    words = f"Training loss and training error of {network.name} over {len(curve)} epochs."
    return NetworkView(
        network=network,
        role_name=ROLE_NAMES[network.role],
        facts=tuple(_facts(run, network, packed)),
        cells=tuple(_cells(network)),
        curve=inline_svg(curve_chart(curve, colour), f"curve-{network.name}", words) if curve else None,
        matrix=_matrix(answers, run.dataset.classes),
        confused=tuple(worst_of_each(answers, LISTED_OF_EACH) if len(run.dataset.classes) > MATRIX_CLASSES else ()),
        mistakes=tuple(_mistakes(answers, run.dataset.classes, images)),
        parts=run.parts.get(network.name, ()),
        packed=packed,
        training_time=duration(run.network_seconds.get(network.name)),
    )


def _facts(run: Retrained, network: RetrainedNetwork, packed: ShippedFile | None) -> Iterator[tuple[str, str]]:
    yield "size", f"{kib(network.size_bytes)} KiB"
    yield "test error", f"{percent(network.test_error)} %"
    yield "95 % interval", f"{interval_text(network)} %"
    if run.shows_balanced:
        yield "balanced error", f"{percent(run.balanced_error(network))} %"
    if network.ram_bytes is not None:
        yield "RAM", f"{kib(network.ram_bytes)} KiB"
    yield "operations", f"{network.ops / 1e6:.3f} M"
    yield "parameters", f"{network.params:,}"
    if packed is not None:
        yield "file", f"{kib(packed.file.file_bytes)} KiB"
        if packed.latency is not None:
            yield "one image", moment(packed.latency.packed_1)
            yield "in PyTorch", moment(packed.latency.torch_1)


def _cells(network: RetrainedNetwork) -> Iterator[CellView]:
    words = cell_words(network.genotype).removeprefix("Normal: ").split(" Reduction: ")
    cells = (("normal", network.genotype.normal), ("reduction", network.genotype.reduction))
    for (kind, nodes), text in zip(cells, words, strict=True):
        wide, narrow = (
            inline_svg(
                cell_chart(nodes, f"{kind} cell", layout),
                f"{kind}-{name}-{network.name}",
                f"{kind.capitalize()} cell of {network.name}: {text}",
                CELL,
            )
            for name, layout in (("wide", STAIRCASE), ("narrow", STACKED))
        )
        yield CellView(wide, narrow)


def _matrix(answers: Predictions, classes: Sequence[str]) -> tuple[MatrixRow, ...]:
    if len(classes) > MATRIX_CLASSES:
        return ()
    counts = {(actual, predicted): count for actual, predicted, count in confusions(answers)}
    numbers = range(len(classes))
    return tuple(MatrixRow(i, classes[i], tuple(counts.get((i, j), 0) for j in numbers)) for i in numbers)


def _mistakes(answers: Predictions, classes: Sequence[str], images: ImageArray | None) -> Iterator[Mistake]:
    def pictures(confusion: Confusion) -> tuple[tuple[str, int], ...]:
        shown = () if images is None else confusion.images[:CONFUSION_IMAGES]
        return tuple((image_uri(images[i]), i) for i in shown if images is not None)

    for confusion in worst_confusions(answers, CONFUSIONS):
        actual, predicted = classes[confusion.actual], classes[confusion.predicted]
        yield Mistake(actual, predicted, len(confusion.images), pictures(confusion))


def class_examples(run: Retrained, images: ImageArray | None) -> list[tuple[str, str]]:
    """(class, address of the first test image of it) of the first classes."""
    if images is None:
        return []
    labels = run.predictions[run.networks[0].name].labels
    examples = []
    for number, name in enumerate(run.dataset.classes[:MOST_EXAMPLES]):
        where = np.flatnonzero(labels == number)
        if len(where):
            examples.append((name, image_uri(images[where[0]])))
    return examples
