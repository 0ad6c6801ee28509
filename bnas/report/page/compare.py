"""Several finished runs side by side: one plot of their fronts, what differs between their parameters, indicators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from markupsafe import Markup

from bnas.records.networks import Name
from bnas.report import charts
from bnas.report.network_tables import Table
from bnas.report.page.build import environment
from bnas.report.page.inline_svg import inline_svg

ABSENT = "–"


@dataclass(frozen=True)
class Point:
    """A retrained network of some run, as `reports/plots/pareto.json` holds it."""

    network: Name
    role: str
    size_kib: float
    test_error: float
    balanced_error: float | None = None


@dataclass(frozen=True)
class ComparedRun:
    """A finished run, from the files of it that git keeps.

    `parameters` maps dotted keys to values, `indicators` names to numbers (None where one does not exist), `missing`
    are files that were looked for and not found. Raises ValueError for a run without a network of the front.
    """

    name: str
    revision: str
    points: tuple[Point, ...]
    parameters: Mapping[str, object]
    indicators: Mapping[str, float | None]
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.front:
            raise ValueError(f"{self.name}: expected at least one network of the front, found none")

    @property
    def front(self) -> tuple[Point, ...]:
        """The retrained front, smallest first."""
        return tuple(sorted((p for p in self.points if p.role == "front"), key=lambda point: point.size_kib))

    @property
    def error(self) -> str:
        """The error that the search minimised, in words."""
        return "balanced test error" if self.parameters.get("objectives.error") == "balanced" else "test error"

    @property
    def differences(self) -> tuple[float, ...] | None:
        """Of each network of the front its `error` minus the mean of its random networks', in percentage points.

        None where these errors are not known. The random networks of `front-3` are `random-3`, `random-3-2` and so on;
        a network without any is left out.
        """
        plain = self.error == "test error"
        errors = {point.network: point.test_error if plain else point.balanced_error for point in self.points}
        known = {network: error for network, error in errors.items() if error is not None}
        if len(known) < len(errors):
            return None
        random: dict[str, list[float]] = {}
        for point in self.points:
            if point.role == "random":
                random.setdefault(point.network.split("-")[1], []).append(known[point.network])
        numbers = {point.network: point.network.split("-")[1] for point in self.front}
        return tuple(
            100 * (known[point.network] - float(np.mean(random[numbers[point.network]])))
            for point in self.front
            if numbers[point.network] in random
        )


def worth_text(runs: Sequence[ComparedRun]) -> str:
    """What the searches of all runs were worth: mean, Student's interval and median of all `differences`.

    The interval holds what differs between networks and seeds; runs on the same test images share those images' part.
    A run counts once, under however many names it comes.
    """
    found = [(run, run.differences) for run in {run.points: run for run in runs}.values()]
    every = [difference for _, differences in found for difference in differences or ()]
    unknown = ", ".join(run.name for run, differences in found if differences is None)
    left_out = f"; left out, its balanced errors were not kept: {unknown}" if unknown else ""
    if len(every) < 2:
        return f"Front against random networks of its sizes: too few of them were retrained{left_out}"
    interval = scipy.stats.ttest_1samp(every, 0.0).confidence_interval()
    errors = " or ".join(sorted({run.error for run, differences in found if differences}))
    each = ", ".join(f"{np.mean(differences):+.2f}" for _, differences in found if differences)
    return (
        f"Front against random networks of its sizes, {len(every)} pairs: {errors} {np.mean(every):+.2f} points "
        f"(95 %: {interval.low:+.2f} to {interval.high:+.2f}), median {np.median(every):+.2f}; "
        f"run by run {each}{left_out}"
    )


def _table(
    heading: str, columns: Sequence[Mapping[str, object]], write: Callable[[object], str], runs: Sequence[ComparedRun]
) -> Table:
    # A heading with a space, which no revision's name has.
    return Table(
        [
            {heading: name}
            | {run.name: write(c[name]) if name in c else ABSENT for run, c in zip(runs, columns, strict=True)}
            for name in dict.fromkeys(name for column in columns for name in column)
        ],
        (heading,),
    )


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else ABSENT


def _tables(runs: Sequence[ComparedRun]) -> dict[str, Table]:
    """Every indicator that some run has, and the parameters that are not the same in all runs; by title."""
    parameters = _table("parameter key", [run.parameters for run in runs], str, runs)
    different = [row for row in parameters.rows if len({row[run.name] for run in runs}) > 1]
    return {
        "Indicators": _table("indicator name", [run.indicators for run in runs], _number, runs),
        "Parameters that differ": Table(different, parameters.left),
    }


def compare_text(runs: Sequence[ComparedRun]) -> str:
    """What the searches were worth, and both tables in Markdown, for the terminal."""
    tables = (
        f"{title}\n\n{table.markdown()}" if table.rows else f"{title}: none" for title, table in _tables(runs).items()
    )
    return "\n\n".join([worth_text(runs), *tables])


def compare_html(runs: Sequence[ComparedRun]) -> str:
    """The whole page, self-contained as the report's."""
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            runs=runs,
            worth=worth_text(runs),
            charts={"wide": _chart(runs, "wide"), "narrow": _chart(runs, "narrow")},
            markers=charts.RUN_MARKERS,
            tables=_tables(runs),
        )
    )


def _chart(runs: Sequence[ComparedRun], name: str) -> Markup:
    size = {"wide": charts.WIDE, "narrow": charts.NARROW}[name]
    points = {
        f"{i}-{point.network}": (
            f"run-{i % len(charts.RUN_COLOURS)}",
            f"{run.name}, {point.network}: {point.size_kib:.2f} KiB, test error {100 * point.test_error:.2f} %",
        )
        for i, run in enumerate(runs)
        for point in run.front
    }
    label = "Test error over size of the retrained fronts of " + ", ".join(run.name for run in runs)
    fronts = [[(point.network, point.size_kib, point.test_error) for point in run.front] for run in runs]
    return inline_svg(charts.fronts_chart(fronts, size), f"fronts-{name}", label, points=points)
