"""The page's charts: one panel each, small enough to be read on a phone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bnas.records.networks import ROLES, LinearBaseline, RetrainedNetwork, Role
from bnas.records.search import GenerationRecord
from bnas.records.training import EpochRecord
from bnas.report.analysis import GenerationIndicators, Retrained, Run
from bnas.report.axes import (
    GREY,
    ROLE_COLOURS,
    ROLE_MARKERS,
    STAGE_COLOURS,
    front_line,
    indicator_lines,
    linear_line,
    operation_bars,
    size_axis,
    styled,
    supernet_line,
)
from bnas.report.cell_drawing import Layout, draw_cell
from bnas.report.page.inline import POINT
from bnas.search import pareto
from bnas.space.genotype import Node

PANEL = (5.4, 3.3)
"""Inches: at 330 pixels' width its letters are still legible."""
WIDE, NARROW = (8.6, 4.9), (4.6, 4.4)
RUN_COLOURS = (ROLE_COLOURS["front"], ROLE_COLOURS["random"], ROLE_COLOURS["hand"], *STAGE_COLOURS.values())
RUN_MARKERS = ("o", "s", "^", "D", "v", "P")
"""Of runs that stand side by side, in order."""
MOST_FRAMES = 120
"""Generations that the slider stops at."""


def _panel(size: tuple[float, float] = PANEL) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    return figure, axes


@styled
def front_chart(
    networks: Sequence[RetrainedNetwork], size: tuple[float, float], linear: LinearBaseline | None = None
) -> Figure:
    """Test error with its interval over size; every network is an artist of its own."""
    figure, axes = _panel(size)
    lines: tuple[tuple[Role, str], ...] = (("random", "--"), ("front", "-"))
    for role, dashes in lines:
        points = [(n.size_bytes, n.test_error) for n in networks if n.role == role]
        if points:
            front_line(axes, points, color=ROLE_COLOURS[role], alpha=0.55, linestyle=dashes)
    for network in sorted(networks, key=lambda n: ROLES.index(n.role), reverse=True):
        colour, x = ROLE_COLOURS[network.role], network.size_bytes / 1024
        low, high = pareto.wilson_interval(network.wrong, network.test_images)
        axes.plot((x, x), (100 * low, 100 * high), color=to_rgba(colour, 0.3), linewidth=1.4, zorder=2)
        style: dict[str, Any] = {"color": colour, "markersize": 7.5, "markeredgewidth": 0, "zorder": 3}
        axes.plot(x, 100 * network.test_error, ROLE_MARKERS[network.role], gid=POINT + network.name, **style)
    if linear is not None:
        linear_line(axes, linear)
    size_axis(axes)
    axes.set_ylabel("test error, %")
    if all(network.wrong for network in networks):
        _error_axis(axes)
    else:  # no logarithm of an error of 0
        axes.set_ylim(bottom=0)
    return figure


def _error_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


@styled
def fronts_chart(fronts: Sequence[Sequence[tuple[str, float, float]]], size: tuple[float, float]) -> Figure:
    """The fronts of several runs, each (network, size in KiB, test error); point i-name is network name of run i."""
    figure, axes = _panel(size)
    for i, points in enumerate(fronts):
        colour, marker = RUN_COLOURS[i % len(RUN_COLOURS)], RUN_MARKERS[i % len(RUN_MARKERS)]
        front_line(axes, [(1024 * kib, error) for _, kib, error in points], color=colour, alpha=0.55)
        style: dict[str, Any] = {"color": colour, "markersize": 7.5, "markeredgewidth": 0, "zorder": 3}
        for name, kib, error in points:
            axes.plot(kib, 100 * error, marker, gid=f"{POINT}{i}-{name}", **style)
    size_axis(axes)
    axes.set_ylabel("test error, %")
    if all(error for points in fronts for _, _, error in points):
        _error_axis(axes)
    return figure


@dataclass(frozen=True)
class Frame:
    """A generation on the slider: its members' places in the drawing, as scored then and with the final supernet."""

    stage: str
    generation: int
    rule: str
    then: list[tuple[float, float]]
    now: list[tuple[float, float]]


@styled
def population_chart(run: Run) -> tuple[Figure, list[Frame]]:
    """Axes with the front handed over, and for each generation where its members belong in the SVG."""
    figure, axes = _panel(NARROW)
    front_line(axes, [(m.size_bytes, m.error) for m in run.front.members], color=GREY, alpha=0.9)
    members = [member for record in run.generations for member in record.members]
    sizes = [member.size_bytes / 1024 for member in members]
    errors = [100 * error for m in members for error in (m.error, m.rescored_error) if error is not None]
    axes.set_xlim(0.93 * min(sizes), 1.07 * max(sizes))
    axes.set_ylim(0, 1.04 * max(errors))
    size_axis(axes)
    axes.set_ylabel("validation error in the supernet, %")
    figure.set_dpi(72)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what was laid out is what is saved

    def place(pairs: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
        known = [(size / 1024, 100 * error) for size, error in pairs if error is not None]
        points = axes.transData.transform(np.array(known).reshape(-1, 2))
        return [(round(x, 1), round(figure.bbox.height - y, 1)) for x, y in points.tolist()]

    frames = [
        Frame(
            record.stage,
            record.generation,
            record.rule,
            place([(m.size_bytes, m.error) for m in record.members]),
            place([(m.size_bytes, m.rescored_error) for m in record.members]),
        )
        for record in _spread(run.generations)
    ]
    return figure, frames


def _spread(generations: Sequence[GenerationRecord]) -> list[GenerationRecord]:
    if len(generations) <= MOST_FRAMES:
        return list(generations)
    return [generations[i] for i in np.linspace(0, len(generations) - 1, MOST_FRAMES).round().astype(int)]


@styled
def indicator_chart(rows: Sequence[GenerationIndicators], name: str) -> Figure:
    """`hypervolume` or `size_coverage` over the generations."""
    figure, axes = _panel()
    indicator_lines(figure, axes, rows, name)
    axes.legend(loc="best")
    return figure


@styled
def operations_chart(generations: Sequence[GenerationRecord]) -> Figure:
    """Shares of the operations over the generations; what the colours mean is for the page to say."""
    figure, axes = _panel()
    operation_bars(figure, axes, generations)
    return figure


@styled
def supernet_chart(run: Run) -> Figure:
    """Training error of the supernet over both its stages."""
    figure, axes = _panel()
    supernet_line(figure, axes, run.training, lambda epoch: 100 * epoch.error)
    axes.set_ylabel("training error, %")
    return figure


@styled
def retraining_chart(run: Retrained) -> Figure:
    """Training error of every retrained network over its epochs, coloured by role."""
    figure, axes = _panel()
    for network in sorted(run.networks, key=lambda n: ROLES.index(n.role), reverse=True):
        curve = run.curves.get(network.name, ())
        style: dict[str, Any] = {"color": ROLE_COLOURS[network.role], "linewidth": 1.2, "alpha": 0.75}
        axes.plot([epoch.epoch for epoch in curve], [100 * epoch.error for epoch in curve], **style)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training error, %")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def fidelity_chart(networks: Sequence[RetrainedNetwork]) -> Figure:
    """Test error after retraining over validation error in the supernet."""
    figure, axes = _panel()
    roles: tuple[Role, ...] = ("random", "front")
    for role in roles:
        scored = [n for n in networks if n.role == role and n.supernet_error is not None]
        x = [100 * n.supernet_error for n in scored if n.supernet_error is not None]
        style: dict[str, Any] = {"color": ROLE_COLOURS[role], "markersize": 7, "markeredgewidth": 0}
        axes.plot(x, [100 * n.test_error for n in scored], ROLE_MARKERS[role], **style)
    axes.set_xlabel("validation error in the supernet, %")
    axes.set_ylabel("test error after retraining, %")
    axes.set_ylim(bottom=0)
    return figure


@styled
def latency_chart(networks: Sequence[RetrainedNetwork], seconds: Mapping[str, float]) -> Figure:
    """Test error over the time of one image in the packed runtime; networks that were not timed are left out."""
    figure, axes = _panel()
    timed = [n for n in networks if n.name in seconds]
    for network in sorted(timed, key=lambda n: ROLES.index(n.role), reverse=True):
        style: dict[str, Any] = {"color": ROLE_COLOURS[network.role], "markersize": 7, "markeredgewidth": 0}
        axes.plot(1e6 * seconds[network.name], 100 * network.test_error, ROLE_MARKERS[network.role], **style)
    axes.set_xlabel("one image, packed, µs")
    axes.set_ylabel("test error, %")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return figure


@styled
def curve_chart(curve: Sequence[EpochRecord], colour: str) -> Figure:
    """Loss and error of one network over the epochs of its training."""
    figure = Figure(figsize=(5.4, 2.3), facecolor="none")
    figure.subplots_adjust(left=0.085, right=0.99, bottom=0.21, top=0.88, wspace=0.2)  # a layout engine takes longer
    values: tuple[tuple[str, Callable[[EpochRecord], float]], ...] = (
        ("training loss", lambda epoch: epoch.loss),
        ("training error, %", lambda epoch: 100 * epoch.error),
    )
    for axes, (title, value) in zip(figure.subplots(1, 2), values, strict=True):
        axes.set_facecolor("none")
        axes.set_title(title, fontsize=10)
        axes.plot([e.epoch for e in curve], [value(e) for e in curve], "o-", color=colour, markersize=3.5)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@styled
def cell_chart(nodes: Sequence[Node], title: str, layout: Layout) -> Figure:
    """One cell."""
    figure = Figure(figsize=layout.size(len(nodes)), facecolor="none")
    draw_cell(figure.add_axes((0, 0, 1, 1)), nodes, title, layout)
    return figure
