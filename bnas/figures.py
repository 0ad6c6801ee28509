"""Records of a run → pictures. Each function returns a `Figure`; `render` turns it into the bytes of a file.

No global state of matplotlib is read or changed, and the same records give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from itertools import product
from typing import Any, Literal, ParamSpec

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from bnas import pareto
from bnas.analysis import STAGE_NAMES, GenerationIndicators, operation_shares
from bnas.cell_graph import operation_colour, operation_label
from bnas.results import EpochRecord, Front, GenerationRecord, RetrainedNetwork, Role
from bnas.space import PARAMETER_FREE

P = ParamSpec("P")

FigureFormat = Literal["svg", "png"]

# Okabe and Ito's palette: distinguishable for colour-blind readers; markers differ as well.
ROLE_COLOURS: Mapping[Role, str] = {"front": "#0072B2", "random": "#D98200", "hand": "#00805F"}
ROLE_MARKERS: Mapping[Role, str] = {"front": "o", "random": "s", "hand": "^"}
ROLE_NAMES: Mapping[Role, str] = {
    "front": "front of the search",
    "random": "random, matched in size",
    "hand": "designed by hand",
}
STAGE_COLOURS: Mapping[str, str] = {"stage1": "#B8528B", "stage2": "#C75300", "search": "#3D3580"}
_GREY = "#8C8C8C"
_MOST_PANELS, _COLUMNS = 32, 8

_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "bnas",
}


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", _STYLE]):
            return draw(*args, **kwargs)

    return styled


def render(figure: Figure, file_format: FigureFormat) -> bytes:
    """The figure as a file's bytes: equal for equal figures, without date or version."""
    metadata = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
    content = io.BytesIO()
    with matplotlib.style.context(["default", _STYLE]):
        figure.savefig(content, format=file_format, dpi=120, metadata=metadata)
    return content.getvalue()


@_styled
def front_figure(front: Front, networks: Sequence[RetrainedNetwork]) -> Figure:
    """Left the search's front in the supernet, right the retrained networks with their baselines."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    left.set_title("in the supernet: validation error")
    colour, chosen = ROLE_COLOURS["front"], {n.key for n in networks if n.role == "front"}
    _front_line(left, [(m.size_bytes, m.error) for m in front.members], color=colour, alpha=0.5)
    for label, members, face in (
        ("handed over by the search", [m for m in front.members if m.key not in chosen], "white"),
        ("chosen to be retrained", [m for m in front.members if m.key in chosen], colour),
    ):
        sizes, errors = [m.size_bytes / 1024 for m in members], [100 * m.error for m in members]
        left.plot(sizes, errors, "o", color=colour, markerfacecolor=face, markersize=6, label=label)
    right.set_title("retrained from scratch: test error, 95 % interval")
    for role in ROLE_NAMES:
        _role_points(right, [network for network in networks if network.role == role], role)
    for axes in (left, right):
        _size_axis(axes)
        axes.set_ylabel("error, %")
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
        axes.legend(loc="upper right")
    return figure


def _role_points(axes: Axes, networks: Sequence[RetrainedNetwork], role: Role) -> None:
    if not networks:
        return
    colour = ROLE_COLOURS[role]
    sizes = [network.size_bytes / 1024 for network in networks]
    errors = np.array([100 * network.test_error for network in networks])
    limits = 100 * np.array([pareto.wilson_interval(n.wrong, n.test_images) for n in networks]).T  # [2, n]
    if role != "hand":
        points = [(network.size_bytes, network.test_error) for network in networks]
        _front_line(axes, points, color=colour, alpha=0.5, linestyle="-" if role == "front" else "--")
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


def _front_line(axes: Axes, points: Sequence[tuple[float, float]], **style: Any) -> None:
    """The staircase through the non-dominated of (size in bytes, error) points."""
    mask = pareto.nondominated(points)
    kept = sorted(point for point, on_front in zip(points, mask, strict=True) if on_front)
    axes.step([s / 1024 for s, _ in kept], [100 * e for _, e in kept], where="post", linewidth=1.3, **style)


@_styled
def population_figure(generations: Sequence[GenerationRecord], front: Front) -> Figure:
    """A small picture per generation: the population as scored then and, filled, with the final supernet.

    Each stage starts a row. Of very many generations an even selection is shown.
    """
    shown = _shown(generations)
    columns = min(_COLUMNS, max(last - first + 1 for _, first, last in _runs([r.stage for r in shown])))
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
        Line2D([], [], color=_GREY, linewidth=1.3, label="front handed over"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def _population_panel(axes: Axes, record: GenerationRecord, front: Front) -> None:
    colour = STAGE_COLOURS[record.stage]
    _front_line(axes, [(m.size_bytes, m.error) for m in front.members], color=_GREY, alpha=0.8)
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
    _size_axis(axes, sparse=True)
    axes.tick_params(labelsize=7.5)
    axes.set_xlabel("")


def _grid(stages: Sequence[str], columns: int) -> list[tuple[int, int]]:
    """(row, column) of each panel; every stretch of equal stages starts a row."""
    places: list[tuple[int, int]] = []
    for _, first, last in _runs(stages):
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


@_styled
def indicators_figure(rows: Sequence[GenerationIndicators]) -> Figure:
    """Hypervolume and size coverage of each generation's front, as scored then and scored again."""
    figure = Figure(figsize=(10.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    x = range(1, len(rows) + 1)
    for axes, title, then, now in (
        (left, "hypervolume of the front", "hypervolume", "rescored_hypervolume"),
        (right, "size coverage", "size_coverage", "rescored_size_coverage"),
    ):
        axes.set_title(title, pad=24)
        axes.plot(
            x,
            [getattr(r, then) for r in rows],
            "o--",
            color=_GREY,
            markersize=3.5,
            label="front, as scored then",
        )
        axes.plot(
            x,
            [getattr(r, now) for r in rows],
            "o-",
            color="#222222",
            markersize=3.5,
            label="front, final supernet",
        )
    right.plot(x, [r.population_coverage for r in rows], ":", color="#0072B2", label="whole population")
    right.set_ylim(0, 1.02)
    for axes in (left, right):
        _stage_bands(figure, axes, [row.stage for row in rows])
        axes.set_xlabel("generation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="best")
    return figure


@_styled
def operations_figure(generations: Sequence[GenerationRecord]) -> Figure:
    """Share of each operation in each generation's population; the parameter-free ones at the bottom."""
    shares = [operation_shares(record) for record in generations]
    names = sorted({op for row in shares for op in row}, key=lambda op: (op not in PARAMETER_FREE, op))
    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    axes = figure.subplots()
    x, base = np.arange(1, len(shares) + 1), np.zeros(len(shares))
    for op in names:
        values = np.array([100 * row.get(op, 0.0) for row in shares])
        axes.bar(x, values, bottom=base, width=0.86, color=operation_colour(op), label=operation_label(op))
        base = base + values
    free = [100 * sum(share for op, share in row.items() if op in PARAMETER_FREE) for row in shares]
    axes.step(
        np.append(x - 0.5, x[-1] + 0.5),
        [*free, free[-1]],
        where="post",
        color="black",
        linewidth=1.8,
        label="parameter-free, together",
    )
    axes.set_ylim(0, 100)
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("generation")
    axes.set_ylabel("share of all edges, %")
    _stage_bands(figure, axes, [record.stage for record in generations])
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center")
    return figure


@_styled
def supernet_figure(training: Mapping[str, Sequence[EpochRecord]]) -> Figure:
    """Loss and training error of the supernet over the epochs of both stages."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    start = 0
    stages: list[str] = []
    for stage, epochs in training.items():
        x = [start + i for i in range(1, len(epochs) + 1)]
        colour = STAGE_COLOURS[stage]
        left.plot(x, [e.loss for e in epochs], "o-", color=colour, markersize=3.5)
        right.plot(x, [100 * e.error for e in epochs], "o-", color=colour, markersize=3.5)
        start += len(epochs)
        stages += [stage] * len(epochs)
    for axes, title in ((left, "training loss"), (right, "training error, %")):
        axes.set_title(title, pad=24)
        axes.set_xlabel("epoch")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _stage_bands(figure, axes, stages)
    return figure


@_styled
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


@_styled
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


def _size_axis(axes: Axes, *, sparse: bool = False) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if sparse else (1, 1.5, 2, 3, 4, 6, 8)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("size, KiB")


def _stage_bands(figure: Figure, axes: Axes, stages: Sequence[str]) -> None:
    """Name, above the axes, the stage that each of the positions 1, 2, … belongs to, and part the stages."""
    axes.set_xlim(0.3, max(len(stages), 1) + 0.7)
    for stage, first, last in _runs(stages):
        colour = STAGE_COLOURS[stage]
        above = axes.get_xaxis_transform() + ScaledTranslation(0, 6 / 72, figure.dpi_scale_trans)
        axes.plot(
            (first - 0.42, last + 0.42),
            (1, 1),
            transform=above,
            color=colour,
            linewidth=4,
            clip_on=False,
            solid_capstyle="butt",
        )
        axes.annotate(
            STAGE_NAMES[stage],
            ((first + last) / 2, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 10),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            ha="center",
        )
        if first > 1:
            axes.axvline(first - 0.5, color="#BBBBBB", linewidth=0.8, zorder=0.5)


def _runs(stages: Sequence[str]) -> Iterable[tuple[str, int, int]]:
    """(stage, first, last position) of each stretch of equal stages, counted from 1."""
    first = 1
    for position, stage in enumerate(stages, 1):
        if position == len(stages) or stages[position] != stage:
            yield stage, first, position
            first = position + 1
