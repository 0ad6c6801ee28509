import dataclasses
import itertools
import random

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.transforms import Bbox

from bnas.records.networks import ROLES
from bnas.report import charts
from bnas.report.axes import ROLE_COLOURS, ROLE_MARKERS, ROLE_NAMES
from bnas.report.cell_drawing import STACKED, STAIRCASE, cell_chart, cells_figure, operation_colour, operation_label
from bnas.report.indicators import generation_indicators
from bnas.report.results import STAGE_NAMES
from bnas.space.operations import OPERATIONS, PARAMETER_FREE
from bnas.space.search_space import SearchSpace
from tests import finished_run

FOUR_NODES = SearchSpace(nodes=4)


def random_genotypes(count, space=FOUR_NODES):
    rng = random.Random(5)
    return [space.sample(rng) for _ in range(count)]


def by_gid(axes):
    return {text.get_gid(): text for text in axes.texts}


# Cells


@pytest.mark.parametrize("genotype", random_genotypes(4), ids=lambda genotype: genotype.key)
def test_a_drawing_holds_every_node_and_operation_of_the_genotype(genotype):
    figure = cells_figure(genotype, "title")
    for axes, cell in zip(figure.axes, (genotype.normal, genotype.reduction), strict=True):
        texts = by_gid(axes)
        assert {"cell k−2", "cell k−1", "output"} < set(texts)
        assert len(texts) == 1 + 2 + 1 + 3 * len(cell)  # title, inputs, output; a node and its operations
        for i, node in enumerate(cell, 1):
            assert texts[f"node {i}"].get_text() == str(i)
            for j, gene in enumerate(node, 1):
                assert texts[f"node {i} operation {j}"].get_text() == operation_label(gene.op)


@pytest.mark.parametrize("genotype", random_genotypes(4), ids=lambda genotype: genotype.key)
def test_every_operation_is_wired_to_the_state_it_reads(genotype):
    figure = cells_figure(genotype, "title")
    for axes, cell in zip(figure.axes, (genotype.normal, genotype.reduction), strict=True):
        texts = by_gid(axes)
        lines = [line.get_xydata() for line in axes.lines]
        trunks = [line for line in lines if len(line) == 3 and line[0][1] == line[1][1]]
        states = ["cell k−2", "cell k−1", *(f"node {i + 1}" for i in range(len(cell)))]
        for (i, node), j in itertools.product(enumerate(cell, 1), (0, 1)):
            x, y = texts[f"node {i} operation {j + 1}"].get_position()
            (branch,) = [b for b in lines if len(b) == 2 and b[0][1] == b[1][1] == y and b[0][0] < x]
            (trunk,) = [t for t in trunks if t[1][0] == branch[0][0]]
            assert trunk[0][1] < y <= trunk[2][1]
            assert trunk[0][1] == texts[states[node[j].source]].get_position()[1]


def test_labels_of_four_nodes_neither_overlap_nor_leave_the_picture():
    for genotype in random_genotypes(6):
        figure = cells_figure(genotype, f"front-1 ({genotype.key}), 123.45 KiB")
        renderer = FigureCanvasAgg(figure).get_renderer()
        texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
        boxes = [text.get_window_extent(renderer) for text in texts]
        for (a, box), (b, other) in itertools.combinations(zip(texts, boxes, strict=True), 2):
            assert not box.overlaps(other), (a.get_text(), b.get_text())
        for text, box in zip(texts, boxes, strict=True):
            inside = figure.bbox
            assert inside.x0 <= box.x0 < box.x1 <= inside.x1, text.get_text()
            assert inside.y0 <= box.y0 < box.y1 <= inside.y1, text.get_text()


def test_operation_labels_fit_their_boxes_and_no_two_boxes_overlap():
    (genotype,) = random_genotypes(1)
    figure = cells_figure(genotype, "title")
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        boxes = [patch.get_window_extent(renderer) for patch in axes.patches]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        for text in axes.texts:
            if text.get_gid() != "title":
                extent = text.get_window_extent(renderer)
                assert any(
                    b.x0 <= extent.x0 and extent.x1 <= b.x1 and b.y0 <= extent.y0 and extent.y1 <= b.y1 for b in boxes
                ), text.get_text()


@pytest.mark.parametrize("layout", [STAIRCASE, STACKED], ids=["staircase", "stacked"])
@pytest.mark.parametrize("nodes", [1, 4, 8])
def test_no_label_overlaps_another_and_no_wire_runs_through_a_box(nodes, layout):
    (genotype,) = random_genotypes(1, SearchSpace(nodes=nodes))
    figure = cell_chart(genotype.normal, "normal cell", layout)
    (axes,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text.get_window_extent(renderer) for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(texts, 2))
    assert all(figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1 for box in texts)
    boxes = [patch.get_window_extent(renderer).padded(-2) for patch in axes.patches]
    for line in axes.lines:
        points = line.get_transform().transform(line.get_xydata())
        for (ax, ay), (bx, by) in itertools.pairwise(points if line.get_linestyle() != "None" else []):
            wire = Bbox.from_extents(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
            touched = [
                box for box in boxes if wire.x0 < box.x1 and box.x0 < wire.x1 and wire.y0 < box.y1 and box.y0 < wire.y1
            ]
            assert all(box.contains(ax, ay) or box.contains(bx, by) or line.get_zorder() == 1 for box in touched)


ALL_OPERATIONS = sorted({op for ops in OPERATIONS.values() for op in ops})


def brightness(colour):
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def test_parameter_free_operations_are_pale_and_weighted_ones_dark():
    for op in ALL_OPERATIONS:
        if op in PARAMETER_FREE:
            assert brightness(operation_colour(op)) > 0.8, op
        else:
            assert brightness(operation_colour(op)) < 0.5, op


@pytest.mark.parametrize("space", OPERATIONS)
def test_operations_of_a_space_differ_in_label_and_colour(space):
    ops = OPERATIONS[space]
    assert len({operation_label(op) for op in ops}) == len(ops)
    assert len({operation_colour(op) for op in ops}) == len(ops)


# Plots


@pytest.fixture(scope="module")
def found():
    return finished_run.front(random.Random(0))


@pytest.fixture(scope="module")
def networks(found):
    return finished_run.networks(found, random.Random(1))


@pytest.fixture(scope="module")
def generations():
    return finished_run.generations(random.Random(2))


def dots(axes):
    return [line for line in axes.lines if line.get_linestyle() == "None"]


def test_errors_are_in_per_cent_over_kib(found, networks):
    scored = [n for n in networks if n.supernet_error is not None]
    in_the_supernet = [
        *((m.size_bytes / 1024, 100 * m.error) for m in found.members),
        *((n.size_bytes / 1024, 100 * n.supernet_error) for n in scored),
    ]
    assert 0 < len(scored) < len(networks)
    for figure, expected in (
        (charts.search_front_chart(found, networks), in_the_supernet),
        (charts.front_chart(networks), [(n.size_bytes / 1024, 100 * n.test_error) for n in networks]),
    ):
        (axes,) = figure.axes
        drawn = np.concatenate([line.get_xydata() for line in dots(axes)])
        assert np.allclose(sorted(drawn.tolist()), sorted(expected))
        assert axes.get_xscale() == "log"


def test_roles_keep_their_colour_and_marker_and_differ_in_both(networks):
    assert len(set(ROLE_COLOURS.values())) == len(set(ROLE_MARKERS.values())) == len(ROLES)
    roles = {charts.POINT + network.name: network.role for network in networks}
    for figure in (charts.front_chart(networks), charts.estimate_chart(networks, "supernet_error")):
        for dot in dots(figure.axes[0]):
            role = roles[dot.get_gid()]
            assert dot.get_color() == ROLE_COLOURS[role]
            assert dot.get_marker() == ROLE_MARKERS[role]
        assert {text.get_text() for text in figure.legends[0].get_texts()} <= set(ROLE_NAMES.values())


def test_every_generation_has_a_panel_and_every_stage_its_own_rows(generations, found):
    figure = charts.population_chart(generations, found)
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == len(generations)
    rows = {}
    for axes in panels:
        rows.setdefault(round(axes.get_subplotspec().rowspan.start), set()).add(axes.title.get_color())
    assert all(len(colours) == 1 for colours in rows.values())


def test_of_many_generations_a_selection_with_every_stage_s_last_is_shown(generations, found):
    many = [dataclasses.replace(r, generation=i, members=r.members[:4]) for i, r in enumerate(generations * 9, 1)]
    many.sort(key=lambda record: ("stage1", "stage2", "search").index(record.stage))
    panels = [axes for axes in charts.population_chart(many, found).axes if axes.axison]
    assert len(panels) <= 32
    titles = [axes.get_title(loc="left") for axes in panels]
    last = {record.stage: record.generation for record in many}
    assert {f"{name}: {last[stage]}" for stage, name in STAGE_NAMES.items()} <= set(titles)


def test_shares_of_operations_add_up_to_all_edges(generations):
    (axes,) = charts.operations_chart(generations).axes
    tops = np.sum([[bar.get_height() for bar in container] for container in axes.containers], axis=0)
    assert tops == pytest.approx(np.full(len(generations), 100.0))


def test_runs_without_supernet_stages_or_scores_can_be_drawn(generations, networks):
    only_search = [record for record in generations if record.stage == "search"][:1]
    unscored = [dataclasses.replace(network, supernet_error=None) for network in networks]
    charts.render(charts.operations_chart(only_search), "svg")
    charts.render(charts.estimate_chart(unscored, "supernet_error"), "svg")
    charts.render(charts.supernet_chart({"stage1": (), "stage2": ()}), "svg")


@pytest.mark.parametrize("file_format", ["svg", "png"])
def test_a_picture_is_the_same_bytes_whatever_the_user_s_settings(file_format, networks):
    expected = charts.render(charts.estimate_chart(networks, "supernet_error"), file_format)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "svg.hashsalt": "other"}):
        before = dict(matplotlib.rcParams)
        assert charts.render(charts.estimate_chart(networks, "supernet_error"), file_format) == expected
        assert dict(matplotlib.rcParams) == before
    assert b"<dc:date>" not in expected


def test_indicators_show_what_the_records_say(generations, found, tmp_path):
    finished_run.write(tmp_path)
    run = finished_run.read(tmp_path)
    rows = generation_indicators(run, 10)
    left, right = (charts.indicator_chart(rows, name).axes[0] for name in ("hypervolume", "size_coverage"))
    lines = {line.get_label(): line.get_ydata() for line in left.lines}
    assert list(lines["front, as scored then"]) == [row.hypervolume for row in rows]
    assert list(lines["front, final supernet"]) == [row.rescored_hypervolume for row in rows]
    lines = {line.get_label(): line.get_ydata() for line in right.lines}
    assert list(lines["whole population"]) == [row.population_coverage for row in rows]
