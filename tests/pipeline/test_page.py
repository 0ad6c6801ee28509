"""The page of a finished run, seen with a browser's eyes."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest

from bnas.records.training import Predictions
from bnas.report.page.build import page_html
from bnas.report.page.compare import ComparedRun, Point, compare_html
from bnas.report.results import Retrained
from bnas.report.story import search_story, transfer_story
from bnas.report.weight_bytes import Part
from tests import finished_run
from tests.browser import Watched, chromium

HOSTILE = "</script><script>console.error('escaped?')</script>"
CLASSES = (*"012345678", "nine & <b>more</b>")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    finished_run.write(folder)
    run = finished_run.read(folder)
    dataset = dataclasses.replace(run.dataset, title=HOSTILE, classes=CLASSES)
    parts = (Part("stem", 0, 200.0), Part("cell 1", 900.0, 300.0), Part("classifier", 0, 500.0))
    packed = {name: file for name, file in run.packed.items() if name != "front-2"}
    return dataclasses.replace(run, dataset=dataset, parts={n.name: parts for n in run.networks}, packed=packed)


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "index.html"
    file.write_text(page_html(run, search_story(run, 10, "", "data:\n  name: <i>made up</i>"), finished_run.images(0)))
    return file


@pytest.fixture(scope="module")
def transferred(run, tmp_path_factory):
    """The same networks without a search."""
    unscored = [dataclasses.replace(network, supernet_error=None) for network in run.networks]
    fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(Retrained)}
    retrained = Retrained(**fields | {"networks": tuple(unscored)})
    file = tmp_path_factory.mktemp("page") / "index.html"
    story = transfer_story(retrained, "pipeline/<b>front</b>.json", 23, 10, "", "transfer: {}")
    file.write_text(page_html(retrained, story, finished_run.images(0)))
    return file


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    points = [Point(f"front-{i}", "front", 4.0 * i, 0.2 / i) for i in (1, 2, 3)]
    runs = [
        ComparedRun(name, name, tuple(points), {"search.seed": i, "stage1.epochs": 5}, {"hypervolume": 0.5 + i})
        for i, name in enumerate(("main", HOSTILE))
    ]
    file = tmp_path_factory.mktemp("page") / "compare.html"
    file.write_text(compare_html(runs))
    return file


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@contextlib.contextmanager
def opened(browser, file, width=1400, **how):
    watched = Watched(browser, file, width, **how)
    yield watched.page, watched
    watched.close()


def shown(page):
    return page.locator(".detail:visible").get_attribute("data-network")


def point(page, name):
    return page.locator(f".point[data-network='{name}']:visible")


def test_the_page_is_one_small_file_without_addresses_of_others(file):
    text = file.read_text()
    assert len(text.encode()) < 3_000_000
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text.count("<script>") == 1
    assert " onclick=" not in text


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_overflows(browser, file, transferred, compared, width, dark):
    for each in (file, transferred, compared):
        with opened(browser, each, width, dark=dark) as (page, watched):
            page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            assert watched.overflow() == []


def test_a_page_without_a_search_leaves_out_what_belongs_to_it(browser, transferred, run):
    with opened(browser, transferred) as (page, _):
        assert page.locator("#search, #population, a[href='#search']").count() == 0
        assert page.locator("nav a").evaluate_all("all => all.every((a) => document.querySelector(a.hash))")
        assert "<b>front</b>" in page.locator(".masthead").inner_text()
        assert page.locator("#training .drawing").first.is_visible()
        point(page, "front-2").focus()
        assert shown(page) == "front-2"


def test_themes_differ(browser, file):
    colours = set()
    for dark in (False, True):
        with opened(browser, file, dark=dark) as (page, _):
            colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_a_point_shows_its_network_on_hover_and_on_focus_and_leads_to_it_on_click(browser, file, run):
    with opened(browser, file) as (page, _):
        point(page, "front-1").locator(".hit").hover()
        assert shown(page) == "front-1"
        point(page, "front-2").focus()
        assert shown(page) == "front-2"
        assert page.locator(".detail:visible").inner_text().startswith("front-2")
        point(page, "front-1").locator(".hit").click()
        assert page.url.endswith("#front-1")
        assert page.locator("article#front-1").bounding_box()["y"] < 200
        names = page.locator(".wide .point").evaluate_all("all => all.map((one) => one.dataset.network)")
        assert sorted(names) == sorted(network.name for network in run.networks)


def test_a_baseline_s_point_opens_its_section(browser, file):
    with opened(browser, file) as (page, _):
        assert not page.locator("details#random-1").evaluate("one => one.open")
        point(page, "random-1").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("document.getElementById('random-1').open")
        assert page.locator("#random-1 .drawing").first.is_visible()


def test_a_finger_s_first_tap_shows_and_the_second_follows(browser, file):
    with opened(browser, file, 360, touch=True) as (page, _):
        point(page, "front-1").locator(".hit").tap()
        assert shown(page) == "front-1"
        assert "#" not in page.url
        point(page, "front-1").locator(".hit").tap()
        assert page.url.endswith("#front-1")


def test_the_slider_moves_the_population(browser, file, run):
    with opened(browser, file) as (page, _):

        def places():
            return page.locator("#members .now").evaluate_all("all => all.map((one) => one.getAttribute('cx'))")

        last = places()
        assert len(last) == len(run.generations[-1].members)
        page.locator("#generation").focus()
        page.keyboard.press("Home")
        assert places() != last
        assert "stage 1, generation 1" in page.locator("#generation-text").inner_text()
        page.keyboard.press("ArrowRight")
        assert "generation 2" in page.locator("#generation").get_attribute("aria-valuetext")
        page.keyboard.press("End")
        assert places() == last
        page.locator("#play").click()
        page.wait_for_function("+document.getElementById('generation').value < 9 && members.childElementCount > 0")
        assert page.locator("#play").inner_text() == "Pause"
        page.locator("#play").click()
        assert page.locator("#play").inner_text() == "Play"


def test_without_a_script_the_last_generation_and_the_best_network_are_there(browser, file, run):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#members .now").count() == len(run.generations[-1].members)
    assert page.locator(".detail:visible").count() == 1
    context.close()


def test_labels_of_drawn_cells_do_not_overlap(browser, file):
    with opened(browser, file) as (page, _):
        overlapping = page.evaluate(
            """() => [...document.querySelectorAll("article .cells svg")].flatMap((svg) => {
              const boxes = [...svg.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
              return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
                a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
            }).length"""
        )
        assert overlapping == 0


def test_every_picture_and_control_has_words_and_identifiers_are_unique(browser, file, compared):
    for each in (file, compared):
        with opened(browser, each) as (page, _):
            silent = page.evaluate(
                """() => [...document.querySelectorAll("img, svg, input, button, a")]
                  .filter((one) => !one.closest("[aria-hidden=true]"))
                  .filter((one) => !["alt", "aria-label"].some((name) => one.getAttribute(name)))
                  .filter((one) => !one.textContent.trim())
                  .map((one) => one.outerHTML.slice(0, 80))"""
            )
            assert silent == []
            twice = page.evaluate(
                """() => { const all = [...document.querySelectorAll("[id]")].map((one) => one.id);
                  return all.filter((id, i) => all.indexOf(id) !== i); }"""
            )
            assert twice == []
            broken = page.evaluate(
                """() => [...document.querySelectorAll("a[href^='#'], use")]
                  .filter((one) => !document.getElementById(one.getAttribute("href").slice(1)))
                  .map((one) => one.getAttribute("href"))"""
            )
            assert broken == []


def test_what_comes_from_data_is_text(browser, file, compared):
    with opened(browser, file) as (page, _):
        assert HOSTILE in page.locator("h1").inner_text()
        assert CLASSES[-1] in page.locator(".examples").inner_text()
    with opened(browser, compared) as (page, _):
        assert HOSTILE in page.locator("h1 + p").inner_text()


def test_a_packed_file_brings_its_command_and_latency(browser, file):
    with opened(browser, file) as (page, _):
        section = page.locator("article#front-1").inner_text()
        assert "bnas predict data/export/front-1.bnn image.png" in section
        assert "50 µs" in section
        assert "2.00 ms" in section
        assert "bnas predict" not in page.locator("article#front-2").inner_text()


def test_files_stand_in_a_table_with_size_latency_and_speed_up_and_in_a_plot(browser, file, run):
    with opened(browser, file) as (page, _):
        rows = page.locator("#files tbody tr").all_inner_texts()
        headings = page.locator("#files thead th").all_inner_texts()
        cells = {row.split()[0]: dict(zip(headings, row.split("\t"), strict=True)) for row in rows}
        assert set(cells) == set(run.packed)
        packed = run.packed["front-1"]
        assert cells["front-1"]["file, KiB"].strip() == f"{packed.file.file_bytes / 1024:.2f}"
        assert [cells["front-1"][name].strip() for name in ("one image", "in PyTorch", "speed-up")] == [
            "50 µs",
            "2.00 ms",
            "40 ×",
        ]
        assert page.locator("#files figure svg.drawing").count() == 1


def test_confusions_are_named_and_shown(browser, file, run):
    with opened(browser, file) as (page, _):
        mistakes = page.locator("article#front-1 .mistakes > li")
        assert "taken for" in mistakes.first.inner_text()
        sizes = mistakes.first.locator("img").evaluate_all("all => all.map((one) => one.naturalWidth)")
        assert set(sizes) == {28}
        counts = page.locator("article#front-1 .matrix td:not(thead td)").all_inner_texts()
        assert sum(map(int, counts)) == finished_run.IMAGES


def test_paper_shows_closed_sections_and_no_controls(browser, file):
    with opened(browser, file, dark=True) as (page, _):
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        assert not page.locator("#play").is_visible()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_fronts_of_compared_runs_stand_in_one_plot_beside_what_differs(browser, compared):
    with opened(browser, compared) as (page, _):
        assert page.locator(".wide .point").count() == 6
        point(page, "1-front-2").locator(".hit").hover()
        assert "10.00 %" in page.locator(".detail:visible").inner_text()
        tables = page.locator("table").all_inner_texts()
        assert "hypervolume" in tables[0]
        assert "search.seed" in tables[1]
        assert "stage1.epochs" not in tables[1]
    assert json.dumps(HOSTILE)[1:-1] not in compared.read_text()


MANY = 1000


@pytest.fixture(scope="module")
def of_many_classes(run, tmp_path_factory):
    """Every image of class i taken for class i + 1, and for others, and the last class never for another."""
    labels = np.repeat(np.arange(MANY), 12)
    predictions = labels.copy()
    for place, step in enumerate((1, 1, 2, 3, 4, 5)):
        predictions[place::12] = np.where(labels[place::12] == MANY - 1, MANY - 1, (labels[place::12] + step) % MANY)
    wrong = int((labels != predictions).sum())
    networks = tuple(dataclasses.replace(n, wrong=wrong, test_images=len(labels)) for n in run.networks)
    classes = (*(f"kind {i}" for i in range(MANY - 2)), HOSTILE, "never\x1b[2J")
    many = dataclasses.replace(
        run,
        dataset=dataclasses.replace(run.dataset, classes=classes),
        networks=networks,
        predictions={n.name: Predictions(labels, predictions) for n in networks},
    )
    file = tmp_path_factory.mktemp("page") / "index.html"
    file.write_text(page_html(many, search_story(many, 10, "", ""), None))
    return file


def test_confusions_of_a_thousand_classes_are_a_list_to_search_in(browser, of_many_classes):
    assert of_many_classes.stat().st_size < 3_000_000
    with opened(browser, of_many_classes) as (page, watched):
        box = page.locator("article#front-1 .confusions")

        def rows(asked):
            box.locator("input").fill(asked)
            return [row.split("\t") for row in box.locator("tbody tr").all_inner_texts()]

        first = rows("")
        assert page.locator("article#front-1 .matrix").count() == 0
        assert 10 <= len(first) <= 30
        assert {count for *_, count in first} == {"2"}
        assert "most frequent of 2997" in box.locator("output").inner_text()
        found = rows("KIND 500")
        assert found[0] == ["kind 499", "kind 500", "2"]
        assert ["kind 500", "kind 501", "2"] in found
        assert len([row for row in found if row[0] == "kind 500"]) == 3
        assert rows("script>")[0][:2] == ["kind 997", HOSTILE]
        assert rows(r"never\x1b")[0][1] == r"never\x1b[2J"
        assert rows("no such kind") == []
        assert box.locator("output").inner_text() == "No class of this name."
        assert watched.complaints == []


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_of_a_thousand_classes_overflows(browser, of_many_classes, width):
    with opened(browser, of_many_classes, width) as (page, watched):
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert watched.overflow() == []
