"""Pictures of cells: a layout in which no label can overlap another and no line can run under a label.

A state's value runs down a vertical line, from which each operation that reads it branches off to the right; the
operations of a node stand directly left of it, in rows of their own. So lines cross at right angles or not at all, and
a dot marks where one branches off. States stand on a staircase, inputs first, or, where there is little width, below
each other: then a node's value returns to its line through the gap between two rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from bnas.report.axes import styled
from bnas.space.genotype import CELL_INPUTS, Genotype, Node
from bnas.space.operations import OPERATION, PARAMETER_FREE

_INPUTS = ("cell k−2", "cell k−1")
_LINE, _OUTPUT_LINE = "#555555", "#B5B5B5"
_DARK_INK = "#202020"  # on pale boxes, whatever the colour of other letters

# Inches: the axes are drawn to scale, so that text of a fixed size always fits its box.
_BOX_WIDTH, _BOX_HEIGHT = 0.76, 0.24
_INPUT_WIDTH, _INPUT_ROW = 0.70, 0.36
_INPUT_LINES = (0.95, 0.83)
_GENE_OFFSET = 0.15
_FIRST_COLUMN, _FIRST_ROW = 1.10, 0.88
_NODE_X, _NODE_RADIUS = 1.10, 0.13
_OUTPUT_WIDTH, _MARGIN, _TITLE = 0.26, 0.12, 0.34
_TEXT = 9.0


def operation_label(op: str) -> str:
    """A short name: `bin_dil_conv_3x3` → `dil 3×3`."""
    return OPERATION[op].label


def operation_colour(op: str) -> str:
    """The colour that stands for an operation in every figure: pale if it has no weights."""
    return OPERATION[op].colour


def cell_words(genotype: Genotype) -> str:
    """Both cells in words, for those who cannot see them."""

    def words(nodes: Sequence[Node]) -> str:
        return "; ".join(" + ".join(f"{operation_label(op)} of {_state_name(at)}" for at, op in n) for n in nodes)

    return f"Normal: {words(genotype.normal)}. Reduction: {words(genotype.reduction)}."


def _state_name(index: int) -> str:
    return _INPUTS[index] if index < CELL_INPUTS else f"node {index - CELL_INPUTS + 1}"


@dataclass(frozen=True)
class Layout:
    """The places of nodes: `column` and `row` inches from each other; a column of 0 puts them below each other."""

    column: float
    row: float

    def op_x(self, node: int) -> float:
        """Left end of a node's operations."""
        return _FIRST_COLUMN + node * self.column

    def line_x(self, state: int) -> float:
        """The vertical line of a state's value."""
        if state < CELL_INPUTS:
            return _INPUT_LINES[state]
        node = state - CELL_INPUTS
        return self.op_x(node) + 1.34 if self.column else 0.68 - 0.085 * node

    def right(self, nodes: int) -> float:
        """Left end of the output."""
        return self.op_x(nodes) if self.column else self.op_x(0) + _NODE_X + 0.34

    def y(self, state: int) -> float:
        """Height of a state."""
        return state * _INPUT_ROW if state < CELL_INPUTS else _FIRST_ROW + (state - CELL_INPUTS) * self.row

    def gene_y(self, node: int, gene: int) -> float:
        """Height of an operation."""
        return self.y(CELL_INPUTS + node) + (_GENE_OFFSET if gene else -_GENE_OFFSET)

    def size(self, nodes: int) -> tuple[float, float]:
        """Width and height in inches of a cell's picture."""
        width = self.right(nodes) + _OUTPUT_WIDTH + 2 * _MARGIN
        return width, _TITLE + _FIRST_ROW + (nodes - 1) * self.row + 0.3 + 2 * _MARGIN


STAIRCASE, STACKED = Layout(1.46, 0.62), Layout(0.0, 0.74)


@styled
def cell_chart(nodes: Sequence[Node], title: str, layout: Layout) -> Figure:
    """One cell."""
    figure = Figure(figsize=layout.size(len(nodes)), facecolor="none")
    draw_cell(figure.add_axes((0, 0, 1, 1)), nodes, title, layout)
    return figure


@styled
def cells_figure(genotype: Genotype, title: str) -> Figure:
    """Both cells of a genotype side by side."""
    width, height = STAIRCASE.size(genotype.nodes)
    heading = 0.4
    figure = Figure(figsize=(2 * width, height + heading), facecolor="white")
    figure.text(_MARGIN / (2 * width), 1 - 0.16 / (height + heading), title, fontsize=12, va="top", ha="left")
    cells = (("normal cell", genotype.normal), ("reduction cell", genotype.reduction))
    for i, (name, nodes) in enumerate(cells):
        draw_cell(figure.add_axes((i / 2, 0, 0.5, height / (height + heading))), nodes, name)
    return figure


def draw_cell(axes: Axes, nodes: Sequence[Node], title: str, layout: Layout = STAIRCASE) -> None:
    """One cell on axes of `layout.size` inches; the axes become a drawing sheet in inches, y downwards."""
    width, height = layout.size(len(nodes))
    axes.set_xlim(-_MARGIN, width - _MARGIN)
    axes.set_ylim(height - _MARGIN - _TITLE, -_MARGIN - _TITLE)
    axes.axis("off")
    axes.text(0, -_TITLE, title, fontsize=10.5, color="#333333", va="center", ha="left", gid="title")
    right = layout.right(len(nodes))
    for state in range(CELL_INPUTS + len(nodes)):
        readers = [
            (layout.gene_y(i, j), layout.op_x(i), gene.op)
            for i, node in enumerate(nodes)
            for j, gene in enumerate(node)
            if gene.source == state
        ]
        _draw_wires(axes, layout, state, readers, right)
    for i, node in enumerate(nodes):
        for j, gene in enumerate(node):
            _draw_operation(axes, layout, i, j, gene.op)
        x, y = layout.op_x(i) + _NODE_X, layout.y(CELL_INPUTS + i)
        outline = {"facecolor": "white", "edgecolor": "#222222", "linewidth": 1.2}
        axes.add_patch(Circle((x, y), _NODE_RADIUS, zorder=3, clip_on=False, **outline))
        _label(axes, x, y, str(i + 1), gid=f"node {i + 1}")
    for state, name in enumerate(_INPUTS):
        _box(axes, 0, layout.y(state), _INPUT_WIDTH, _BOX_HEIGHT, "#FFFFFF")
        _label(axes, _INPUT_WIDTH / 2, layout.y(state), name, gid=name)
    top, bottom = layout.y(CELL_INPUTS) - 0.28, layout.y(CELL_INPUTS + len(nodes) - 1) + 0.28
    _box(axes, right, (top + bottom) / 2, _OUTPUT_WIDTH, bottom - top, "#F2F2F2")
    _label(axes, right + _OUTPUT_WIDTH / 2, (top + bottom) / 2, "output", gid="output", rotation=90)


def _draw_wires(
    axes: Axes, layout: Layout, state: int, readers: Sequence[tuple[float, float, str]], right: float
) -> None:
    """Draw the lines from a state to the operations that read it (y, x, op) and, for a node, to the output."""
    y, line = layout.y(state), layout.line_x(state)
    is_node = state >= CELL_INPUTS
    start = layout.op_x(state - CELL_INPUTS) + _NODE_X if is_node else _INPUT_WIDTH
    if is_node:
        axes.plot((start, right), (y, y), color=_OUTPUT_LINE, linewidth=1.2, zorder=1, clip_on=False)
    if not readers:
        return
    deepest = max(reader_y for reader_y, _, _ in readers)
    dots = [reader_y for reader_y, _, _ in readers if reader_y < deepest]
    path: tuple[tuple[float, ...], tuple[float, ...]]
    if is_node and line < start:
        gap = y + layout.row / 2
        path = ((start, start, line, line), (y, gap, gap, deepest))
    else:
        path = ((start, line, line), (y, y, deepest))
        dots += [y] if is_node else []
    axes.plot(*path, color=_LINE, linewidth=1.3, zorder=1.5, clip_on=False)
    axes.plot([line] * len(dots), dots, "o", color=_LINE, markersize=3.6, zorder=1.9, clip_on=False)
    for reader_y, reader_x, op in readers:
        shade = "#A8A8A8" if op in PARAMETER_FREE else operation_colour(op)
        axes.plot((line, reader_x), (reader_y, reader_y), color=shade, linewidth=1.8, zorder=1.7, clip_on=False)


def _draw_operation(axes: Axes, layout: Layout, node: int, gene: int, op: str) -> None:
    x, y = layout.op_x(node), layout.gene_y(node, gene)
    axes.plot(
        (x + _BOX_WIDTH, x + _NODE_X),
        (y, layout.y(CELL_INPUTS + node)),
        color=_LINE,
        linewidth=1.3,
        zorder=1.5,
        clip_on=False,
    )
    _box(axes, x, y, _BOX_WIDTH, _BOX_HEIGHT, operation_colour(op))
    gid = f"node {node + 1} operation {gene + 1}"
    ink = _DARK_INK if op in PARAMETER_FREE else "white"
    _label(axes, x + _BOX_WIDTH / 2, y, operation_label(op), gid=gid, color=ink)


def _label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, fontsize=_TEXT, ha="center", va="center", zorder=4, **style)


def _box(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=colour,
            edgecolor="#222222",
            linewidth=0.8,
            zorder=3,
            clip_on=False,
        )
    )
