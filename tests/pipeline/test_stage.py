import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.stage import PREPARED, Stage, atomic_write, cache_root, main, named, progress, write_json
from pipeline.stage.progress import PLAIN_SECONDS, ProgressBar
from tests.imports import ROOT

OUT, METRICS, TIMES = Path("data/demo"), Path("reports/metrics/demo.json"), Path("reports/times/demo.json")


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """A folder with the committed parameters; what a stage sets for its process is put back."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_STAGE", "DVC_ROOT", "BNAS_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def succeeding(text="result", **metrics):
    def run(stage: Stage) -> None:
        (stage.out / "file").write_text(text)
        stage.metrics.update(metrics)

    return run


def failing(error):
    def run(stage: Stage) -> None:
        (stage.out / "file").write_text("half")
        stage.metrics["demo_error"] = 0.5
        raise error

    return run


def files():
    """Every path below the working directory but the parameters and an empty `.cache`, folders with a slash."""
    found = (path.relative_to(Path.cwd()).as_posix() + "/" * path.is_dir() for path in Path.cwd().rglob("*"))
    return set(found) - {"params.yaml", ".cache/", ".cache/locks/"}


# ---- A stage that succeeds ----


def test_success_moves_the_outputs_and_writes_metrics_and_times(capsys):
    assert main("demo", succeeding(demo_error=0.25, demo_none=None)) == 0
    assert (OUT / "file").read_text() == "result"
    assert json.loads(METRICS.read_text()) == {"demo_error": 0.25, "demo_none": None}
    times = json.loads(TIMES.read_text())
    assert list(times) == ["demo_seconds"]
    assert 0 <= times["demo_seconds"] < 60
    assert {path for path in files() if not path.endswith("/")} == {
        str(path) for path in (OUT / "file", METRICS, TIMES)
    }
    assert capsys.readouterr().err == ""


def test_outputs_are_out_of_sight_until_the_end():
    def run(stage: Stage) -> None:
        (stage.out / "file").write_text("result")
        assert not OUT.exists()
        assert stage.name == "demo"
        assert stage.params.runtime.workers >= 1

    assert main("demo", run) == 0
    assert OUT.exists()


def test_prepare_writes_the_prepared_folder():
    assert main("prepare", succeeding()) == 0
    assert Path("data/prepared") == PREPARED
    assert (PREPARED / "file").exists()
    assert not Path("data/prepare").exists()


def test_a_stage_without_outputs_or_metrics_leaves_its_time_only():
    assert main("demo", lambda stage: None) == 0
    assert {path for path in files() if not path.endswith("/")} == {str(TIMES)}
    assert not OUT.exists()


def test_a_second_run_replaces_the_first_whole():
    def first(stage: Stage) -> None:
        (stage.out / "file").write_text("old")
        (stage.out / "more").write_text("old")

    assert main("demo", first) == 0
    assert main("demo", succeeding("new")) == 0
    assert {path.name: path.read_text() for path in OUT.iterdir()} == {"file": "new"}


@pytest.mark.parametrize("which", [".partial-demo", "demo"])
def test_earlier_outputs_stay_where_new_ones_cannot_take_their_place(which, monkeypatch, capsys):
    assert main("demo", succeeding("old")) == 0
    rename = os.rename

    def busy(path, target):
        if Path(path).name == which:
            raise OSError(16, "Device or resource busy", str(path))
        rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", busy)
        assert main("demo", succeeding("new")) == 2
    assert capsys.readouterr().err == f"demo: data/{which}: Device or resource busy\n"
    assert [path.name for path in Path("data").iterdir()] == ["demo"]
    assert (OUT / "file").read_text() == "old"
    assert main("demo", succeeding("new")) == 0
    assert (OUT / "file").read_text() == "new"


def test_earlier_outputs_that_cannot_be_removed_are_named(monkeypatch, capsys):
    assert main("demo", succeeding("old")) == 0

    rmtree = shutil.rmtree

    def refuse(path, **options):
        if Path(path) == Path("data/.before-demo"):
            raise PermissionError(13, "Permission denied", str(path))
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.warns(UserWarning, match="earlier outputs stay: data/.before-demo: Permission denied"):
        assert main("demo", succeeding("new")) == 0
    assert (OUT / "file").read_text() == "new"
    assert main("demo", succeeding("newer")) == 2
    assert capsys.readouterr().err == "demo: data/.before-demo: Permission denied\n"
    assert (OUT / "file").read_text() == "new"


def test_outputs_go_where_a_link_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    OUT.parent.mkdir()
    OUT.symlink_to(tmp_path / "disk/demo")
    for text in ("old", "new"):
        assert main("demo", succeeding(text)) == 0
        assert (tmp_path / "disk/demo/file").read_text() == text
    assert OUT.is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["demo"]


def test_leftovers_of_a_killed_run_do_not_get_into_the_outputs():
    seen = []

    def look(stage: Stage) -> None:
        seen.append(stage.out)
        succeeding()(stage)

    assert main("demo", look) == 0
    seen[0].mkdir(parents=True)
    (seen[0] / "junk").write_text("of a killed run")
    assert main("demo", succeeding()) == 0
    assert [path.name for path in OUT.iterdir()] == ["file"]
    assert not seen[0].exists()


def in_a_process(body):
    """A process of its own that runs a stage whose `run(stage)` has this body."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    script = (
        "import sys, time, warnings\nfrom pipeline.stage import main\n"
        f"def run(stage):\n{lines}sys.exit(main('demo', run))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_warnings_take_one_line():
    # Python itself would show the line of the file below the warning.
    body = "warnings.warn_explicit('less than asked for', UserWarning, 'params.yaml', 1)"
    with in_a_process(body) as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert err.count("\n") == 1
    assert err.endswith(": less than asked for\n")


# ---- A stage that fails ----


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("data: expected this,\n  found that"), "data: expected this, found that"),
        (ValueError("data/\x1b[31ma\ndemo: done"), r"data/\x1b[31ma\ndemo: done"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (FileNotFoundError(2, "No such file or directory", "data/a.json"), "data/a.json: No such file or directory"),
        (json.JSONDecodeError("Expecting value", "x", 0), "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_bad_input_takes_one_line_and_leaves_nothing(error, line, capsys):
    assert main("demo", failing(error)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err == f"demo: {line}\n"
    assert files() <= {"data/"}


def test_a_failing_run_leaves_what_an_earlier_one_wrote():
    # DVC removes a stage's outputs before it starts; without DVC the last good ones stay.
    assert main("demo", succeeding("old", demo_error=0.1)) == 0
    before = {path: Path(path).read_bytes() for path in files() if not path.endswith("/")}
    assert main("demo", failing(ValueError("bad"))) == 2
    assert {path: Path(path).read_bytes() for path in files() if not path.endswith("/")} == before


def test_metrics_that_are_no_numbers_fail_like_bad_input_and_leave_nothing(capsys):
    assert main("demo", succeeding(demo_error=float("nan"))) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {path for path in files() if not path.endswith("/")} == set()


@pytest.mark.parametrize("error", [KeyError("a bug"), RuntimeError("a bug")])
def test_a_bug_is_not_taken_for_bad_input_and_leaves_nothing(error):
    with pytest.raises(type(error), match="a bug"):
        main("demo", failing(error))
    assert files() <= {"data/"}


def test_traceback_is_shown_on_request(monkeypatch):
    monkeypatch.setenv("BNAS_TRACEBACK", "1")
    with pytest.raises(ValueError, match="bad"):
        main("demo", failing(ValueError("bad")))
    assert files() <= {"data/"}


def test_bad_parameters_take_one_line_and_nothing_runs(capsys):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("margin: 1.25", "margin: none"))
    assert main("demo", lambda stage: pytest.fail("ran")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("demo: params.yaml: objectives.margin: expected")
    assert files() == set()


def test_missing_parameters_take_one_line(capsys):
    Path("params.yaml").unlink()
    assert main("demo", lambda stage: pytest.fail("ran")) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "params.yaml" in err


def test_interrupt_from_the_keyboard_exits_with_130_and_leaves_nothing(capsys):
    assert main("demo", failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "demo: interrupted\n"
    assert files() <= {"data/"}


def test_terminated_stage_exits_with_an_error_and_leaves_nothing():
    body = "(stage.out / 'file').write_text('half')\nprint('running', flush=True)\ntime.sleep(60)"
    with in_a_process(body) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            assert any(path.endswith("/file") for path in files())
            process.terminate()
            _, err = process.communicate(timeout=20)
            assert process.returncode == 128 + signal.SIGTERM
            assert err == ""
        finally:
            process.kill()
    assert files() <= {"data/"}


# ---- Keys in messages of the library ----


@pytest.mark.parametrize(
    ("sections", "message", "said"),
    [
        (["search.evaluation"], "batch_size: expected 1, found 2", "search.evaluation.batch_size: expected 1, found 2"),
        (["data"], "augmentation.cutout: expected 1", "data.augmentation.cutout: expected 1"),
        (["stage1", "runtime"], "workers: expected 1", "runtime.workers: expected 1"),
        (["stage1", "stage2"], "epochs: expected 1", "stage1.epochs: expected 1"),
        (["search"], "batch_size: expected 1", "batch_size: expected 1"),
        (["data"], "data/prepared/name: expected 1", "data/prepared/name: expected 1"),
        (["data"], "the name: expected 1", "the name: expected 1"),
        (["data"], "", ""),
    ],
)
def test_the_library_s_field_becomes_the_full_key(sections, message, said):
    with pytest.raises(UnicodeError) as raised, named(*sections):
        raise UnicodeError(message)
    assert str(raised.value) == said


def test_the_innermost_section_names_the_key():
    with pytest.raises(ValueError, match=r"^stage1\.evaluation\.batch_size: "), named("stage1"):  # noqa: SIM117
        with named("stage1.evaluation"):
            raise ValueError("batch_size: expected 1")


def test_a_section_that_is_not_there_is_a_mistake():
    with pytest.raises(KeyError), named("stage3"):
        pass


@pytest.mark.parametrize(
    ("name", "key"),
    [("prepare", "data.image_size"), ("retrain", "retrain.batch_size"), ("export", "runtime.loader_workers")],
)
def test_a_stage_s_messages_name_keys_of_its_own_section_and_of_runtime(name, key, capsys):
    assert main(name, failing(ValueError(f"{key.partition('.')[2]}: expected 1, found 2"))) == 2
    assert capsys.readouterr().err == f"{name}: {key}: expected 1, found 2\n"


# ---- Whole files ----


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_failing_write_leaves_the_old_content(call, monkeypatch):
    path = Path("below/some/file.json")
    atomic_write(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(OSError, match="No space"):
            atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [other.name for other in path.parent.iterdir()] == ["file.json"]
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"


def test_new_content_is_on_disk_before_the_old_is_gone(monkeypatch):
    path = Path("file")
    atomic_write(path, "old")
    seen = []

    def sync(descriptor):
        assert path.read_text() == "old"
        seen.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", sync)
    atomic_write(path, "new content")
    assert seen == [len("new content")]
    assert path.read_text() == "new content"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_no_number(bad):
    path = Path("file.json")
    write_json(path, {"a": [1.5, None]})
    assert json.loads(path.read_text()) == {"a": [1.5, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": [bad]})
    assert json.loads(path.read_text()) == {"a": [1.5, None]}
    assert files() == {"file.json"}


# ---- Progress without a terminal ----


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_progress_is_a_plain_line_with_share_time_left_and_note(clock, capsys):
    bar = ProgressBar("demo", 200)
    clock.now += PLAIN_SECONDS
    bar.advance(50, "epoch 3")
    assert capsys.readouterr().out == "demo:  25 %, about 30 s left - epoch 3\n"
    clock.now += PLAIN_SECONDS
    bar.advance(110, "epoch 4")
    assert capsys.readouterr().out == "demo:  80 %, about 5 s left - epoch 4\n"
    bar.close()
    assert capsys.readouterr() == ("", "")


def test_progress_keeps_quiet_between_lines(clock, capsys):
    bar = ProgressBar("demo", 1000)
    for _ in range(100):
        clock.now += PLAIN_SECONDS / 10
        bar.advance(1, "step")
    lines = capsys.readouterr().out.splitlines()
    assert 9 <= len(lines) <= 10


def test_progress_never_exceeds_the_total(clock, capsys):
    bar = ProgressBar("demo", 10)
    for _ in range(3):
        clock.now += 2 * PLAIN_SECONDS
        bar.advance(8, "more than was forecast")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["demo:  80 %", "demo: 100 %", "demo: 100 %"]
    assert "about 0 s left" in lines[-1]
    assert bar.done == bar.total


def test_time_left_is_not_reckoned_by_what_an_interrupted_run_has_done(clock, capsys):
    bar = ProgressBar("demo", 200, done=100)
    clock.now += PLAIN_SECONDS
    bar.advance(50, "epoch 3")
    assert capsys.readouterr().out == "demo:  75 %, about 10 s left - epoch 3\n"


@pytest.mark.parametrize(("total", "work"), [(0, 1), (10, 0)])
def test_progress_without_work_says_nothing(clock, capsys, total, work):
    bar = ProgressBar("demo", total)
    clock.now += 2 * PLAIN_SECONDS
    bar.advance(work, "nothing")
    assert capsys.readouterr() == ("", "")


def test_a_stage_reports_through_its_progress(clock, capsys):
    def run(stage: Stage) -> None:
        advance = stage.progress(4)
        clock.now += PLAIN_SECONDS
        advance(1, "first")

    assert main("demo", run) == 0
    assert capsys.readouterr().out == "demo:  25 %, about 30 s left - first\n"


# ---- The cache ----


def test_cache_lies_in_the_main_workspace(monkeypatch):
    assert cache_root().resolve() == Path.cwd() / ".cache"
    monkeypatch.setenv("DVC_ROOT", "/somewhere/else")
    assert cache_root() == Path("/somewhere/else/.cache")
