"""The benchmarks' modules: they import what there is, and whatever is measured is written down."""

from __future__ import annotations

from tests.benchmarks import __main__ as benchmarks


def test_every_section_and_study_has_a_text_and_figures_of_its_own():
    sections = {**benchmarks.SECTIONS, **benchmarks.STUDIES}
    assert sections.keys() == benchmarks.TEXTS.keys()
    figures = [name for measures in sections.values() for name in measures]
    assert len(set(figures)) == len(figures)
