"""Charts of a run. Each is drawn once: the page holds it inline, the Markdown report as a file.

A chart is one panel, small enough to be read on a phone. No global state of matplotlib is read or changed, and the
same records give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bnas.records.networks import ROLES, LinearBaseline, RetrainedNetwork, Role
from bnas.records.search import Front, GenerationRecord
from bnas.records.training import EpochRecord
from bnas.report.axes import (
    GREY,
    ROLE_COLOURS,
    ROLE_MARKERS,
    ROLE_NAMES,
    STAGE_COLOURS,
    STYLE,
    error_axis,
    front_line,
    linear_line,
    runs,
    size_axis,
    stage_bands,
    styled,
)
from bnas.report.cell_drawing import operation_colour, operation_label
from bnas.report.indicators import Estimate, GenerationIndicators, operation_shares
from bnas.report.results import STAGE_NAMES
from bnas.search import pareto
from bnas.space.operations import PARAMETER_FREE

FigureFormat = Literal["svg", "png"]

PANEL = (5.4, 3.6)
"""Width and height in inches; text is legible at a width of 330 pixels."""
WIDE, NARROW = (8.6, 4.9), (4.6, 4.4)
POINT = "point-"
"""Start of the gid of an artist that stands for one network; the page makes it a link."""
RUN_COLOURS = (ROLE_COLOURS["front"], ROLE_COLOURS["random"], ROLE_COLOURS["hand"], *STAGE_COLOURS.values())
RUN_MARKERS = ("o", "s", "^", "D", "v", "P")
"""Markers of compared runs, in order."""
MOST_FRAMES = 120
"""The most generations on the page's slider."""
_MOST_PANELS, _COLUMNS = 32, 8
_DOT: Mapping[str, Any] = {"markersize": 7.5, "markeredgewidth": 0, "zorder": 3}
_SMALL_DOT: Mapping[str, Any] = {"markersize": 3.5}


def render(figure: Figure, file_format: FigureFormat) -> bytes:
    """The figure as a file's bytes: equal for equal figures, without date or version."""
    metadata = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
    content = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(content, format=file_format, dpi=120, metadata=metadata)
    return content.getvalue()


def _panel(size: tuple[float, float] = PANEL) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _legend_below(figure: Figure, axes: Axes, columns: int = 2) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=columns)


def _whole_numbers(axes: Axes, name: str) -> None:
    axes.set_xlabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# Networks as points.


@styled
def front_chart(
    networks: Sequence[RetrainedNetwork], linear: LinearBaseline | None = None, size: tuple[float, float] = WIDE
) -> Figure:
    """Test error with its interval over size, and the staircases of the front and of the random networks."""
    figure, axes = _panel(size)
    lines: tuple[tuple[Role, str], ...] = (("random", "--"), ("front", "-"))
    for role, dashes in lines:
        points = [(n.size_bytes, n.test_error) for n in networks if n.role == role]
        if points:
            front_line(axes, points, color=ROLE_COLOURS[role], alpha=0.55, linestyle=dashes)
    _network_points(axes, networks, lambda network: network.size_bytes / 1024)
    if linear is not None:
        linear_line(axes, linear)
    size_axis(axes)
    error_axis(axes, (network.test_error for network in networks))
    _legend_below(figure, axes)
    return figure


def _network_points(
    axes: Axes, networks: Sequence[RetrainedNetwork], x: Callable[[RetrainedNetwork], float | None]
) -> None:
    """Test error with its 95 % interval over `x`; networks for which that is None are left out."""
    for role in reversed(ROLES):
        label: str | None = ROLE_NAMES[role]
        for network in networks:
            at = x(network)
            if network.role != role or at is None:
                continue
            limits = [100 * limit for limit in pareto.wilson_interval(network.wrong, network.test_images)]
            axes.plot((at, at), limits, color=to_rgba(ROLE_COLOURS[role], 0.3), linewidth=1.4, zorder=2)
            style = {**_DOT, "color": ROLE_COLOURS[role], "gid": POINT + network.name}
            axes.plot(at, 100 * network.test_error, ROLE_MARKERS[role], label=label, **style)
            label = None
    axes.set_ylabel("test error, %")


@styled
def latency_chart(networks: Sequence[RetrainedNetwork], seconds: Mapping[str, float]) -> Figure:
    """Test error over the time of one image in the packed runtime; networks that were not timed are left out."""
    figure, axes = _panel()
    micro = {name: 1e6 * value for name, value in seconds.items()}
    _network_points(axes, networks, lambda network: micro.get(network.name))
    axes.set_xlabel("one image, packed, µs")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    _legend_below(figure, axes)
    return figure


@styled
def estimate_chart(networks: Sequence[RetrainedNetwork], estimate: Estimate) -> Figure:
    """Test error over an estimate of it, by the supernet or the trial, of the front and random networks."""
    figure, axes = _panel()
    factor, label = {
        "supernet_error": (100, "validation error in the supernet, %"),
        "trial_estimate": (1, "estimate of the trial, nats"),
    }[estimate]

    def place(network: RetrainedNetwork) -> float | None:
        value = getattr(network, estimate)
        return None if value is None else factor * value

    _network_points(axes, [network for network in networks if network.role in ("front", "random")], place)
    axes.set_xlabel(label)
    axes.set_ylabel("test error after retraining, %")
    axes.set_ylim(bottom=0)
    _legend_below(figure, axes)
    return figure


@styled
def search_front_chart(front: Front, retrained: Sequence[RetrainedNetwork]) -> Figure:
    """The search's front in the supernet, and where retrained networks stand there."""
    figure, axes = _panel()
    colour = ROLE_COLOURS["front"]
    front_line(axes, [(m.size_bytes, m.error) for m in front.members], color=colour, alpha=0.5)
    found = [(member.size_bytes, member.error) for member in front.members]
    chosen = [(n.size_bytes, n.supernet_error) for n in retrained if n.supernet_error is not None]
    for label, points, face in (("front of the search", found, "white"), ("chosen to be retrained", chosen, colour)):
        sizes, errors = [size / 1024 for size, _ in points], [100 * error for _, error in points]
        axes.plot(sizes, errors, "o", color=colour, markerfacecolor=face, markersize=6, label=label)
    size_axis(axes)
    axes.set_ylabel("validation error in the supernet, %")
    axes.set_ylim(bottom=0)
    _legend_below(figure, axes)
    return figure


@styled
def fronts_chart(fronts: Sequence[Sequence[tuple[str, float, float]]], size: tuple[float, float]) -> Figure:
    """The fronts of several runs, each (network, size in KiB, test error); point i-name is network name of run i."""
    figure, axes = _panel(size)
    for i, points in enumerate(fronts):
        colour, marker = RUN_COLOURS[i % len(RUN_COLOURS)], RUN_MARKERS[i % len(RUN_MARKERS)]
        front_line(axes, [(1024 * kib, error) for _, kib, error in points], color=colour, alpha=0.55)
        for name, kib, error in points:
            axes.plot(kib, 100 * error, marker, gid=f"{POINT}{i}-{name}", color=colour, **_DOT)
    size_axis(axes)
    axes.set_ylabel("test error, %")
    error_axis(axes, (error for points in fronts for _, _, error in points))
    return figure


# Generations.


@styled
def indicator_chart(rows: Sequence[GenerationIndicators], name: str) -> Figure:
    """`hypervolume` or `size_coverage` of each generation's front, as scored then and with the final supernet."""
    figure, axes = _panel()
    x = range(1, len(rows) + 1)
    if name == "size_coverage":
        axes.plot(x, [r.population_coverage for r in rows], ":", color=ROLE_COLOURS["front"], label="whole population")
        axes.set_ylim(0, 1.02)
    then, now = ([getattr(row, field) for row in rows] for field in (name, f"rescored_{name}"))
    axes.plot(x, now, "o-", color="#222222", label="front, final supernet", **_SMALL_DOT)
    axes.plot(x, then, "o--", color=GREY, label="front, as scored then", **_SMALL_DOT)
    axes.set_ylabel(name.replace("_", " "))
    stage_bands(figure, axes, [row.stage for row in rows])
    _whole_numbers(axes, "generation")
    _legend_below(figure, axes)
    return figure


@styled
def operations_chart(generations: Sequence[GenerationRecord]) -> Figure:
    """Stacked shares of the operations in each generation, and a line over the parameter-free ones."""
    figure, axes = _panel()
    shares = [operation_shares(record) for record in generations]
    x, base = np.arange(1, len(shares) + 1), np.zeros(len(shares))
    seen = {op for row in shares for op in row}
    for op in sorted(seen, key=lambda op: (op not in PARAMETER_FREE, op)):
        values = np.array([100 * row.get(op, 0.0) for row in shares])
        axes.bar(x, values, bottom=base, width=0.86, color=operation_colour(op), label=operation_label(op))
        base = base + values
    free = [100 * sum(share for op, share in row.items() if op in PARAMETER_FREE) for row in shares]
    edges = np.append(x - 0.5, x[-1] + 0.5)
    for colour, width in (("white", 3.4), ("#111111", 1.6)):
        axes.step(edges, [*free, free[-1]], where="post", color=colour, linewidth=width)
    axes.set_ylim(0, 100)
    axes.grid(visible=False)
    axes.set_ylabel("share of all edges, %")
    stage_bands(figure, axes, [record.stage for record in generations])
    _whole_numbers(axes, "generation")
    _legend_below(figure, axes, 4)
    return figure


@dataclass(frozen=True)
class Frame:
    """A generation on the slider: its members' places in the drawing, as scored then and with the final supernet."""

    stage: str
    generation: int
    rule: str
    then: list[tuple[float, float]]
    now: list[tuple[float, float]]


def _members(record: GenerationRecord) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(size in KiB, error in per cent) of a generation's members as scored then, and with the final supernet."""
    then = [(m.size_bytes / 1024, 100 * m.error) for m in record.members]
    now = [(m.size_bytes / 1024, 100 * m.rescored_error) for m in record.members if m.rescored_error is not None]
    return then, now


@styled
def population_frames(generations: Sequence[GenerationRecord], front: Front) -> tuple[Figure, list[Frame]]:
    """Axes with the front of the search, and for each generation where its members belong in the SVG."""
    figure, axes = _panel(NARROW)
    front_line(axes, [(m.size_bytes, m.error) for m in front.members], color=GREY, alpha=0.9)
    everyone = np.array([place for record in generations for places in _members(record) for place in places])
    axes.set_xlim(0.93 * everyone[:, 0].min(), 1.07 * everyone[:, 0].max())
    axes.set_ylim(0, 1.04 * everyone[:, 1].max())
    size_axis(axes)
    axes.set_ylabel("validation error in the supernet, %")
    figure.set_dpi(72)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what was laid out is what is saved

    def in_drawing(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        drawn = axes.transData.transform(np.array(points).reshape(-1, 2))
        return [(round(x, 1), round(figure.bbox.height - y, 1)) for x, y in drawn.tolist()]

    count = min(len(generations), MOST_FRAMES)
    shown = [generations[i] for i in np.linspace(0, len(generations) - 1, count).round().astype(int)]
    return figure, [Frame(r.stage, r.generation, r.rule, *map(in_drawing, _members(r))) for r in shown]


@styled
def population_chart(generations: Sequence[GenerationRecord], front: Front) -> Figure:
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
    dot: dict[str, Any] = {"marker": "o", "linestyle": "", "color": "#555555", "markersize": 4}
    handles = [
        Line2D([], [], label="as scored in that generation", markerfacecolor="none", **dot),
        Line2D([], [], label="scored again with the final supernet", **dot),
        Line2D([], [], color=GREY, linewidth=1.3, label="front of the search"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def _population_panel(axes: Axes, record: GenerationRecord, front: Front) -> None:
    colour = STAGE_COLOURS[record.stage]
    front_line(axes, [(m.size_bytes, m.error) for m in front.members], color=GREY, alpha=0.8)
    hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 0.7, "alpha": 0.4}
    for points, style in zip(_members(record), (hollow, {"markeredgewidth": 0}), strict=True):
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


# Training.


@styled
def supernet_chart(training: Mapping[str, Sequence[EpochRecord]]) -> Figure:
    """Training loss and error of the supernet over the epochs of both stages, one after the other."""
    figure, panels = _loss_and_error(2.6, top=0.76, pad=24)
    stages = [stage for stage, curve in training.items() for _ in curve]
    for stage, first, last in runs(stages):
        _curve(panels, training[stage], range(first, last + 1), color=STAGE_COLOURS[stage], marker="o", **_SMALL_DOT)
    for axes in panels:
        stage_bands(figure, axes, stages)
    return figure


@styled
def retraining_chart(networks: Sequence[RetrainedNetwork], curves: Mapping[str, Sequence[EpochRecord]]) -> Figure:
    """Training loss and error of every retrained network, by role."""
    figure, panels = _loss_and_error(height=3.0, bottom=0.34)
    for role in reversed(ROLES):
        label: str | None = ROLE_NAMES[role]
        for network in networks:
            if network.role == role:
                style = {"color": ROLE_COLOURS[role], "linewidth": 1.2, "alpha": 0.75, "label": label}
                curve = curves.get(network.name, ())
                _curve(panels, curve, [record.epoch for record in curve], **style)
                label = None
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="lower center", ncols=2)
    return figure


@styled
def curve_chart(curve: Sequence[EpochRecord], colour: str) -> Figure:
    """Loss and error of one network over the epochs of its training."""
    figure, panels = _loss_and_error()
    _curve(panels, curve, [record.epoch for record in curve], color=colour, marker="o", **_SMALL_DOT)
    return figure


def _loss_and_error(
    height: float = 2.3, *, bottom: float = 0.21, top: float = 0.88, pad: float = 6
) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(PANEL[0], height))
    figure.subplots_adjust(left=0.085, right=0.99, bottom=bottom, top=top, wspace=0.2)  # a layout engine takes longer
    panels = figure.subplots(1, 2)
    for axes, title in zip(panels, ("training loss", "training error, %"), strict=True):
        axes.set_title(title, pad=pad)
        _whole_numbers(axes, "epoch")
    return figure, panels


def _curve(panels: Sequence[Axes], curve: Sequence[EpochRecord], x: Sequence[int], **style: Any) -> None:
    panels[0].plot(x, [record.loss for record in curve], **style)
    panels[1].plot(x, [100 * record.error for record in curve], **style)
    for axes in panels:
        axes.set_ylim(bottom=0)
