"""A matplotlib figure as SVG inside a page: text stays text, and the page's style sheet decides the colours.

A colour that the theme knows becomes a custom property of CSS, so that one drawing serves the light, the dark and the
printed page. Other colours stay.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib.style
from markupsafe import Markup
from matplotlib.figure import Figure

from bnas.report.axes import GREY, ROLE_COLOURS, STAGE_COLOURS, STYLE
from bnas.report.charts import POINT
from bnas.storage.terminal import printable

_SVG = {**STYLE, "svg.fonttype": "none", "savefig.facecolor": "none"}
_DROPPED = ("metadata", "style")
_KEPT_OF_FONT = ("font-size", "font-weight", "text-anchor")
_HIT_RADIUS = 9
"""Radius of the invisible disc around a point that can be touched, in units of the drawing."""


@dataclass(frozen=True)
class Theme:
    """Colour, in lower-case hexadecimal, → name of a custom property; apart for areas, lines and letters."""

    fill: Mapping[str, str]
    stroke: Mapping[str, str]
    text: Mapping[str, str]


_STAGES = {colour.lower(): f"--{name}" for name, colour in STAGE_COLOURS.items()}
_SERIES = {colour.lower(): f"--{name}" for name, colour in ROLE_COLOURS.items()} | _STAGES
_LINES = {"#000000": "--muted", "#222222": "--ink", GREY.lower(): "--faint", "#e6e6e6": "--line", "#bbbbbb": "--line"}

CHART = Theme(
    fill={**_SERIES, **_LINES, "#ffffff": "--surface"},
    stroke={**_SERIES, **_LINES},
    text=_SERIES,
)
STACK = Theme(fill={}, stroke={**_LINES, **_STAGES}, text=_SERIES)
"""The theme of bars in the colours of operations, which do not change."""
CELL = Theme(
    fill={"#ffffff": "--surface", "#f2f2f2": "--raised", "#555555": "--muted"},
    stroke={
        "#222222": "--muted",
        "#555555": "--muted",
        "#b5b5b5": "--faint",
        "#a8a8a8": "--faint",
        "#0072b2": "--wire-3",
        "#003f66": "--wire-5",
        "#c75300": "--wire-dil-3",
        "#7a3300": "--wire-dil-5",
    },
    text={"#333333": "--muted"},
)


def inline_svg(
    figure: Figure,
    prefix: str,
    label: str,
    theme: Theme = CHART,
    points: Mapping[str, tuple[str, str]] | None = None,
) -> Markup:
    """The figure as an `<svg>` element, the same for equal figures.

    `prefix` sets its identifiers apart from those of other figures of the page, `label` are the words for those who
    do not see it. An artist with gid `point-<name>` becomes a link to `#<name>`; `points` maps its name to
    its class and its label.
    """
    for axes in figure.axes:
        axes.set_facecolor("none")
    content = io.BytesIO()
    with matplotlib.style.context(["default", _SVG]):
        figure.savefig(content, format="svg", dpi=72, metadata={"Date": None, "Creator": None})
    root = _without_namespaces(ElementTree.fromstring(content.getvalue()))  # noqa: S314  # our own drawing
    _drop(root)
    for element in root.iter():
        _restyle(element, theme)
    for element in root.iter():
        if (gid := element.get("id", "")).startswith(POINT) and points:
            _link(element, gid.removeprefix(POINT), points)
    _rename(root, prefix)
    _flatten(root)
    size = root.get("viewBox", "")
    root.attrib.clear()
    role = "group" if points else "img"
    root.attrib.update({"viewBox": size, "role": role, "aria-label": printable(label), "class": "drawing"})
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=True))  # noqa: S704  # escaped there


def _without_namespaces(root: ElementTree.Element) -> ElementTree.Element:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if "}" in name]:
            element.set(name.rpartition("}")[2], element.attrib.pop(name))
        element.tail = None
        element.text = element.text if element.text and element.text.strip() else None
    return root


def _drop(parent: ElementTree.Element) -> None:
    for child in list(parent):
        _drop(child)
        if child.tag in _DROPPED or (child.tag in ("g", "defs") and not len(child) and not child.get("id")):
            parent.remove(child)


def _flatten(parent: ElementTree.Element) -> None:
    """Replace groups without attributes by their children, and remove elements that paint nothing."""
    children: list[ElementTree.Element] = []
    for child in parent:
        _flatten(child)
        if child.tag == "g" and not child.attrib:
            children += child
        elif child.get("style") != "fill:none":
            children.append(child)
    parent[:] = children


def _restyle(element: ElementTree.Element, theme: Theme) -> None:
    """Leave fonts and the theme's colours to the page, and round numbers to two digits."""
    text = element.tag in ("text", "tspan")
    style = []
    for name, value in _declarations(element.get("style", "")):
        if name.startswith("font") and name not in _KEPT_OF_FONT:
            continue
        known = (theme.text if text else theme.fill) if name == "fill" else theme.stroke if name == "stroke" else {}
        style.append(f"{name}:{f'var({known[value]})' if value in known else value}")
    if style:
        element.set("style", ";".join(style))
    elif "style" in element.attrib:
        del element.attrib["style"]
    for name in ("d", "x", "y", "width", "height", "transform"):
        if name in element.attrib:
            element.set(name, _shorter(element.attrib[name]))
    if element.get("transform", "").startswith("rotate(0 "):
        del element.attrib["transform"]


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    for declaration in filter(None, (part.strip() for part in style.split(";"))):
        name, _, value = declaration.partition(":")
        if name == "font":  # the short form: size and family
            size = re.search(r"[\d.]+px", value)
            yield "font-size", size[0] if size else "10px"
            continue
        yield name.strip(), value.strip()


def _shorter(numbers: str) -> str:
    rounded = re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), numbers)
    return " ".join(rounded.replace(" rotate(-0", " rotate(0").split())


def _link(group: ElementTree.Element, name: str, points: Mapping[str, tuple[str, str]]) -> None:
    kind, label = points[name]
    place = next(group.iter("use"))
    group.tag = "a"
    group.attrib.clear()
    group.attrib.update(
        {"href": f"#{name}", "class": f"point {kind}", "aria-label": printable(label), "data-network": name}
    )
    disc = {"class": "hit", "cx": place.get("x", "0"), "cy": place.get("y", "0"), "r": str(_HIT_RADIUS)}
    group.insert(0, ElementTree.Element("circle", disc))


def _rename(root: ElementTree.Element, prefix: str) -> None:
    """Remove identifiers that nothing refers to, and put the prefix before the others."""
    references = set()
    for element in root.iter():
        if element.tag != "a":
            references |= {match[1] for value in element.attrib.values() for match in re.finditer(r"#([\w.-]+)", value)}
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in references:
            element.set("id", f"{prefix}-{own}")
        for name, value in element.attrib.items():
            if element.tag != "a" and ("url(#" in value or (name == "href" and value.startswith("#"))):
                element.set(name, value.replace("#", f"#{prefix}-", 1))
