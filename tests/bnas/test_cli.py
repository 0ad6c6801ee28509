"""The command line: every command on small packed networks, and one line for everything that cannot be done."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnas import packed
from bnas.cli import main, parser
from bnas.packed.timing import Timing
from bnas.space.network_config import NetworkConfig
from bnas.space.schedule import schedule
from bnas.storage.cache import lock_of, mark
from bnas.storage.files import SUMS
from bnas.storage.lock import lock
from tests.bnas.packed import builders, hostile

COMMANDS = ("list", "pick", "predict", "benchmark", "inspect", "export-onnx", "export-c", "show", "completion")
SIZE = (9, 7)
MODELS = {
    # name → (configuration, nodes, mistakes out of 40)
    "front-1": (NetworkConfig(3, 3, 2, 3), 1, 12),
    "front-2": (NetworkConfig(3, 3, 4, 3), 2, 4),
    "front-3": (NetworkConfig(3, 3, 6, 4), 2, 8),
    "front-4": (NetworkConfig(3, 3, 10, 3), 2, 2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Packed networks of which a larger one is not always a better one."""
    found = tmp_path_factory.mktemp("export")
    for seed, (name, (config, nodes, wrong)) in enumerate(MODELS.items()):
        model = builders.network(config, nodes, seed)
        packed.save(model, found / f"{name}.bnn", builders.card(model, SIZE, name=name, wrong=wrong))
    return found


@pytest.fixture(scope="module")
def model(folder) -> Path:
    return folder / "front-2.bnn"


@pytest.fixture
def run(capsys):
    """Runs a command: (exit status, output, lines on stderr)."""

    def call(*argv: object) -> tuple[int, str, list[str]]:
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return call


def refusal(run, *argv: object) -> str:
    """The one line of stderr of a command that cannot be done; it prints nothing else and returns 2."""
    status, out, errors = run(*argv)
    assert (status, out, len(errors)) == (2, "", 1)
    assert errors[0].startswith(f"bnas {argv[0]}: ")
    return errors[0]


def table(out: str) -> list[dict[str, str]]:
    """A printed table's rows: headings, a rule, lines."""
    headings, rule, *lines = out.splitlines()
    ends = [len(part) for part in rule.split("  ")]
    starts = np.cumsum([0, *(end + 2 for end in ends)]).tolist()
    cut = [(start, start + end) for start, end in zip(starts, ends, strict=False)]
    names = [headings[a:b].strip() for a, b in cut]
    return [dict(zip(names, (line[a:b].strip() for a, b in cut), strict=True)) for line in lines]


# ---------------------------------------------------------------- list and pick


def test_list_shows_every_network_smallest_first(run, folder):
    status, out, errors = run("list", "--folder", folder)
    rows = table(out)
    assert (status, errors) == (0, [])
    assert sorted(row["network"] for row in rows) == sorted(MODELS)
    sizes = [Path(row["file"]).stat().st_size for row in rows]
    assert sizes == sorted(sizes)
    assert [row["KiB"] for row in rows] == [f"{size / 1024:.2f}" for size in sizes]
    assert {row["network"]: row["test %"] for row in rows} == {
        name: f"{100 * wrong / 40:.2f}" for name, (_, _, wrong) in MODELS.items()
    }
    assert all(float(row["ms"]) > 0 for row in rows)


def test_list_as_json_says_what_the_files_hold(run, folder):
    status, out, _ = run("list", "--folder", folder, "--json")
    assert status == 0
    for row in json.loads(out):
        found = packed.read(row["file"])
        assert row["name"] == found.card.network.name
        assert row["genotype"] == found.card.network.key
        assert row["file_bytes"] == found.file_bytes == Path(row["file"]).stat().st_size
        assert row["payload_bytes"] == found.payload_bytes
        assert row["test_error"] == found.card.network.test_error
        assert row["ops"] == found.card.network.ops
        assert row["latency_ms"] > 0


def picked(out: str) -> str:
    return table("\n".join(out.splitlines()[:3]))[0]["network"]


def sizes(folder: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_size for path in folder.glob("*.bnn")}


ERRORS = {name: wrong / 40 for name, (_, _, wrong) in MODELS.items()}
MS = {"front-1": 2.0, "front-2": 3.0, "front-3": 1.0, "front-4": 4.0}


@pytest.fixture
def clock(monkeypatch):
    """Networks take the times of `MS`: they are timed one after another, in the order of their names."""
    times = itertools.cycle(MS[name] / 1000 for name in sorted(MS))
    monkeypatch.setattr("bnas.packed.timing.timed", lambda call, **_: Timing(next(times), 0.0, 1.0, 1))


@pytest.mark.usefixtures("clock")
def test_list_shows_the_time_that_one_image_takes(run, folder):
    _, out, _ = run("list", "--folder", folder)
    assert {row["network"]: float(row["ms"]) for row in table(out)} == MS
    _, out, _ = run("list", "--folder", folder, "--json")
    assert {row["name"]: row["latency_ms"] for row in json.loads(out)} == MS


@pytest.mark.usefixtures("clock")
def test_under_a_bound_on_size_no_network_that_fits_has_a_lower_error(run, folder):
    known = sizes(folder)
    found = []
    for bound in sorted({size + more for size in known.values() for more in (0, 1, 500)}):
        status, out, _ = run("pick", "--folder", folder, "--max-kib", bound / 1024)
        assert status == 0
        name = picked(out)
        assert known[name] <= bound
        assert ERRORS[name] == min(ERRORS[other] for other, size in known.items() if size <= bound)
        found.append(ERRORS[name])
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 1


def memory(folder: Path) -> dict[str, int]:
    return {path.stem: schedule(packed.read(path).card.steps()).bytes for path in folder.glob("*.bnn")}


@pytest.mark.usefixtures("clock")
def test_under_a_bound_on_memory_no_network_that_fits_has_a_lower_error(run, folder):
    known = memory(folder)
    found = []
    for bound in sorted({ram + more for ram in known.values() for more in (0, 1, 500)}):
        _, out, _ = run("pick", "--folder", folder, "--max-ram-kib", bound / 1024)
        name = picked(out)
        assert known[name] <= bound
        assert ERRORS[name] == min(ERRORS[other] for other, ram in known.items() if ram <= bound)
        found.append(ERRORS[name])
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 1


@pytest.mark.usefixtures("clock")
def test_list_shows_the_memory_that_one_image_takes(run, folder):
    known = memory(folder)
    rows = table(run("list", "--folder", folder)[1])
    assert {row["network"]: row["RAM KiB"] for row in rows} == {
        name: f"{ram / 1024:.2f}" for name, ram in known.items()
    }
    rows = json.loads(run("list", "--folder", folder, "--json")[1])
    assert {row["name"]: row["ram_bytes"] for row in rows} == known


@pytest.mark.usefixtures("clock")
def test_under_a_bound_on_the_error_alone_no_network_that_fits_is_smaller(run, folder):
    known = sizes(folder)
    found = []
    for bound in sorted({error + more for error in ERRORS.values() for more in (0, 0.01)}):
        _, out, _ = run("pick", "--folder", folder, "--max-error", bound)
        name = picked(out)
        assert ERRORS[name] <= bound
        assert known[name] == min(known[other] for other, error in ERRORS.items() if error <= bound)
        found.append(known[name])
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 1


@pytest.mark.usefixtures("clock")
def test_under_a_bound_on_time_no_network_that_fits_has_a_lower_error(run, folder):
    found = []
    for bound in (1.0, 1.5, 2.0, 3.0, 3.9, 4.0, 1e6):
        _, out, _ = run("pick", "--folder", folder, "--max-ms", bound)
        name = picked(out)
        assert MS[name] <= bound
        assert ERRORS[name] == min(ERRORS[other] for other, ms in MS.items() if ms <= bound)
        found.append(ERRORS[name])
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 1


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("size", "error", "ms"), list(itertools.product(MODELS, (0.06, 0.15, 0.25, 1), (1, 2, 3, 4))))
def test_all_bounds_hold_together(run, folder, size, error, ms):
    known = sizes(folder)
    bound = known[size]
    status, out, _ = run("pick", "--folder", folder, "--max-kib", bound / 1024, "--max-error", error, "--max-ms", ms)
    fitting = [name for name in MODELS if known[name] <= bound and ERRORS[name] <= error and MS[name] <= ms]
    assert status == (0 if fitting else 2)
    if fitting:
        assert picked(out) == min(fitting, key=ERRORS.__getitem__)


@pytest.mark.usefixtures("clock")
def test_a_choice_by_the_test_split_is_called_optimistic(run, folder):
    assert "optimistic" in run("pick", "--folder", folder, "--max-ms", 1e6)[1]
    assert "optimistic" not in run("pick", "--folder", folder, "--max-ms", MS["front-3"])[1]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    "bounds",
    [
        ("--max-kib", "0.001"),
        ("--max-ram-kib", "0.5"),
        ("--max-error", "0.001"),
        ("--max-ms", "1e-9"),
        ("--max-kib", "nan"),
        ("--max-ms", "-1"),
    ],
    ids=" ".join,
)
def test_a_bound_that_none_meets_is_said_in_one_line(run, folder, tmp_path, bounds):
    target = tmp_path / "copy.bnn"
    assert "none of 4 networks meets" in refusal(run, "pick", "--folder", folder, *bounds, "-o", target)
    assert not target.exists()


@pytest.mark.parametrize("bound", ["-0.1", "5", "nan"])
def test_an_error_that_is_no_share_is_refused(run, folder, bound):
    assert "expected a share from 0 to 1" in refusal(run, "pick", "--folder", folder, "--max-error", bound)


def test_picking_without_a_bound_is_refused(run, folder):
    assert "--max-kib, --max-ram-kib, --max-error, --max-ms" in refusal(run, "pick", "--folder", folder)


@pytest.mark.usefixtures("clock")
def test_the_picked_file_is_copied_to_a_file_or_into_a_folder(run, folder, tmp_path):
    target = tmp_path / "mine.bnn"
    for output, expected in ((target, target), (tmp_path, tmp_path / "front-4.bnn")):
        status, out, _ = run("pick", "--folder", folder, "--max-ms", 1e6, "-o", output)
        assert status == 0
        assert str(expected) in out
        assert expected.read_bytes() == (folder / "front-4.bnn").read_bytes()


@pytest.mark.usefixtures("clock")
def test_a_copy_to_where_nothing_can_be_written_is_refused(run, folder, tmp_path):
    status, _, errors = run("pick", "--folder", folder, "--max-ms", 1e6, "-o", tmp_path / "no" / "such" / "folder.bnn")
    assert (status, len(errors)) == (2, 1)


@pytest.mark.parametrize("end", ["/", "/."])
@pytest.mark.parametrize("command", [["pick", "--max-error", "1"], ["export-onnx", "model.bnn"]], ids=lambda c: c[0])
def test_a_slash_at_the_end_asks_for_a_folder_that_is_there(tmp_path, capsys, command, end):
    with pytest.raises(SystemExit):
        parser().parse_args([*command, "-o", f"{tmp_path}/new{end}"])
    assert f"{tmp_path}/new{end}: expected a folder, found no such folder" in capsys.readouterr().err
    assert parser().parse_args([*command, "-o", f"{tmp_path}{end}"]).output == tmp_path


@pytest.mark.parametrize(
    "argv",
    [
        ("list", "--folder", ""),
        ("pick", "--max-kib", "9", "-o", ""),
        ("predict", "model.bnn", ""),
        ("export-c", "model.bnn", "-o", ""),
        ("inspect", ""),
    ],
    ids=lambda argv: argv[0],
)
def test_an_empty_path_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "expected a path, found nothing" in capsys.readouterr().err


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("name", ["front-4.bnn", "front-1.bnn"])
def test_no_network_of_the_run_is_overwritten_by_a_copy(run, folder, name):
    before = (folder / name).read_bytes()
    for output in (folder / name, folder):
        status, _, errors = run("pick", "--folder", folder, "--max-ms", 1e6, "-o", output)
        assert (status, len(errors)) == (2, 1)
        assert "found a network to pick from" in errors[0]
    assert (folder / name).read_bytes() == before


@pytest.mark.parametrize("command", [("list",), ("pick", "--max-ms", "9")], ids=lambda command: command[0])
def test_a_folder_without_networks_is_refused_with_what_makes_them(run, model, tmp_path, monkeypatch, command):
    for path, found in ((tmp_path, "none"), (tmp_path / "no such folder", "no such folder")):
        assert f"found {found}; `dvc repro` makes them" in refusal(run, *command, "--folder", path)
    assert refusal(run, *command, "--folder", model).endswith(f"{model}: Not a directory")

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", closed)
    monkeypatch.setattr("os.scandir", closed)
    assert refusal(run, *command, "--folder", tmp_path).endswith(f"{tmp_path}: Permission denied")


def test_what_systems_leave_beside_files_and_folders_are_no_networks(run, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy/._front-1.bnn").write_bytes(b"what macOS leaves")
    (tmp_path / "copy/sub.bnn").mkdir()
    rows = table(run("list", "--folder", tmp_path / "copy")[1])
    assert sorted(row["network"] for row in rows) == sorted(MODELS)


# ---------------------------------------------------------------- benchmark and inspect


def test_benchmark_prints_a_row_for_every_batch_size(run, model):
    status, out, _ = run("benchmark", model, "--batch", 1, 3, "--seconds", "0.01", "--threads", 1)
    rows = table(out)
    assert status == 0
    assert [row["batch"] for row in rows] == ["1", "3"]
    for row in rows:
        low, high = map(float, row["quartiles"].split("-"))
        assert low <= float(row["median ms"]) <= high
        per_second = float(row["images/s"].replace(",", ""))
        assert per_second == pytest.approx(int(row["batch"]) / (float(row["median ms"]) / 1000), rel=0.1)


@pytest.mark.parametrize(
    "option",
    [("--batch", "0"), ("--batch", "x"), ("--threads", "-1"), ("--seconds", "nan"), ("--seconds", "0")],
    ids=" ".join,
)
def test_a_count_that_is_none_is_refused(model, option, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["benchmark", str(model), *option])
    assert exit_.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_inspect_says_what_the_file_holds_and_where_its_bytes_are(run, model):
    status, out, _ = run("inspect", model)
    assert status == 0
    facts, layers = out.rstrip("\n").split("\n\n")
    found = packed.read(model)
    for words in (found.hash, ", ".join(builders.CLASSES), found.card.network.key, "front-2", "9 x 7", "10.00 %"):
        assert words in facts
    assert f"{found.payload_bytes:,} stored" in facts
    assert "bnas 2, float32" in facts
    rows = table(layers)
    bits = sum(int(row["bits"].replace(",", "")) for row in rows)
    floats = sum(int(row["floats"].replace(",", "")) for row in rows)
    assert -(-bits // 8) == found.bits.nbytes
    assert 4 * floats == found.floats.nbytes
    total = sum(float(row["bytes"].replace(",", "")) for row in rows)
    # Every row is rounded to a tenth.
    assert total == pytest.approx(found.payload_bytes, abs=1 + 0.05 * len(rows))


# ---------------------------------------------------------------- what is wrong is said in one line


@pytest.mark.parametrize("command", ["predict", "benchmark", "inspect", "export-onnx", "export-c"])
def test_a_model_that_is_missing_or_broken_is_refused_in_one_line(run, folder, tmp_path, command):
    broken = tmp_path / "broken.bnn"
    broken.write_bytes((folder / "front-1.bnn").read_bytes()[:-1])
    more = {"predict": ["picture.png"], "export-c": ["-o", tmp_path / "c"]}.get(command, [])
    for path in (tmp_path / "missing.bnn", broken, tmp_path):
        assert str(path) in refusal(run, command, path, *more)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.bnn"]


def test_a_broken_file_in_the_folder_is_named(run, folder, tmp_path):
    shutil.copy(folder / "front-1.bnn", tmp_path / "a.bnn")
    (tmp_path / "b.bnn").write_bytes(hostile.with_metadata((folder / "front-2.bnn").read_bytes(), version="3"))
    message = refusal(run, "list", "--folder", tmp_path)
    assert str(tmp_path / "b.bnn") in message
    assert "a newer bnas wrote it" in message


def test_show_without_a_run_says_what_makes_one(run, tmp_path):
    assert "run `dvc repro` first" in refusal(run, "show", "--run", tmp_path)


def test_an_interrupted_command_ends_quietly(run, model, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bnas.packed.load", interrupted)
    assert run("inspect", model) == (130, "", [])


# ---------------------------------------------------------------- text that is not ours


HARMFUL = "\x1b]0;pwned\x07\x1b[2J\nhash        0000 forged"
SHOWN = r"\x1b]0;pwned\x07\x1b[2J\nhash        0000 forged"


@pytest.fixture
def hostile_model(tmp_path) -> Path:
    """A valid network whose title and classes hold control characters, a new line and a forged line of ours."""
    config, nodes, wrong = MODELS["front-1"]
    model, path = builders.network(config, nodes, 0), tmp_path / "hostile.bnn"
    card = replace(builders.card(model, SIZE, wrong=wrong), title=HARMFUL, classes=(HARMFUL, "\u202egod", "cat"))
    packed.save(model, path, card)
    return path


def escaped(text: str) -> bool:
    return not set(text) & {"\x1b", "\x07", "\u202e", "\r"} and "\nhash        0000" not in text


def test_what_a_file_says_reaches_the_terminal_as_it_looks_only(run, hostile_model, tmp_path):
    picture = tmp_path / "a\nbnas predict: \x1b[31mforged.png"
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(picture)
    (tmp_path / "broken\n\x1b[31m.png").write_bytes(b"no picture")
    inspected = run("inspect", hostile_model)[1]
    assert SHOWN in inspected
    assert escaped(inspected)
    status, out, errors = run("predict", hostile_model, picture, tmp_path / "broken\n\x1b[31m.png")
    assert status == 1
    assert escaped(out)
    assert r"a\nbnas predict: \x1b[31mforged.png" in out
    assert len(errors) == 1
    assert r"broken\n\x1b[31m.png: expected an image" in errors[0]
    shutil.copy(hostile_model, tmp_path / "copy\x1b[2J.bnn")
    assert escaped(run("list", "--folder", tmp_path)[1])
    assert escaped(refusal(run, "inspect", tmp_path / "\x1b[2Jmissing\nforged"))
    out = run("pick", "--folder", tmp_path, "--max-error", 1, "-o", tmp_path / "mine\x1b[2J")[1]
    assert rf"copied to {tmp_path}/mine\x1b[2J" in out


def test_every_class_is_one_line_of_the_metadata_of_onnx(run, hostile_model, tmp_path):
    onnx = pytest.importorskip("onnx")
    assert run("export-onnx", hostile_model)[0] == 0
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "hostile.onnx").metadata_props}
    assert metadata["classes"].split("\n") == [SHOWN, r"\u202egod", "cat"]


def test_predictions_as_json_are_one_list_whatever_their_number(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr("bnas.cli.IMAGES_AT_ONCE", 2)
    for name in "abcde":
        Image.fromarray(np.full((9, 7, 3), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    rows = json.loads(run("predict", model, tmp_path, "--json")[1])
    assert [Path(row["image"]).name for row in rows] == [f"{name}.png" for name in "abcde"]
    assert json.loads(run("predict", model, tmp_path / "none.png", "--json")[1]) == []


# ---------------------------------------------------------------- what is written, and what is removed


def test_onnx_is_written_beside_the_network_to_a_file_or_into_a_folder(run, model, tmp_path):
    pytest.importorskip("onnx")
    copy = Path(shutil.copy(model, tmp_path / "mine.bnn"))
    (tmp_path / "folder").mkdir()
    for more, expected in (
        ((), tmp_path / "mine.onnx"),
        (("-o", tmp_path / "other"), tmp_path / "other"),
        (("-o", tmp_path / "folder"), tmp_path / "folder" / "mine.onnx"),
    ):
        status, out, _ = run("export-onnx", copy, *more)
        assert (status, out) == (0, f"written to {expected}\n")
        assert expected.read_bytes()


def test_onnx_does_not_overwrite_its_network_and_makes_no_folder(run, model, tmp_path):
    pytest.importorskip("onnx")
    copy = Path(shutil.copy(model, tmp_path / "mine.bnn"))
    assert "found the network itself" in refusal(run, "export-onnx", copy, "-o", copy)
    assert copy.read_bytes() == model.read_bytes()
    target = tmp_path / "no" / "such.onnx"
    assert "found no such folder" in refusal(run, "export-onnx", copy, "-o", target)
    assert not target.parent.exists()


C_FILES = {"README.md", "bnas_runtime.h", "main.c", SUMS}


def test_c_is_written_into_a_folder_of_its_own_and_replaces_an_earlier_export(run, folder, tmp_path):
    target = tmp_path / "c"
    status, out, _ = run("export-c", folder / "front-1.bnn", "-o", target)
    assert (status, {path.name for path in target.iterdir()}) == (0, C_FILES | {"front_1.h", "front_1.c"})
    assert out.startswith(f"written to {target}: bnas_front_1_predict, ")
    first = (target / "front_1.c").read_text()
    assert run("export-c", folder / "front-2.bnn", "-o", target, "--name", "front_1")[0] == 0
    assert (target / "front_1.c").read_text() != first
    assert run("export-c", folder / "front-1.bnn", "-o", target)[0] == 0
    assert (target / "front_1.c").read_text() == first
    assert run("export-c", folder / "front-1.bnn", "-o", tmp_path / "mine", "--name", "eye", "--emulator")[0] == 0
    more = {"eye.h", "eye.c", "startup.c", "mps2.ld"}
    assert {path.name for path in (tmp_path / "mine").iterdir()} == C_FILES | more
    assert run("export-c", folder / "front-1.bnn", "-o", tmp_path / "mine", "--name", "eye")[0] == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == C_FILES | {"eye.h", "eye.c"}
    assert {path.name for path in tmp_path.iterdir()} == {"c", "mine"}


@pytest.mark.parametrize("name", ["main.c", "README.md", "front_1.h"])
def test_c_does_not_replace_what_was_changed_or_is_not_its_own(run, folder, tmp_path, name):
    (tmp_path / "own").mkdir()
    assert run("export-c", folder / "front-1.bnn", "-o", tmp_path / "edited")[0] == 0
    for target in (tmp_path / "own", tmp_path / "edited"):
        with (target / name).open("a") as file:
            file.write("years of work")
        before = {path.name: path.read_bytes() for path in target.iterdir()}
        assert f"unchanged earlier export, found {name}" in refusal(
            run, "export-c", folder / "front-1.bnn", "-o", target
        )
        assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_c_is_written_into_the_folder_that_is_there_or_that_a_link_leads_to(run, folder, tmp_path, monkeypatch):
    target, link = tmp_path / "there/c", tmp_path / "link"
    target.mkdir(parents=True)
    link.symlink_to(target)
    parent = target.parent.stat().st_mtime_ns
    monkeypatch.chdir(target)
    for output in (".", link):
        assert run("export-c", folder / "front-1.bnn", "-o", output)[0] == 0
        assert {path.name for path in Path().iterdir()} == C_FILES | {"front_1.h", "front_1.c"}
    assert link.is_symlink()
    assert target.parent.stat().st_mtime_ns == parent, "nothing was made beside the folder"


def test_c_is_not_written_where_other_things_are(run, folder, tmp_path):
    model = folder / "front-1.bnn"
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    for path, complaint in (
        (tmp_path / "taken", "expected an empty folder or an unchanged earlier export, found notes.txt"),
        (tmp_path / "file", "expected a folder, or nothing, found a file"),
        (tmp_path / "no/such", "expected a place in a folder, found no such folder"),
    ):
        assert complaint in refusal(run, "export-c", model, "-o", path)
    for name in ("front-1", "", "main", "é"):
        assert "name: expected a C identifier" in refusal(run, "export-c", model, "-o", tmp_path / "c", "--name", name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "notes.txt", "taken"]
    assert (tmp_path / "taken/notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_an_export_of_c_that_fails_leaves_the_earlier_one(run, folder, tmp_path, monkeypatch):
    target = tmp_path / "c"
    assert run("export-c", folder / "front-1.bnn", "-o", target)[0] == 0
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    writes = iter(range(2))

    def fail(self: Path, text: str, encoding: str) -> int:
        if next(writes, None) is None:
            raise OSError(28, "No space left on device", str(self))
        return len(text)

    monkeypatch.setattr(Path, "write_text", fail)
    for path in (target, tmp_path / "new"):
        full = f"{path}: cannot be written: No space left on device"
        assert full in refusal(run, "export-c", folder / "front-1.bnn", "-o", path)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.usefixtures("clock")
def test_the_copy_is_there_though_nobody_reads_what_was_picked(run, folder, tmp_path, monkeypatch):
    def closed(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    assert run("pick", "--folder", folder, "--max-ms", 1e6, "-o", tmp_path)[0] == 0
    assert (tmp_path / "front-4.bnn").exists()


def test_clean_removes_what_was_written_here_and_names_the_rest(run, tmp_path):
    ours, finished, foreign = (tmp_path / name for name in ("checkpoints/a", "networks/b", "checkpoints/\x1bthesis"))
    for path in (ours, finished):
        mark(path)
    foreign.mkdir()
    (foreign / "chapter").touch()
    listed = {Path(row["path"]).name: row["kind"] for row in table(run("clean", "--cache", tmp_path)[1])}
    assert listed == {"a": "checkpoint", "b": "finished network", r"\x1bthesis": "foreign"}
    left = [rf"bnas clean: {tmp_path}/checkpoints/\x1bthesis: kept, not written by bnas"]
    status, out, errors = run("clean", "--cache", tmp_path, "--remove")
    assert (status, errors) == (0, left)
    assert out.startswith("removed 1 of 1, ")
    assert out.endswith("; finished networks that stay: 1 (--all removes them)\n")
    with lock(lock_of(finished), "a worker"):
        status, out, errors = run("clean", "--cache", tmp_path, "--remove", "--all")
    assert (status, out) == (1, "removed 0 of 1, 0.00 KiB\n")
    assert errors == [*left, f"bnas clean: {finished}: kept, a running process is at work on it"]
    assert run("clean", "--cache", tmp_path, "--remove", "--all")[0] == 0
    assert (ours.exists(), finished.exists(), (foreign / "chapter").exists()) == (False, False, True)


def test_a_cache_that_is_none_is_refused(run, model, tmp_path):
    for path, found in ((tmp_path / "none", "No such file or directory"), (model, "Not a directory")):
        assert refusal(run, "clean", "--cache", path).endswith(f"{path}: {found}")


# ---------------------------------------------------------------- help and completion


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert exit_.value.code == 0
    assert f"usage: bnas {command}" in out
    assert "bnas " in out.split("example: ")[1]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    out = capsys.readouterr().out
    assert exit_.value.code == 0
    assert set(COMMANDS) <= set(re.findall(r"^    (\S+)", out, re.MULTILINE))


def test_the_examples_in_the_help_are_commands(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        example = " ".join(capsys.readouterr().out.split("example: ")[1].split())
        words = example.removeprefix('eval "$(').removesuffix(')"').split()
        assert words[:2] == ["bnas", command]
        parser().parse_args(words[1:])


@pytest.mark.parametrize("argv", [[], ["fly"], ["predict"], ["predict", "model.bnn"]], ids=" ".join)
def test_no_command_or_an_unknown_one_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "usage: bnas" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_prints_a_script_that_names_the_commands(run, shell):
    status, out, _ = run("completion", shell)
    assert status == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_completion_for_bash_completes_commands_files_folders_and_choices(run, tmp_path):
    script = tmp_path / "completion"
    script.write_text(run("completion", "bash")[1])
    (tmp_path / "model.bnn").touch()
    (tmp_path / "more").mkdir()
    asked = {
        "bnas pre": "predict",
        "bnas predict mod": "model.bnn",
        "bnas predict model.bnn mod": "model.bnn",
        "bnas pick -o mod": "model.bnn",
        "bnas list --folder mo": "more",
        "bnas completion zs": "zsh",
        "bnas benchmark model.bnn --thr": "--threads",
    }
    # What bash sets and calls when the key is pressed.
    ask = """
    . "$0"
    complete -p bnas >/dev/null || exit
    while read -r -a words; do
      COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1)) COMPREPLY=()
      _shtab_bnas bnas "${words[-1]}" "${words[-2]}"
      echo "${COMPREPLY[*]}"
    done
    """
    found = subprocess.run(
        ["bash", "--norc", "-c", ask, script],
        input="".join(f"{line}\n" for line in asked),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert dict(zip(asked, found.stdout.splitlines(), strict=True)) == asked, found.stderr
