"""A run → the text of its page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bnas.data.image_array import ImageArray
from bnas.records.networks import ROLES, LinearBaseline
from bnas.report.analysis import (
    STAGE_NAMES,
    Retrained,
    Run,
    best_by_test,
    generation_indicators,
    hypervolume_difference,
    metrics,
    paired_test,
)
from bnas.report.axes import ROLE_NAMES, operations_seen
from bnas.report.cell_drawing import operation_colour, operation_label
from bnas.report.page import charts
from bnas.report.page.content import NetworkView, class_examples, network_view, picks
from bnas.report.page.inline import STACK, inline_svg
from bnas.report.search_text import STAGES, course_sentences, latency_check, pair_sentence, verdict
from bnas.report.tables import duration, linear_note, moment, optimistic_note, test_interval
from bnas.report.text import kib, percent
from bnas.report.transfer_text import STAGES as TRANSFER_STAGES
from bnas.space.operations import PARAMETER_FREE


def environment() -> Environment:
    """Jinja2 with this package's templates; whatever comes from data is escaped."""
    made = Environment(
        loader=PackageLoader("bnas.report.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = resources.files("bnas.report.page") / "templates"
    made.globals["css"] = Markup((folder / "page.css").read_text(encoding="utf-8"))  # noqa: S704  # a file of ours
    made.globals["javascript"] = Markup((folder / "page.js").read_text(encoding="utf-8"))  # noqa: S704
    made.filters |= {"kib": kib, "percent": percent, "duration": duration, "moment": moment, "emphasis": _emphasis}
    return made


def _emphasis(text: str) -> Markup:
    """Markdown's `**strong**` as HTML, the rest escaped."""
    pieces = str(escape(text)).split("**")
    return Markup("".join(f"<strong>{p}</strong>" if i % 2 else p for i, p in enumerate(pieces)))  # noqa: S704  # escaped


def page_html(run: Retrained, images: ImageArray | None, bins: int, parameters: str, introduction: str = "") -> str:
    """The whole page, the same text for the same run; without a search, what belongs to it is left out.

    `images` `[N, H, W, C]` are those of the test split, in the order of the predictions (None: no pictures are shown),
    `bins` those of size coverage, `parameters` YAML, `introduction` what stands under the title where the run has no
    search to tell of.
    """
    networks = run.of_role(*ROLES)
    views = {network.name: network_view(run, network, images) for network in networks}
    best = best_by_test(run.networks)
    assert best is not None  # `Run` refuses to be without a front network
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            run=run,
            views=views,
            picks=picks(run),
            best=best,
            optimistic=optimistic_note(run.networks),
            interval=test_interval,
            roles={role: name for role, name in ROLE_NAMES.items() if run.of_role(role)},
            stage_names=STAGE_NAMES,
            examples=class_examples(run, images),
            front_charts=_front_charts(views, run.linear),
            linear=linear_note(run.linear, run.networks) if run.linear else None,
            latency_chart=_latency_chart(run),
            parameters=parameters.strip(),
            verdict=verdict(hypervolume_difference(run), run.dataset.counts.test),
            pairs=_pairs(run),
            introduction=introduction,
            times=_times(run),
            searched=isinstance(run, Run),
            retraining=inline_svg(
                charts.retraining_chart(run), "retraining", "Training error of every retrained network over its epochs."
            ),
            **(_search(run, bins) if isinstance(run, Run) else {}),
        )
    )


def _front_charts(views: Mapping[str, NetworkView], linear: LinearBaseline | None) -> dict[str, Markup]:
    """The same chart for wide and for narrow windows, each point a link."""
    points = {name: (view.network.role, view.summary) for name, view in views.items()}
    networks = [view.network for view in views.values()]
    label = "Test error over size of all trained networks; each point is a link to its network."
    return {
        name: inline_svg(charts.front_chart(networks, size, linear), f"front-{name}", label, points=points)
        for name, size in (("wide", charts.WIDE), ("narrow", charts.NARROW))
    }


def _latency_chart(run: Retrained) -> Markup | None:
    seconds = {name: packed.latency.packed_1 for name, packed in run.packed.items() if packed.latency}
    if not seconds:
        return None
    drawn = charts.latency_chart(run.networks, seconds)
    return inline_svg(drawn, "latency", "Test error over the time of one image in the packed runtime.")


def _search(run: Run, bins: int) -> dict[str, object]:
    rows = generation_indicators(run, bins)
    population, frames = charts.population_chart(run)
    seen = operations_seen(run.generations)
    return {
        "course": [*course_sentences(rows), *latency_check(run)],
        "population": _with_members(
            inline_svg(
                population, "population", "Error over size of a generation's members, and the front handed over."
            ),
            frames[-1],
        ),
        "frames": frames,
        "frames_json": Markup(_script_json([asdict(frame) for frame in frames])),  # noqa: S704  # escaped there
        "charts": {
            "hypervolume": inline_svg(
                charts.indicator_chart(rows, "hypervolume"), "hypervolume", "Hypervolume of each generation's front."
            ),
            "coverage": inline_svg(
                charts.indicator_chart(rows, "size_coverage"), "coverage", "Size coverage of each generation."
            ),
            "operations": inline_svg(
                charts.operations_chart(run.generations),
                "operations",
                "Stacked bars: share of each operation in the population of each generation.",
                STACK,
            ),
            "supernet": inline_svg(charts.supernet_chart(run), "supernet", "Training error of the supernet."),
            "fidelity": inline_svg(
                charts.fidelity_chart(run.networks),
                "fidelity",
                "Test error after retraining over validation error in the supernet.",
            ),
        },
        "operations": [(operation_label(op), operation_colour(op), op in PARAMETER_FREE) for op in seen],
        "metrics": metrics(run, bins),
    }


def _with_members(drawing: Markup, frame: charts.Frame) -> Markup:
    """The drawing with the members of a generation: what is seen before, and without, the script."""
    members = [
        Markup('<circle class="member {}" cx="{}" cy="{}" r="3.3"/>').format(kind, x, y)
        for kind, places in (("then", frame.then), ("now", frame.now))
        for x, y in places
    ]
    group = Markup('<g id="members" class="{}">{}</g></svg>').format(frame.stage, Markup().join(members))
    return Markup(drawing.removesuffix("</svg>")) + group  # noqa: S704  # a drawing of ours


def _script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")


def _pairs(run: Retrained) -> str | None:
    return pair_sentence([paired_test(run, a.name, b.name) for a, b in run.pairs]) if run.pairs else None


def _times(run: Retrained) -> list[tuple[str, float | None, float]]:
    """(stage, seconds or None, share of the longest)."""
    longest = max(run.stage_seconds.values(), default=0) or 1.0
    stages = STAGES if isinstance(run, Run) else TRANSFER_STAGES
    rows = [(STAGE_NAMES.get(name, name), run.stage_seconds.get(name)) for name in stages]
    return [(name, seconds, (seconds or 0) / longest) for name, seconds in rows]
