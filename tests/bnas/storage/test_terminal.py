"""What reaches a terminal: text that is not ours as it looks, not as it would be obeyed; a pipe that closes."""

import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnas.storage.terminal import complain, one_line, printable
from tests.imports import ROOT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("a\nhash  0000 forged", r"a\nhash  0000 forged"),
        ("a\r\x85\u2028b", r"a\r\x85\u2028b"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("caf\udce9.png", r"caf\udce9.png"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
    ],
)
def test_what_a_terminal_would_obey_stands_as_its_code(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Screenshot 2024-05-01 at 9.41.00\u202fAM.png",  # macOS puts a narrow space there
        "Café",
        "Cafe\u0301",  # as HFS+ spells it
        "写真\u3000一",
        "👩\u200d🔬",
        "می\u200cخواهم",
        "IMG_0001 (1).JPG",
        "C:\\x1b",
        "\uf022",  # a colon that a NAS took from a Mac
    ],
)
def test_names_as_telephones_and_macs_give_them_stay_as_they_are(text):
    assert printable(text) == text


@given(st.text())
def test_nothing_printable_is_obeyed_and_what_was_made_so_stays(text):
    shown = printable(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
    shown.encode()


def test_an_error_is_one_line_and_says_which_file(capsys, tmp_path):
    missing = tmp_path / "a\nforged: line"
    with pytest.raises(FileNotFoundError) as raised:
        missing.read_bytes()
    assert one_line(raised.value) == rf"{tmp_path}/a\nforged: line: No such file or directory"
    (tmp_path / "full/file").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty") as raised:
        tmp_path.joinpath("other").mkdir() or tmp_path.joinpath("other").replace(tmp_path / "full")
    assert one_line(raised.value) == f"{tmp_path}/other -> {tmp_path}/full: Directory not empty"
    assert one_line(OSError("of our own")) == "of our own"
    assert one_line(MemoryError()) == "MemoryError"
    complain("bnas", ValueError("\x1b[31mred\nbnas: fine"))
    assert capsys.readouterr().err == "bnas: \\x1b[31mred\\nbnas: fine\n"


PRINTING = {
    "command": "run_command('x', lambda: print('y' * 100_000) or 0)",
    "short": "run_command('x', lambda: print('y') or 0)",
    "help": "run_command('x', lambda: Parser().parse_args(['--help']))",
}


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("what", PRINTING)
def test_a_command_ends_quietly_where_nobody_reads_on(what, unbuffered):
    assert _into_a_closed_pipe(PRINTING[what], unbuffered) == (0, "")


def test_an_error_is_said_though_nobody_reads_the_rest():
    code = "run_command('x', lambda: print('y') or open('/no/such/file'))"
    assert _into_a_closed_pipe(code) == (2, "x: /no/such/file: No such file or directory\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_finds_no_room_is_an_error():
    program = "from bnas.storage.terminal import run_command; raise SystemExit(run_command('x', lambda: print(1) or 0))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, check=False, cwd=ROOT
        )
    assert (done.returncode, done.stderr) == (2, b"x: No space left on device\n")


def test_a_command_without_any_output_is_none_that_fails():
    program = (
        "import sys; from bnas.storage.terminal import run_command; sys.exit(run_command('x', lambda: print(1) or 0))"
    )
    command = 'exec "$0" -c "$1" >&-'
    done = subprocess.run(["sh", "-c", command, sys.executable, program], stderr=subprocess.PIPE, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("call", ["open('/no/such/file')", "Parser().parse_args(['--no'])"])
def test_where_a_shell_closed_stderr_complaints_go_nowhere(call):
    program = (
        "from bnas.storage.terminal import Parser, run_command; "
        f"run_command('x', lambda: print('{{}}', flush=True) or {call})"
    )
    command = 'exec "$0" -c "$1" 2>&-'
    done = subprocess.run(["sh", "-c", command, sys.executable, program], stdout=subprocess.PIPE, check=False, cwd=ROOT)
    assert done.stdout == b"{}\n"


def test_a_work_goes_on_where_nobody_reads_its_lines():
    work = "[say('a line') for _ in range(3)] and print('more') or sys.stderr.write('done') and 0"
    assert _into_a_closed_pipe(work) == (0, "done")


def _into_a_closed_pipe(code, unbuffered=""):
    """(exit code, stderr) of a process whose output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    program = f"import sys; from bnas.storage.terminal import Parser, run_command, say; sys.exit({code})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writing)
    return done.returncode, done.stderr
