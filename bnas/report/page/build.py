"""Builds the page of a run from its story."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import resources
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from bnas.data.image_array import ImageArray
from bnas.records.networks import ROLES
from bnas.report import charts
from bnas.report.axes import ROLE_MARKERS
from bnas.report.formats import kib, moment, percent
from bnas.report.network_tables import Table
from bnas.report.page.inline_svg import CHART, STACK, inline_svg
from bnas.report.page.network_views import LISTED, NetworkView, class_examples, network_view, picks
from bnas.report.results import STAGE_NAMES, Retrained, Run
from bnas.report.sentences import optimistic_note
from bnas.report.story import Block, Picture, Section, Story
from bnas.storage.terminal import printable

_ELSEWHERE = ("front", "cells")
"""A picture and a section that the page shows in another form."""


def environment() -> Environment:
    """Jinja2 with this package's templates; whatever comes from data is printable and escaped."""
    made = Environment(
        loader=PackageLoader("bnas.report.page"),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = resources.files("bnas.report.page") / "templates"
    made.globals["css"] = Markup((folder / "page.css").read_text(encoding="utf-8"))  # noqa: S704  # a file of ours
    made.globals["javascript"] = Markup((folder / "page.js").read_text(encoding="utf-8"))  # noqa: S704
    made.globals["role_markers"] = ROLE_MARKERS
    made.filters |= {"kib": kib, "percent": percent, "moment": moment, "marked": _marked, "json": _script_json}
    return made


def _marked(text: str) -> Markup:
    """Markdown's `**strong**` and `` `code` ``, and what `literal` made, as HTML; the rest is printable and escaped."""
    html = re.sub(r"&amp;(#[0-9]+;)", r"&\1", str(escape(printable(text))))
    for mark, tag in (("**", "strong"), ("`", "code")):
        pieces = html.split(mark)
        html = "".join(f"<{tag}>{piece}</{tag}>" if i % 2 else piece for i, piece in enumerate(pieces))
    return Markup(html)  # noqa: S704  # escaped


def page_html(run: Retrained, story: Story, images: ImageArray | None) -> str:
    """The whole page, the same text for the same run.

    `images` `[N, H, W, C]` are those of the test split, in the order of the predictions (None: no pictures are shown).
    """
    networks = run.of_role(*ROLES)
    views = {network.name: network_view(run, network, images) for network in networks}
    sections = [(section, _groups(section)) for section in story.sections if section.name not in _ELSEWHERE]
    shown = [block for _, groups in sections for kind, blocks in groups for block in blocks if kind == "pictures"]
    drawings = {p.name: _drawing(p) for p in shown if isinstance(p, Picture) and p.name != "population"}
    frames: list[charts.Frame] = []
    if isinstance(run, Run):
        drawings["population"], frames = _population(run, story)
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            run=run,
            story=story,
            sections=sections,
            drawings=drawings,
            views=views,
            picks=picks(run),
            best=run.best,
            optimistic=optimistic_note(run.networks, run.error),
            stage_names=STAGE_NAMES,
            examples=class_examples(run, images),
            front_charts=_front_charts(run, views),
            frames=frames,
            frames_json=_script_json([asdict(frame) for frame in frames]),
            classes=[printable(name) for name in run.dataset.classes],
            listed=LISTED,
        )
    )


def _groups(section: Section) -> list[tuple[str, list[Block]]]:
    """A section's blocks in runs of one kind: text, tables or pictures."""

    def kind(block: Block) -> str:
        return {Table: "tables", Picture: "pictures"}.get(type(block), "text")

    shown: Iterable[Block] = (b for b in section.blocks if not (isinstance(b, Picture) and b.name in _ELSEWHERE))
    return [(name, list(blocks)) for name, blocks in groupby(shown, kind)]


def _drawing(picture: Picture) -> Markup:
    return inline_svg(picture.draw(), picture.name, picture.words, STACK if picture.name == "operations" else CHART)


def _front_charts(run: Retrained, views: Mapping[str, NetworkView]) -> dict[str, Markup]:
    """The same chart for wide and for narrow windows, each point a link."""
    points = {name: (view.network.role, view.summary) for name, view in views.items()}
    label = "Test error over size of all trained networks; each point is a link to its network."
    return {
        name: inline_svg(
            charts.front_chart(run.of_role(*ROLES), run.linear, size), f"front-{name}", label, points=points
        )
        for name, size in (("wide", charts.WIDE), ("narrow", charts.NARROW))
    }


def _population(run: Run, story: Story) -> tuple[Markup, list[charts.Frame]]:
    """The drawing with the last generation's members, which it shows without the script, and all frames."""
    figure, frames = charts.population_frames(run.generations, run.front)
    (words,) = (picture.words for picture in story.pictures if picture.name == "population")
    members = [
        Markup('<circle class="member {}" cx="{}" cy="{}" r="3.3"/>').format(kind, x, y)
        for kind, places in (("then", frames[-1].then), ("now", frames[-1].now))
        for x, y in places
    ]
    group = Markup('<g id="members" class="{}">{}</g></svg>').format(frames[-1].stage, Markup().join(members))
    drawing = inline_svg(figure, "population", words).removesuffix("</svg>")
    return Markup(drawing) + group, frames  # noqa: S704  # a drawing of ours


def _script_json(value: object) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704  # escaped
