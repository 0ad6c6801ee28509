import dataclasses
import random
import re
from xml.etree import ElementTree

import pytest

from bnas.report import charts
from bnas.report.axes import GREY, ROLE_COLOURS, STAGE_COLOURS
from bnas.report.cell_drawing import STAIRCASE, cell_chart
from bnas.report.page.inline_svg import CELL, inline_svg
from bnas.space.search_space import SearchSpace
from tests import finished_run


@pytest.fixture(scope="module")
def networks():
    return finished_run.networks(finished_run.front(random.Random(0)), random.Random(1))


def front(networks, prefix="a"):
    points = {n.name: (n.role, f"{n.name} & <co>") for n in networks}
    return str(inline_svg(charts.front_chart(networks), prefix, 'a "chart"', points=points))


def test_one_drawing_is_one_text(networks):
    assert front(networks) == front(networks)


def test_every_network_is_a_link_with_words(networks):
    links = ElementTree.fromstring(front(networks)).findall(".//a")
    assert {link.get("href") for link in links} == {f"#{network.name}" for network in networks}
    assert {link.get("aria-label") for link in links} == {f"{network.name} & <co>" for network in networks}


def test_identifiers_of_two_drawings_differ_and_every_reference_is_met(networks):
    drawings = [front(networks, prefix) for prefix in ("a", "b")]
    found = [set(re.findall(r'id="([^"]+)"', drawing)) for drawing in drawings]
    assert not found[0] & found[1]
    for drawing, own in zip(drawings, found, strict=True):
        used = re.findall(r'url\(#([^)]+)\)|<use[^>]* href="#([^"]+)"', drawing)
        assert {a or b for a, b in used} == own


def test_the_page_decides_every_colour_of_a_chart(networks):
    figure = charts.front_chart(networks, size=charts.NARROW)
    assert not re.findall(r"#[0-9a-f]{6}", str(inline_svg(figure, "a", "chart")))


def test_colours_of_series_have_names_of_their_own():
    colours = [colour.lower() for colour in (*ROLE_COLOURS.values(), *STAGE_COLOURS.values(), GREY)]
    assert len(set(colours)) == len(colours)


def test_letters_on_operations_keep_their_colour_in_every_theme():
    genotype = SearchSpace(ops=("skip_connect", "bin_conv_3x3"), nodes=2).sample(random.Random(1))
    drawing = ElementTree.fromstring(
        str(inline_svg(cell_chart(genotype.normal, "normal", STAIRCASE), "c", "cell", CELL))
    )
    colours = {text.text: text.get("style") or "" for text in drawing.iter("text")}
    assert "fill:#ffffff" in colours["conv 3×3"]
    assert "fill:#202020" in colours["skip"]
    assert "fill" not in colours["output"]


def test_a_frame_places_its_members_where_the_axes_have_them(tmp_path):
    finished_run.write(tmp_path)
    run = finished_run.read(tmp_path)
    figure, frames = charts.population_frames(run.generations, run.front)
    assert [frame.generation for frame in frames] == [record.generation for record in run.generations]
    axes, height = figure.axes[0], 72 * charts.NARROW[1]
    for frame, record in zip(frames, run.generations, strict=True):
        (x, y), member = frame.then[0], record.members[0]
        size, error = axes.transData.inverted().transform((x, height - y))
        assert size == pytest.approx(member.size_bytes / 1024, rel=0.01)
        assert error == pytest.approx(100 * member.error, abs=0.5)


def test_of_very_many_generations_the_slider_keeps_first_and_last(tmp_path):
    finished_run.write(tmp_path)
    run = finished_run.read(tmp_path)
    many = tuple(dataclasses.replace(run.generations[0], generation=i) for i in range(500))
    _, frames = charts.population_frames(many, run.front)
    assert len(frames) == charts.MOST_FRAMES
    assert (frames[0].generation, frames[-1].generation) == (0, 499)
