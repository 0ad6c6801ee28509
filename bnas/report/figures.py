"""Records of a run → pictures. Each function returns a `Figure`; `render` turns it into the bytes of a file.

No global state of matplotlib is read or changed, and the same records give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bnas.records.networks import LinearBaseline, RetrainedNetwork, Role
from bnas.records.search import Front, GenerationRecord
from bnas.records.training import EpochRecord
from bnas.report.analysis import STAGE_NAMES, GenerationIndicators
from bnas.report.axes import (
    GREY,
    ROLE_COLOURS,
    ROLE_MARKERS,
    ROLE_NAMES,
    STAGE_COLOURS,
    STYLE,
    front_line,
    indicator_lines,
    linear_line,
    operation_bars,
    runs,
    size_axis,
    styled,
    supernet_line,
)
from bnas.search import pareto

FigureFormat = Literal["svg", "png"]

_MOST_PANELS, _COLUMNS = 32, 8


def render(figure: Figure, file_format: FigureFormat) -> bytes:
    """The figure as a file's bytes: equal for equal figures, without date or version."""
    metadata = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
    content = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(content, format=file_format, dpi=120, metadata=metadata)
    return content.getvalue()


@styled
def front_figure(front: Front, networks: Sequence[RetrainedNetwork], linear: LinearBaseline | None = None) -> Figure:
    """Left the search's front in the supernet, right the retrained networks with their baselines."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    left.set_title("in the supernet: validation error")
    colour, chosen = ROLE_COLOURS["front"], {n.key for n in networks if n.role == "front"}
    front_line(left, [(m.size_bytes, m.error) for m in front.members], color=colour, alpha=0.5)
    for label, members, face in (
        ("handed over by the search", [m for m in front.members if m.key not in chosen], "white"),
        ("chosen to be retrained", [m for m in front.members if m.key in chosen], colour),
    ):
        sizes, errors = [m.size_bytes / 1024 for m in members], [100 * m.error for m in members]
        left.plot(sizes, errors, "o", color=colour, markerfacecolor=face, markersize=6, label=label)
    right.set_title("retrained from scratch: test error, 95 % interval")
    _tested(right, networks, linear)
    _error_over_size(left)
    _error_over_size(right, crowded=linear is not None)
    return figure


@styled
def transfer_figure(networks: Sequence[RetrainedNetwork], linear: LinearBaseline | None) -> Figure:
    """The retrained networks with their baselines."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title("retrained from scratch: test error, 95 % interval")
    _tested(axes, networks, linear)
    _error_over_size(axes, crowded=linear is not None)
    return figure


def _tested(axes: Axes, networks: Sequence[RetrainedNetwork], linear: LinearBaseline | None) -> None:
    for role in ROLE_NAMES:
        _role_points(axes, [network for network in networks if network.role == role], role)
    if linear is not None:
        linear_line(axes, linear)


def _error_over_size(axes: Axes, *, crowded: bool = False) -> None:
    size_axis(axes)
    axes.set_ylabel("error, %")
    axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
    axes.legend(loc="best" if crowded else "upper right")


def _role_points(axes: Axes, networks: Sequence[RetrainedNetwork], role: Role) -> None:
    if not networks:
        return
    colour = ROLE_COLOURS[role]
    sizes = [network.size_bytes / 1024 for network in networks]
    errors = np.array([100 * network.test_error for network in networks])
    limits = 100 * np.array([pareto.wilson_interval(n.wrong, n.test_images) for n in networks]).T  # [2, n]
    if role in ("front", "random"):
        points = [(network.size_bytes, network.test_error) for network in networks]
        front_line(axes, points, color=colour, alpha=0.5, linestyle="-" if role == "front" else "--")
    axes.errorbar(
        sizes,
        errors,
        yerr=np.abs(limits - errors),
        fmt=ROLE_MARKERS[role],
        color=colour,
        ecolor=to_rgba(colour, 0.35),
        elinewidth=1.2,
        markersize=6,
        label=ROLE_NAMES[role],
    )


@styled
def latency_figure(networks: Sequence[RetrainedNetwork], milliseconds: Mapping[str, float]) -> Figure:
    """Test error over the time of one image in the packed runtime; networks that were not timed are left out."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for role, label in ROLE_NAMES.items():
        points = [
            (milliseconds[n.name], 100 * n.test_error) for n in networks if n.role == role and n.name in milliseconds
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), ROLE_MARKERS[role], color=ROLE_COLOURS[role], markersize=6, label=label
            )
    axes.set_xlabel("one image, packed, ms")
    axes.set_ylabel("test error, %")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


@styled
def population_figure(generations: Sequence[GenerationRecord], front: Front) -> Figure:
    """A small picture per generation: the population as scored then and, filled, with the final supernet.

    Each stage starts a row. Of very many generations an even selection is shown.
    """
    shown = _shown(generations)
    columns = min(_COLUMNS, max(last - first + 1 for _, first, last in runs([r.stage for r in shown])))
    places = _grid([record.stage for record in shown], columns)
    rows = places[-1][0] + 1
    figure = Figure(figsize=(max(9.0, 0.6 + 1.45 * columns), 1.0 + 1.35 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for (row, column), record in zip(places, shown, strict=True):
        _population_panel(panels[row, column], record, front)
        panels[row, column].tick_params(labelbottom=(row + 1, column) not in places)
    for place in set(product(range(rows), range(columns))) - set(places):
        panels[place].set_axis_off()
    figure.supxlabel("size, KiB", fontsize=10)
    figure.supylabel("validation error in the supernet, %", fontsize=10)
    handles = [
        _point("as scored in that generation", "#555555", "none"),
        _point("scored again with the final supernet", "#555555", "#555555"),
        Line2D([], [], color=GREY, linewidth=1.3, label="front handed over"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def _population_panel(axes: Axes, record: GenerationRecord, front: Front) -> None:
    colour = STAGE_COLOURS[record.stage]
    front_line(axes, [(m.size_bytes, m.error) for m in front.members], color=GREY, alpha=0.8)
    then = [(m.size_bytes / 1024, 100 * m.error) for m in record.members]
    rescored = [(m.size_bytes, m.rescored_error) for m in record.members]
    now = [(size / 1024, 100 * error) for size, error in rescored if error is not None]
    for points, style in (
        (then, {"markerfacecolor": "none", "markeredgewidth": 0.7, "alpha": 0.4}),
        (now, {"markeredgewidth": 0}),
    ):
        x, y = np.array(points).reshape(-1, 2).T
        axes.plot(x, y, "o", color=colour, markersize=2.8, **style)
    axes.set_title(f"{STAGE_NAMES[record.stage]}: {record.generation}", fontsize=8.5, color=colour)
    size_axis(axes, sparse=True)
    axes.tick_params(labelsize=7.5)
    axes.set_xlabel("")


def _grid(stages: Sequence[str], columns: int) -> list[tuple[int, int]]:
    """(row, column) of each panel; every stretch of equal stages starts a row."""
    places: list[tuple[int, int]] = []
    for _, first, last in runs(stages):
        row = places[-1][0] + 1 if places else 0
        places += [(row + i // columns, i % columns) for i in range(last - first + 1)]
    return places


def _shown(generations: Sequence[GenerationRecord]) -> Sequence[GenerationRecord]:
    """All generations, or `_MOST_PANELS` evenly spread ones, the last of each stage among them."""
    if len(generations) <= _MOST_PANELS:
        return generations
    last = {record.stage: i for i, record in enumerate(generations)}
    spread = np.linspace(0, len(generations) - 1, _MOST_PANELS - len(last)).round().astype(int).tolist()
    return [generations[i] for i in sorted({*spread, *last.values()})]


def _point(label: str, colour: str, face: str) -> Line2D:
    return Line2D([], [], marker="o", linestyle="", color=colour, markerfacecolor=face, markersize=4, label=label)


@styled
def indicators_figure(rows: Sequence[GenerationIndicators]) -> Figure:
    """Hypervolume and size coverage of each generation's front, as scored then and scored again."""
    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    for axes, title, name in zip(
        figure.subplots(1, 2),
        ("hypervolume of the front", "size coverage"),
        ("hypervolume", "size_coverage"),
        strict=True,
    ):
        axes.set_title(title, pad=24)
        indicator_lines(figure, axes, rows, name)
        axes.legend(loc="best")
    return figure


@styled
def operations_figure(generations: Sequence[GenerationRecord]) -> Figure:
    """Share of each operation in each generation's population; the parameter-free ones at the bottom."""
    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    axes = figure.subplots()
    operation_bars(figure, axes, generations)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center")
    return figure


@styled
def supernet_figure(training: Mapping[str, Sequence[EpochRecord]]) -> Figure:
    """Loss and training error of the supernet over the epochs of both stages."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, title, value in (
        (left, "training loss", lambda epoch: epoch.loss),
        (right, "training error, %", lambda epoch: 100 * epoch.error),
    ):
        axes.set_title(title, pad=24)
        supernet_line(figure, axes, training, value)
    return figure


@styled
def retraining_figure(networks: Sequence[RetrainedNetwork], curves: Mapping[str, Sequence[EpochRecord]]) -> Figure:
    """Training loss and error of every retrained network, by role."""
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    named: set[Role] = set()
    for network in networks:
        curve = curves.get(network.name, ())
        x = [record.epoch for record in curve]
        style = {"color": ROLE_COLOURS[network.role], "linewidth": 1.2, "alpha": 0.75}
        label = ROLE_NAMES[network.role] if network.role not in named else None
        left.plot(x, [record.loss for record in curve], label=label, **style)
        right.plot(x, [100 * record.error for record in curve], **style)
        named.add(network.role)
    left.set_title("training loss")
    right.set_title("training error (augmented images), %")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
    left.legend(loc="upper right")
    return figure


@styled
def fidelity_figure(networks: Sequence[RetrainedNetwork]) -> Figure:
    """Test error over supernet error of the front and random networks: does the supernet rank them right?"""
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axes = figure.subplots()
    for role in ("front", "random"):
        scored = [n for n in networks if n.role == role and n.supernet_error is not None]
        errors = np.array([100 * n.test_error for n in scored])
        limits = 100 * np.array([pareto.wilson_interval(n.wrong, n.test_images) for n in scored]).reshape(-1, 2).T
        x = [100 * n.supernet_error for n in scored if n.supernet_error is not None]
        axes.errorbar(
            x,
            errors,
            yerr=np.abs(limits - errors),
            fmt=ROLE_MARKERS[role],
            color=ROLE_COLOURS[role],
            ecolor=to_rgba(ROLE_COLOURS[role], 0.35),
            markersize=6,
            label=ROLE_NAMES[role],
        )
    axes.set_xlabel("validation error in the supernet, %")
    axes.set_ylabel("test error after retraining, %")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left")
    return figure
