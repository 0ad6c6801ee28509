"""Places in memory: nothing that is in use is overwritten."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.space import places
from bnas.space import schedule as schedules
from bnas.space.genotype import Gene, Genotype
from bnas.space.layout import Classifier, Concat, Pool, Shape, Shuffle, Stem, Step, Sum, elements, layout
from bnas.space.network_config import NetworkConfig
from bnas.space.places import Span, arranged
from bnas.space.schedule import schedule, spare_words
from tests.bnas.packed import builders

spans = st.builds(
    lambda offset, size, first, more: Span(offset, size, first, first + more),
    st.integers(-6, 6),
    st.integers(1, 9),
    st.integers(0, 8),
    st.integers(0, 4),
)


@settings(deadline=None)
@given(st.lists(st.lists(spans, min_size=1, max_size=3), min_size=1, max_size=8))
def test_spans_of_two_units_that_meet_share_nothing(units):
    found = arranged(units)
    placed = [[span.moved(start) for span in unit] for unit, start in zip(units, found.starts, strict=True)]
    assert min(span.offset for unit in placed for span in unit) >= 0
    assert max(span.offset + span.size for unit in placed for span in unit) == found.total
    for one, other in itertools.combinations(placed, 2):
        assert not [1 for a in one for b in other if a.meets(b) and a.overlaps(b)]


def test_pieces_of_one_moment_lie_one_after_another_and_those_of_different_moments_on_each_other():
    assert arranged([[Span(0, size, 0, 0)] for size in (3, 1, 4)]).total == 8
    assert arranged([[Span(0, size, size, size)] for size in (3, 1, 4)]).total == 4


def test_a_hole_is_filled():
    # In order of time the long one of moment 2 lies behind both others; it fits where the first was.
    units = [[Span(0, 4, 0, 1)], [Span(0, 2, 1, 3)], [Span(0, 4, 2, 3)]]
    assert arranged(units).total == 6


class Names:
    """What every map would hold if its values were names: of the map that they were made for, and where there."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.of: dict[int, list[object]] = {}
        self.sum_of = {
            source: i for i, s in enumerate(steps, 1) if isinstance(s, Sum) for source in (s.source, s.other)
        }
        for index, step in enumerate(steps, 1):
            if isinstance(step, Concat):
                self.of[index] = [name for source in step.sources for name in self.of[source]]
            elif isinstance(step, Shuffle):
                self.of[index] = shuffled(self.of[step.source], step.shape.channels, step.groups)
            else:
                self.of[index] = [(index, i) for i in range(elements(step.out))]


def shuffled(names: Sequence[object], channels: int, groups: int) -> list[object]:
    """Channel `a · groups + b` is channel `b · (channels / groups) + a`."""
    planes = np.arange(len(names)).reshape(groups, channels // groups, -1).transpose(1, 0, 2).ravel()
    return [names[i] for i in planes]


@pytest.mark.parametrize("most", [schedules.SEARCHED, 0], ids=["searched", "plain"])
@pytest.mark.parametrize("seed", range(16))
def test_every_layer_reads_what_was_made_for_it(seed, most, monkeypatch):
    monkeypatch.setattr(schedules, "SEARCHED", most)
    monkeypatch.setattr(places, "MANY", most)
    space = ("bnas", "darts")[seed % 2]
    config = NetworkConfig(1 + seed % 3, 3, (3, 4, 8)[seed % 3], 3 + seed % 3, stem_stride=(1, 2, 4)[seed // 3 % 3])
    steps = builders.steps_of(config, 1 + seed % 4, (13, 9), seed, space)
    plan, names = schedule(steps), Names(steps)
    memory: list[object] = [None] * plan.words
    for operation in plan.operations:
        step, made = operation.step, operation.index + 1
        if step.source and not (isinstance(step, Pool) and step.kind == "none"):
            seen = memory[operation.source : operation.source + elements(step.shape)]
            assert shuffled(seen, step.shape.channels, operation.shuffle) == names.of[step.source]
        memory[operation.spare : operation.spare + spare_words(step)] = ["spare"] * spare_words(step)
        if isinstance(step, Classifier):
            continue
        place = slice(operation.out, operation.out + elements(step.out))
        total = names.sum_of.get(made)
        half = [("half", total, i) for i in range(elements(step.out))]
        if operation.add:
            assert memory[place] == half
            memory[place] = names.of[total]
        else:
            memory[place] = names.of[made] if total is None else half
    layers = [i for i, step in enumerate(steps) if not isinstance(step, Sum | Concat | Shuffle)]
    assert sorted(operation.index for operation in plan.operations) == layers


@pytest.mark.parametrize(
    ("step", "words"),
    [
        # Of a pixel, 8 floats; what an output sees of it, 200 bits in 7 words, twice; 14 · 14 · 8 signs in 49 words.
        (builders.block_step(8, 8, (14, 14), kernel=5), 8 + 2 * 7 + 49),
        # The same by groups of four: 100 bits in 4 words.
        (builders.block_step(8, 8, (14, 14), kernel=5, groups=2), 8 + 2 * 4 + 49),
        # 40 bits in 2 words, and no signs.
        (builders.block_step(40, 8, (14, 14), kernel=1), 40 + 2 * 2),
        (Stem("stem", 0, Shape(3, 9, 9), Shape(4, 9, 9), 1), 27),
        (Pool("pool", 0, Shape(3, 9, 7), Shape(3, 9, 7), "avg", 1), 14),
        (Pool("pool", 0, Shape(3, 9, 7), Shape(3, 5, 4), "avg", 2), 0),
    ],
    ids=str,
)
def test_what_a_layer_needs_beside_its_maps_is_as_counted_by_hand(step, words):
    assert spare_words(step) == words


def test_a_chain_of_cells_holds_three_maps_at_once():
    # One node a cell, which adds both states: the map before the cell, one state, and the node that was the other.
    # 9 · 9 · 4 floats each; beside them a block's 4 floats, and 4 bits in a word, twice.
    cell = ((Gene(0, "skip_connect"), Gene(1, "skip_connect")),)
    steps = layout(NetworkConfig(1, 3, 4, 9), Genotype(cell, cell), 9, 9)
    first_reduction = next(i for i, step in enumerate(steps) if step.name == "cells.2.preprocess.0")
    assert schedule(steps[:first_reduction]).words == 3 * 324 + 4 + 2
