"""Where the networks on trial come from, by `trial.source`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnas.records.search import read_front
from bnas.records.trial import read_trial
from pipeline import build
from pipeline.config import dataset
from pipeline.params import load
from pipeline.trial import finished_trial, plan_of
from tests.imports import ROOT
from tests.pipeline.conftest import Searched
from tests.pipeline.forks import Forks


def tried(searched: Searched, forks: Forks, folder: Path, source: str) -> Path:
    """A run whose trial had this source."""
    folder = searched.before("trial", folder)
    path = folder / "params.yaml"
    text = path.read_text()
    assert text.count("source: search\n") == 1
    path.write_text(text.replace("source: search\n", f"source: {source}\n"))
    done = forks.run(folder, "trial")
    assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize(
    ("source", "first", "later", "seen"),
    [
        ("search", {"search", "random"}, {"offspring", "random"}, True),
        ("evolution", {"random"}, {"offspring", "random"}, False),
        ("random", {"random"}, {"random"}, False),
    ],
)
def test_networks_come_from_where_the_source_says_and_only_with_the_search_the_supernet_scores_them(
    searched: Searched, forks: Forks, tmp_path: Path, source: str, first: set[str], later: set[str], seen: bool
) -> None:
    folder = tried(searched, forks, tmp_path / "run", source)
    section = load(folder / "params.yaml").trial
    short = [each for each in read_trial(folder / "data/trial/networks.json") if each.epochs == section.epochs]
    assert len(short) == section.population * (section.generations + 1)
    assert {each.origin for each in short[: section.population]} == first
    bred = {each.origin for each in short[section.population :]}
    assert bred <= later
    assert ("offspring" in bred) == ("offspring" in later), "half of the candidates at most are random"
    assert {each.supernet_error is not None for each in short} == {seen}
    assert read_front(folder / "data/trial/front.json").members


def test_without_a_trial_the_front_of_the_search_is_handed_over(
    searched: Searched, forks: Forks, tmp_path: Path
) -> None:
    folder = tried(searched, forks, tmp_path / "run", "none")
    assert read_trial(folder / "data/trial/networks.json") == ()
    assert read_front(folder / "data/trial/front.json") == read_front(folder / "data/search/front.json")


@pytest.mark.parametrize("source", ["search", "evolution"])
def test_a_finished_trial_says_again_what_it_said_of_its_networks(
    searched: Searched, forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    folder = tried(searched, forks, tmp_path / "run", source)
    monkeypatch.chdir(folder)
    trial = finished_trial(build.problem(load("params.yaml"), dataset()))
    assert trial is not None
    records = read_trial(folder / "data/trial/networks.json")
    assert {each.epochs for each in records} == set(trial.estimates)
    for each in records:
        assert trial.estimates[each.epochs][each.genotype] == each.estimate
    front = [member.genotype for member in read_front(folder / "data/trial/front.json").members]
    last = {each.genotype: each.estimate for each in records if each.epochs == trial.longest}
    assert trial.final(front) == [last[genotype] for genotype in front]


def test_random_search_has_no_children_and_chooses_none() -> None:
    section = load(ROOT / "params.yaml").trial
    plan = plan_of(section.model_copy(update={"source": "random"}))
    rates = (plan.variation.crossover, plan.variation.mutation_rate, plan.variation.random_share, plan.candidates)
    assert rates == (0, 0, 1, 1)
    assert plan_of(section.model_copy(update={"source": "evolution"})) == plan_of(section)
