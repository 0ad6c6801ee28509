import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import pytest

from bnas import cli
from bnas.records.networks import read_networks
from bnas.records.search import read_front
from bnas.report.network_tables import finished_networks, network_table
from bnas.report.results import best_by_test
from bnas.report.story import search_story
from pipeline import report
from pipeline.params import load
from pipeline.stage import Stage
from tests import finished_run
from tests.imports import ROOT

OPTIMISTIC = "lowest test error of 4 networks: optimistic, chosen by the test split"


def run_report(folder: Path) -> Stage:
    """The report stage in `folder`, without what `pipeline.stage.main` does around it."""
    shutil.copy(ROOT / "params.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_STAGE", raising=False)
        stage = Stage("report", load("params.yaml"), Path("unused"))
        report.run(stage)
    return stage


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    finished_run.write(folder)
    return folder, run_report(folder)


@pytest.fixture(scope="module")
def text(finished):
    return (finished[0] / "reports/report.md").read_text()


def networks_of(folder):
    return read_networks(folder / "data/retrain/networks.json")


def wilson(wrong, total, z=1.959963984540054):
    share = wrong / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return centre - half, centre + half


def test_what_the_search_found_and_what_the_trial_handed_over_are_told_apart(finished, text):
    found, handed_over = (
        len(read_front(finished[0] / f"data/{stage}/front.json").members) for stage in ("search", "trial")
    )
    assert found > handed_over > 0
    chosen = len([network for network in networks_of(finished[0]) if network.role == "front"])
    assert f"The search's front has {found} networks" in text
    assert f"; the trial handed over {handed_over}; {chosen} of them were retrained." in text


@pytest.mark.parametrize(("correlation", "words"), [(0.9731, "by 0.973."), (0.4, "less than the 0.9 expected")])
def test_a_search_for_the_least_time_says_so_and_how_far_its_table_is_to_be_trusted(
    finished, text, monkeypatch, correlation, words
):
    monkeypatch.chdir(finished[0])
    Path("reports/metrics").mkdir(exist_ok=True)
    Path("reports/metrics/latency_table.json").write_text(json.dumps({"latency_correlation": correlation}))
    run = dataclasses.replace(report.read_run("float32"), resource="latency")
    Path("reports/metrics/latency_table.json").unlink()
    told = search_story(run, 10, "", "").markdown("svg")
    assert "the time of one image in the packed network" in told
    assert "second objective f2 (latency over" in told
    assert words in told
    assert words not in text


def test_every_network_stands_in_the_table_with_its_wilson_interval(finished, text):
    for network in networks_of(finished[0]):
        low, high = wilson(network.wrong, network.test_images)
        (row,) = [line for line in text.splitlines() if re.match(rf"\| {network.name} [ †|]", line) and "`" in line]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2] == f"`{network.key}`"
        assert cells[3] == f"{network.size_bytes / 1024:.2f}"
        assert cells[4] == ("-" if network.ram_bytes is None else f"{network.ram_bytes / 1024:.2f}")
        assert cells[8:10] == [f"{100 * network.test_error:.2f}", f"{100 * low:.2f}–{100 * high:.2f}"]


def test_the_network_picked_by_its_test_error_is_called_optimistic_wherever_it_stands(finished, text):
    best = best_by_test(networks_of(finished[0]), lambda network: network.test_error)
    assert f"| {best.name} † " in text
    assert f"† {OPTIMISTIC}" in text
    summary = [line for line in text.splitlines() if line.startswith(f"- {best.name}")]
    assert sum(OPTIMISTIC in line for line in summary) == 1


def test_every_picture_exists_and_has_words_for_those_who_cannot_see_it(finished, text):
    folder, _ = finished
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", text, re.DOTALL)
    assert all(len(words) > 20 and "\n" not in words for words, _ in pictures)
    named = {folder / "reports" / target for _, target in pictures}
    assert named == set((folder / "reports/figures").iterdir())
    assert len(named) == 11 + 4
    assert all(path.read_bytes().startswith(b"<?xml") for path in named)


def test_all_that_was_promised_is_in_the_report(finished, text):
    indicators = (
        "hypervolume",
        "size coverage",
        "Kendall τ-b",
        "McNemar",
        "bootstrap",
        "parameter-free",
        "f2",
    )
    summary = json.loads((finished[0] / "data/search/summary.json").read_text())
    saved = 100 * (1 - summary["image_evaluations"] / summary["image_evaluations_full"])
    from_the_files = (
        f"{summary['evaluations']} distinct architectures",
        f"{saved:.0f} % saved",
        "not recorded",
        "1 min 35 s",
    )
    parameters = ("hand_designed_channels:", "path_dropout:", "size_bins:")
    for promised in (*indicators, *from_the_files, *parameters):
        assert promised in text, promised
    assert "runtime:" not in text


def test_the_report_says_which_run_it_is_of(finished, text):
    page = (finished[0] / "reports/index.html").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("This run: ")]
    assert "seeds data 0, stage1 0, stage2 0, search 0, trial 0, retrain 0; parameters `" in line
    assert line.split("`")[3] in page


def test_the_linear_classifier_stands_beside_the_networks(finished, text):
    folder, _ = finished
    below, above = wilson(120, finished_run.IMAGES)
    said = f"30.00 % test error (95 % interval {100 * below:.2f}–{100 * above:.2f} %). All 11 networks lie below it"
    assert said in text
    assert said in (folder / "reports/index.html").read_text()
    assert "linear classifier" in (folder / "reports/figures/front.svg").read_text()
    run = dataclasses.replace(finished_run.read(folder), linear=None)
    assert "linear" not in search_story(run, 10, "", "").markdown("svg")


def test_metrics_have_short_unique_names_and_are_flat(finished):
    _, stage = finished
    assert set(stage.metrics) == {
        "hypervolume",
        "hypervolume_random",
        "margin_low",
        "margin_high",
        "hv_others",
        "gain",
        "best_error",
        "smallest_kib",
        "tau",
    }
    assert all(isinstance(value, float) for value in stage.metrics.values())


def test_plot_data_holds_every_network_as_numbers(finished):
    rows = json.loads((finished[0] / "reports/plots/pareto.json").read_text())
    assert {row["network"] for row in rows} == {network.name for network in networks_of(finished[0])}
    assert all(isinstance(row["size_kib"], float) and isinstance(row["test_error"], float) for row in rows)


def test_a_second_report_is_the_same_bytes_and_leaves_no_old_picture(finished):
    folder, stage = finished
    files = [path for path in (folder / "reports").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    (folder / "reports/figures/cells-front-9.svg").write_text("of an earlier run")
    again = run_report(folder)
    assert {path: path.read_bytes() for path in (folder / "reports").rglob("*") if path.is_file()} == before
    assert again.metrics == stage.metrics


def test_bad_results_leave_the_report_alone(tmp_path):
    finished_run.write(tmp_path)
    (tmp_path / "data/search/front.json").write_text("{}")
    with pytest.raises(ValueError, match=r"front\.json: ") as refusal:
        run_report(tmp_path)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "reports/report.md").exists()


# The table in the terminal


def print_table(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code = cli.main(["show"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_table_names_every_network_within_100_columns(finished, monkeypatch, capsys):
    folder, _ = finished
    code, out, err = print_table(folder, monkeypatch, capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    for network in networks_of(folder):
        assert any(line.startswith(network.name) and network.key in line for line in lines)
    assert lines[-1] == f"* {OPTIMISTIC}"
    assert out.isascii()


def test_the_table_can_do_without_times(tmp_path, monkeypatch, capsys):
    finished_run.write(tmp_path, times=False)
    code, out, _ = print_table(tmp_path, monkeypatch, capsys)
    assert code == 0
    assert all(line.endswith("  -") for line in out.splitlines() if line.startswith(("front-", "random-", "hand-")))
    assert "not recorded" in network_table(finished_run.read(tmp_path)).markdown()


def test_without_a_finished_run_one_line_says_what_to_do(tmp_path, monkeypatch, capsys):
    code, out, err = print_table(tmp_path, monkeypatch, capsys)
    assert (code, out) == (2, "")
    assert err.startswith(
        "bnas show: no finished run found: data/retrain/networks.json does not exist; run `dvc repro`"
    )
    assert err.count("\n") == 1


def test_a_damaged_result_is_one_line_too(tmp_path, monkeypatch, capsys):
    finished_run.write(tmp_path)
    (tmp_path / "data/retrain/networks.json").write_text("{")
    code, _, err = print_table(tmp_path, monkeypatch, capsys)
    assert code == 2
    assert err.count("\n") == 1
    assert "data/retrain/networks.json" in err


def test_large_networks_fit_the_table_as_well(finished):
    large = {"size_bytes": 9.9e6, "params": 98765432, "ops": 1.7e9}
    made = [
        dataclasses.replace(network, name=f"random-{10 + i}", **large)
        for i, network in enumerate(networks_of(finished[0]))
    ]
    lines = finished_networks(made, {network.name: 4210.0 for network in made}).splitlines()
    assert max(map(len, lines)) <= 100
