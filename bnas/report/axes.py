"""The style of all charts, and the lines, axes and labels that several of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from bnas.records.networks import LinearBaseline, Role
from bnas.report.results import STAGE_NAMES
from bnas.search import pareto

P = ParamSpec("P")
T = TypeVar("T")

# Okabe and Ito's palette: distinguishable for colour-blind readers; markers differ as well.
ROLE_COLOURS: Mapping[Role, str] = {"front": "#0072B2", "random": "#D98200", "hand": "#00805F", "published": "#6B4C9A"}
ROLE_MARKERS: Mapping[Role, str] = {"front": "o", "random": "s", "hand": "^", "published": "D"}
ROLE_NAMES: Mapping[Role, str] = {
    "front": "front of the search",
    "random": "random, matched in size",
    "hand": "designed by hand",
    "published": "published elsewhere",
}
STAGE_COLOURS: Mapping[str, str] = {"stage1": "#B8528B", "stage2": "#C75300", "search": "#3D3580"}
GREY = "#8C8C8C"

STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
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


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """A decorator: draw in the style of all charts, whatever the user's settings."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return drawn


def front_line(axes: Axes, points: Sequence[tuple[float, float]], **style: Any) -> None:
    """The staircase through the non-dominated of (size in bytes, error) points."""
    mask = pareto.nondominated(points)
    kept = sorted(point for point, on_front in zip(points, mask, strict=True) if on_front)
    axes.step([s / 1024 for s, _ in kept], [100 * e for _, e in kept], where="post", linewidth=1.3, **style)


def linear_line(axes: Axes, linear: LinearBaseline) -> None:
    """A horizontal line at the test error of the linear classifier, named at its left end."""
    axes.axhline(100 * linear.test_error, color=GREY, linewidth=1.2, linestyle=":", zorder=1)
    axes.annotate(
        "linear classifier on pixels",
        (0, 100 * linear.test_error),
        xycoords=axes.get_yaxis_transform(),
        xytext=(4, -3),
        textcoords="offset points",
        color="#666666",
        fontsize=8.5,
        va="top",
    )


def size_axis(axes: Axes, *, sparse: bool = False) -> None:
    """Sizes in KiB on a log axis with round numbers; `sparse` for a small panel."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if sparse else (1, 1.5, 2, 3, 4, 6, 8)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("size, KiB")


def error_axis(axes: Axes, errors: Iterable[float]) -> None:
    """Errors in per cent on a log axis with round numbers; on a linear one if some error is 0."""
    if not all(errors):
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def stage_bands(figure: Figure, axes: Axes, stages: Sequence[str]) -> None:
    """Name, above the axes, the stage that each of the positions 1, 2, … belongs to, and part the stages."""
    axes.set_xlim(0.3, max(len(stages), 1) + 0.7)
    for stage, first, last in runs(stages):
        colour = STAGE_COLOURS[stage]
        above = axes.get_xaxis_transform() + ScaledTranslation(0, 6 / 72, figure.dpi_scale_trans)
        ends = (first - 0.42, last + 0.42)
        axes.plot(ends, (1, 1), transform=above, color=colour, linewidth=4, clip_on=False, solid_capstyle="butt")
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


def runs(stages: Sequence[str]) -> Iterable[tuple[str, int, int]]:
    """(stage, first, last position) of each stretch of equal stages, counted from 1."""
    first = 1
    for position, stage in enumerate(stages, 1):
        if position == len(stages) or stages[position] != stage:
            yield stage, first, position
            first = position + 1
