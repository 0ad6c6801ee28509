"""What a terminal is shown: text that is not ours made harmless, an error as one line, a quiet end of the pipe."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what is obeyed rather than shown: controls, formats, bytes that are no text, new lines."""
JOINERS = "\u200c\u200d"
"""Formats that words and emoji are written with."""


def printable(text: str) -> str:
    r"""Text from names, files and other programs as it is printed, logged and written into reports.

    What would be obeyed rather than shown stands as its code, an escape as `\x1b` and a new line as `\n`. Texts that
    went through this before pass as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in OBEYED and c not in JOINERS else c
        for c in text
    )


def one_line(error: BaseException) -> str:
    """What an error says, of a file that the system refuses its name and why; indented lines go on where they are."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return printable(": ".join([" -> ".join(names), error.strerror] if names else [error.strerror]))
    return printable(re.sub(r"\n[ \t]+", " ", str(error).strip()) or type(error).__name__)


def complain(who: str, problem: BaseException | str) -> None:
    """Print a line on stderr: who found a problem, and which."""
    text = one_line(problem) if isinstance(problem, BaseException) else printable(problem)
    with contextlib.suppress(BrokenPipeError):
        print(f"{who}: {text}", file=sys.stderr, flush=True)


def set_up_stderr() -> None:
    """Make warnings one line; where a shell closed stderr (`2>&-`), what is meant for it goes nowhere."""
    warnings.formatwarning = one_line_warning
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def one_line_warning(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
    """A warning without the line of code that raised it."""
    return f"warning: {printable(str(message))}\n"


def say(text: str) -> None:
    """Print a line of a work that goes on where nobody reads: all that is printed later goes nowhere then."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _go_nowhere()


def run_command(who: str, run: Callable[[], int]) -> int:
    """Run what prints its results; returns its exit code, 2 with one line on stderr for bad input, 130 if interrupted.

    A reader who has seen enough (`| head`) ends it quietly. What the terminal cannot show stands as its code.
    """
    set_up_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _code(who, run)
    finally:
        unwritten = _flush()
    if unwritten and not isinstance(unwritten, BrokenPipeError):
        complain(who, unwritten)
        return code or 2
    return code


def _code(who: str, run: Callable[[], int]) -> int:
    try:
        return run()
    except BrokenPipeError:
        return 0
    except (ValueError, OSError, MemoryError) as error:
        complain(who, error)
        return 2
    except KeyboardInterrupt:
        return 130


class Parser(argparse.ArgumentParser):
    """A parser of arguments, of which some are paths (`type=Path`); none is empty."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("type", Path, path_of)

    def error(self, message: str) -> NoReturn:
        """Print the usage and a line, and exit with 2."""
        super().error(printable(message))


def path_of(text: str) -> Path:
    """The path that an argument names; an empty one, as a variable of the shell that is not set, is refused."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found nothing")
    return Path(text)


def target_of(text: str) -> Path:
    """The path of a file to write, or of a folder that is there to write it into, which a slash at the end asks for."""
    path = path_of(text)
    if text.endswith(("/", "/.")) and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: expected a folder, found no such folder")
    return path


def _flush() -> OSError | None:
    """Write out what was printed; an error where that fails, and nothing is tried again when Python ends."""
    try:
        if sys.stdout is not None:  # it is, where a shell closed it (`>&-`)
            sys.stdout.flush()
    except OSError as error:
        _go_nowhere()
        return error
    return None


def _go_nowhere() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
