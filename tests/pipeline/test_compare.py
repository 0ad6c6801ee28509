"""Runs of a git repository side by side, as `python -m pipeline.compare` reads them."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
import scipy
import yaml

from pipeline import compare
from pipeline.stage import write_json
from tests.imports import ROOT


def git(*arguments):
    identity = ("-c", "user.email=test@example.org", "-c", "user.name=test")
    done = subprocess.run(("git", *identity, *arguments), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write_run(seed, best_error):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["retrain"]["seed"] = seed
    point = {"network": "front-1", "role": "front", "size_kib": 6.5, "test_error": best_error}
    write_json(compare.PARETO, [point])
    write_json(compare.METRICS[0], {"best_error": best_error, "tau": None})
    compare.PARAMS.write_text(yaml.safe_dump(params))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """`main` has a run, an experiment named quiet-owl another, the first commit none; the workspace is main's."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "nothing yet")
    git("tag", "empty")
    write_run(1, 0.05)
    git("add", "-A")
    git("commit", "-q", "-m", "an experiment")
    commit = git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/quiet-owl", commit)
    write_run(0, 0.04)
    git("commit", "-qam", "a run")
    return tmp_path


def test_indicators_and_parameters_that_differ_stand_side_by_side(repository, capsys):
    assert compare.main(["main", "quiet-owl"]) == 0
    out = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    rows = {name: values for name, *values in lines}
    assert rows["best_error"] == ["0.04", "0.05"]
    assert rows["retrain.seed"] == ["0", "1"]
    assert rows["tau"] == ["–", "–"]
    assert not [name for name in rows if name.startswith("stage1")]
    page = (repository / "reports/compare.html").read_text()
    assert "retrain.seed" in page
    assert "quiet-owl" in page


def test_pairs_of_all_runs_are_pooled(repository, capsys):
    errors = {"front-1": 0.04, "random-1": 0.05, "random-1-2": 0.07, "front-2": 0.03, "random-2": 0.02, "front-3": 0.01}
    points = [
        {"network": name, "role": name.split("-")[0], "size_kib": 5 + i, "test_error": error}
        for i, (name, error) in enumerate(errors.items())
    ]
    write_json(compare.PARETO, points)
    git("commit", "-qam", "two pairs: -2 and +1 points")
    points[0]["test_error"] = 0.02
    write_json(compare.PARETO, points)
    assert compare.main(["main"]) == 0  # with the workspace: -4 and +1 points
    out = capsys.readouterr().out
    expected = scipy.stats.t.interval(0.95, 3, -1, np.std([-2, 1, -4, 1], ddof=1) / 2)
    assert f"4 pairs: test error -1.00 points (95 %: {expected[0]:+.2f} to {expected[1]:+.2f}), median -0.50" in out
    assert "run by run -0.50, -1.50" in out
    assert "4 pairs: test error -1.00 points" in (repository / "reports/compare.html").read_text()


def test_a_search_for_balanced_errors_is_judged_by_them(repository, capsys):
    plain, balanced = (
        {"front": 0.03, "random": 0.02},
        {"front-1": 0.2, "front-2": 0.22, "random-1": 0.3, "random-2": 0.3},
    )
    points = [
        {"network": f"{role}-{i}", "role": role, "size_kib": 5.0, "test_error": plain[role]}
        for role in plain
        for i in (1, 2)
    ]
    write_json(compare.PARETO, points)
    git("commit", "-qam", "plain")
    compare.PARAMS.write_text(compare.PARAMS.read_text().replace("error: plain", "error: balanced"))
    write_json(compare.PARETO, [{**point, "size_kib": 6.0} for point in points])
    git("commit", "-qam", "of before balanced errors were kept")
    write_json(compare.PARETO, [{**point, "balanced_error": balanced[point["network"]]} for point in points])
    assert compare.main(["HEAD"]) == 0
    worth = capsys.readouterr().out.splitlines()[2]
    assert "2 pairs: balanced test error -9.00 points" in worth
    assert worth.endswith("; left out, its balanced errors were not kept: HEAD")
    assert compare.main(["HEAD~1", "workspace"]) == 0
    worth = capsys.readouterr().out.splitlines()[2]
    assert "4 pairs: balanced test error or test error -4.00 points" in worth
    assert worth.endswith("run by run +1.00, -9.00")


def test_runs_are_compared_with_their_rivals_at_equal_size(repository, capsys):
    def commit(name, errors, sizes, hypervolume):
        points = [
            {"network": f"front-{i}", "role": "front", "size_kib": size, "test_error": error}
            for i, (error, size) in enumerate(zip(errors, sizes, strict=True), 1)
        ]
        write_json(compare.PARETO, points)
        write_json(compare.METRICS[0], {"hypervolume": hypervolume})
        git("add", "-A")
        git("commit", "-qm", name)
        git("tag", name)

    commit("ours-0", (0.08, 0.04), (2, 8), 0.9)
    commit("ours-1", (0.08, 0.04), (2, 8), 0.8)
    commit("rival-0", (0.09, 0.06), (4, 16), 0.7)  # at 4 KiB 9 against 6 %, at 8 KiB 7.5 against 4 %
    commit("rival-1", (0.05, 0.03), (2, 8), 0.81)  # at 2 KiB 5 against 8 %, at 8 KiB 3 against 4 %
    assert compare.main(["ours-0", "ours-1", "--against", "rival-0", "rival-1"]) == 0
    volume, error, *rest = capsys.readouterr().out.splitlines()[2:]
    indicators = [line.split()[1:-1] for line in rest if line.startswith("| indicator")]
    assert [[name for name in line if name != "|"][2:] for line in indicators] == [
        ["ours-0", "ours-1"],
        ["rival-0", "rival-1"],
    ]
    low, high = scipy.stats.t.interval(0.95, 1, 0.095, 0.105)
    assert f"+0.0950 (95 %: {low:+.4f} to {high:+.4f}); one by one +0.2000, -0.0100; higher in 1 of 2" in volume
    assert error.endswith("one by one -3.25, +2.00")
    assert error.startswith("Test error at equal size, these runs minus those, in points: -0.62 (95 %")
    assert compare.main(["ours-0", "--against", "rival-0"]) == 0
    assert "+0.2000; higher in 1 of 1" in capsys.readouterr().out
    assert compare.main(["ours-0", "ours-1", "--against", "rival-0"]) == 2
    assert "--against: expected as many rivals as runs, 2, found 1" in capsys.readouterr().err


def test_a_run_under_two_names_is_pooled_once(repository, capsys):
    points = [
        {"network": f"{role}-{i}", "role": role, "size_kib": 5.0, "test_error": error}
        for role, errors in {"front": (0.01, 0.02), "random": (0.02, 0.04)}.items()
        for i, error in enumerate(errors, 1)
    ]
    write_json(compare.PARETO, points)
    git("commit", "-qam", "two pairs")
    assert compare.main(["main"]) == 0
    assert "2 pairs: test error -1.50 points" in capsys.readouterr().out


def test_without_pairs_nothing_is_said_to_be_worth_anything(repository, capsys):
    assert compare.main(["main", "quiet-owl"]) == 0
    assert "too few of them were retrained" in capsys.readouterr().out


def test_what_was_not_found_is_said(repository, capsys):
    compare.main(["main", "quiet-owl"])
    out = capsys.readouterr().out
    assert "Not found in main: " in out
    assert "reports/metrics/search.json" in out
    assert "not found" in (repository / "reports/compare.html").read_text()


def test_one_revision_is_compared_with_the_workspace(repository, capsys):
    write_run(7, 0.01)
    assert compare.main(["main", "-o", "elsewhere.html"]) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| parameter"))
    assert [cell.strip() for cell in header.split("|")[2:4]] == ["main", "workspace"]
    assert (repository / "elsewhere.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonesuch"], r"nonesuch: expected a git revision or an experiment \(of these there are: quiet-owl\)"),
        (["main", "empty"], "empty: expected a finished run, found no reports/plots/pareto.json there"),
        (["workspace"], "expected two different runs"),
        (["--", "-x"], "-x: expected a git revision"),
    ],
)
def test_what_cannot_be_compared_is_one_line(repository, capsys, arguments, message):
    assert compare.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert not (repository / "reports/compare.html").exists()


def test_an_experiment_s_name_that_two_have_is_refused(repository, capsys):
    commit = git("rev-parse", "main")
    git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/quiet-owl", commit)
    assert compare.main(["quiet-owl"]) == 2
    assert "expected one experiment, found 2" in capsys.readouterr().err


HOSTILE = '[{"network": "\\u001b[2J\\nx", "role": "front", "size_kib": 1.0, "test_error": 0.1}]'


@pytest.mark.parametrize("content", ["{", "[]", '[{"network": "a"}]', '{"front": 1}', HOSTILE])
def test_a_damaged_file_is_one_line_too(repository, capsys, content):
    compare.PARETO.write_text(content)
    assert compare.main(["main", "workspace"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("compare: workspace")
    assert err.count("\n") == 1


def test_the_page_goes_into_a_folder_under_its_usual_name(repository, capsys):
    (repository / "pages").mkdir()
    assert compare.main(["main", "quiet-owl", "-o", "pages"]) == 0
    assert capsys.readouterr().out.startswith("Comparison: pages/compare.html\n")
    assert (repository / "pages/compare.html").exists()


def test_what_a_revision_s_parameters_say_is_printed_as_it_looks_only(repository, capsys):
    changed = compare.PARAMS.read_text().replace("title: ''", 'title: "\\e[2J|\\nbest_error | 0"')
    assert changed != compare.PARAMS.read_text()
    compare.PARAMS.write_text(changed)
    assert compare.main(["main"]) == 0
    out = capsys.readouterr().out
    assert r"\x1b[2J\|\nbest_error \| 0" in out
    assert "\x1b" not in out
    assert "\x1b" not in (repository / "reports/compare.html").read_text()


def test_a_file_is_found_from_below_the_repository_s_folder(repository, monkeypatch, capsys):
    """A project that is a folder of a larger repository."""
    (repository / "project").mkdir()
    monkeypatch.chdir(repository / "project")
    write_run(0, 0.03)
    git("add", "-A")
    git("commit", "-qm", "below")
    assert compare.main(["HEAD", "workspace"]) == 0
    assert "0.03" in capsys.readouterr().out
