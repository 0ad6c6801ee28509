"""`python -m pipeline.compare REV...`: finished runs side by side, as a page and as tables in the terminal.

A REV is whatever `dvc exp show` lists: a commit, a branch, a tag, an experiment's name, or `workspace` for the files
as they lie here. One REV alone is compared with the workspace. After `--against` come as many rivals in the same order,
one for each run. Only small files that git keeps are read, so no experiment has to be checked out and nothing has to be
in DVC's cache.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from pydantic import TypeAdapter, ValidationError

from bnas.report.page.compare import ABSENT, ComparedRun, Point, compare_html, compare_text
from bnas.storage.complaints import complaints, first_of
from bnas.storage.files import atomic_write, placed
from bnas.storage.terminal import Parser, printable, run_command, target_of
from pipeline.git import GitError, git
from pipeline.params.yaml12 import ParamsError, flat, read_yaml
from pipeline.stage import REPORTS

WORKSPACE = "workspace"
OUTPUT = REPORTS / "compare.html"
PARETO, PARAMS = REPORTS / "plots" / "pareto.json", Path("params.yaml")
METRICS = (*(REPORTS / "metrics" / f"{name}.json" for name in ("report", "search")), REPORTS / "times" / "total.json")


def main(arguments: list[str] | None = None) -> int:
    """Write the page and print the tables; 2 with one line on stderr for a run that cannot be read."""
    return run_command("compare", lambda: _compare(arguments))


def _compare(arguments: list[str] | None) -> int:
    parser = Parser(prog="python -m pipeline.compare", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("revisions", nargs="+", metavar="REV", help="commit, branch, tag, experiment or `workspace`")
    parser.add_argument("-o", "--output", type=target_of, default=OUTPUT, help=f"the page to write (default: {OUTPUT})")
    parser.add_argument("--against", nargs="+", default=[], metavar="REV", help="as many rivals, in the same order")
    options = parser.parse_args(arguments)
    ours, rivals = (list(dict.fromkeys(names)) for names in (options.revisions, options.against))
    if rivals and len(rivals) != len(ours):
        raise ValueError(f"--against: expected as many rivals as runs, {len(ours)}, found {len(rivals)}")
    every = list(dict.fromkeys(ours + rivals))
    read = {name: read_run(name) for name in (every if len(every) > 1 else [*every, WORKSPACE])}
    if len(read) < 2:
        raise ValueError("expected two different runs, found the workspace only")
    runs = list(read.values())
    page = placed(options.output, OUTPUT.name)
    atomic_write(page, compare_html(runs))
    print(f"Comparison: {printable(str(page))}")
    if rivals:
        sides = [[read[name] for name in names] for names in (ours, rivals)]
        # Each side by itself: what the searches of two rules were worth is not pooled.
        print("\n" + "\n\n".join([against_text(*sides), *map(compare_text, sides)]))
    else:
        print(f"\n{compare_text(runs)}")
    for run in runs:
        if run.missing:
            print(f"\nNot found in {printable(run.name)}: {', '.join(run.missing)}")
    return 0


def read_run(name: str) -> ComparedRun:
    """The run of a revision; raises ValueError if there is no such revision or no finished run in it."""
    commit = None if name == WORKSPACE else resolve(name)
    pareto, params = read_file(commit, PARETO), read_file(commit, PARAMS)
    if pareto is None or params is None:
        absent = PARETO if pareto is None else PARAMS
        raise ValueError(f"{name}: expected a finished run, found no {absent} there")
    where = f"{name}: {PARETO}"
    try:
        points = TypeAdapter(tuple[Point, ...]).validate_json(pareto)
        parameters = _parameters(params)
    except ValidationError as error:
        wrong = first_of(complaints(error, tuple[Point, ...]))
        raise ValueError(f"{where}: expected rows of network, role, size_kib and test_error: {wrong}") from None
    except ParamsError as error:
        raise ValueError(f"{name}: {error}") from None
    files = {path: read_file(commit, path) for path in METRICS}
    indicators: dict[str, float | None] = {}
    for path, text in files.items():
        indicators |= _numbers(f"{name}: {path}", text)
    missing = tuple(str(path) for path, text in files.items() if text is None)
    return ComparedRun(name, commit[:10] if commit else name, points, dict(flat(parameters)), indicators, missing)


def against_text(runs: Sequence[ComparedRun], rivals: Sequence[ComparedRun]) -> str:
    """By how much each run differs from the one it is compared with: means, and Student's intervals over the pairs.

    Hypervolumes are of the retrained fronts. Errors are compared at equal size: the difference of the two fronts,
    each interpolated over log size, at all their sizes that lie within both.
    """
    pairs = list(zip(runs, rivals, strict=True))
    volumes = [[run.indicators.get("hypervolume") for run in pair] for pair in pairs]
    gains = [ours - theirs for ours, theirs in volumes if ours is not None and theirs is not None]
    errors = [each for each in (equal_size_difference(*pair) for pair in pairs) if each is not None]
    above = f"higher in {sum(gain > 0 for gain in gains)} of {len(gains)}"
    return (
        f"Hypervolume, these runs minus those they are compared with: {_interval(gains, '.4f')}; {above}\n"
        f"Test error at equal size, these runs minus those, in points: {_interval(errors, '.2f')}"
    )


def equal_size_difference(run: ComparedRun, rival: ComparedRun) -> float | None:
    """The mean difference of the test errors of both fronts at equal size, in points; None if no size lies in both."""
    fronts = [
        (np.log([p.size_kib for p in each.front]), [100 * p.test_error for p in each.front]) for each in (run, rival)
    ]
    sizes = np.unique(np.concatenate([sizes for sizes, _ in fronts]))
    low, high = max(sizes[0] for sizes, _ in fronts), min(sizes[-1] for sizes, _ in fronts)
    common = sizes[(sizes >= low) & (sizes <= high)]
    if not len(common):
        return None
    ours, theirs = (np.interp(common, *front) for front in fronts)
    return float(np.mean(ours - theirs))


def _interval(values: Sequence[float], form: str) -> str:
    """Mean, 95 % interval and the values themselves."""
    if not values:
        return ABSENT
    each = ", ".join(f"{value:+{form}}" for value in values)
    if len(values) == 1:
        return each
    interval = scipy.stats.ttest_1samp(values, 0.0).confidence_interval()
    return f"{np.mean(values):+{form}} (95 %: {interval.low:+{form}} to {interval.high:+{form}}); one by one {each}"


def resolve(name: str) -> str:
    """The commit of a revision or of an experiment's name, as git's refs hold them; raises ValueError for neither."""
    try:
        return git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()
    except GitError as error:
        if str(error):  # an unknown name is told from all else by silence
            raise GitError(f"{name}: {error}") from None
    listed = git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").decode().split("\n")
    experiments: dict[str, list[str]] = {}
    for commit, _, ref in (line.partition(" ") for line in listed):
        parts = ref.split("/")
        if len(parts) == 5 and len(parts[2]) == 2:  # refs/exps/<2 digits of the parent>/<38>/<name>
            experiments.setdefault(parts[4], []).append(commit)
    match experiments.get(name, []):
        case [commit]:
            return commit
        case []:
            known = ", ".join(sorted(experiments)) or "none"
            raise ValueError(f"{name}: expected a git revision or an experiment (of these there are: {known})")
        case several:
            raise ValueError(f"{name}: expected one experiment, found {len(several)}: {', '.join(several)}")


def read_file(commit: str | None, path: Path) -> bytes | None:
    """A file of a commit, or of the workspace for None; None if it is not there."""
    if commit is None:
        return path.read_bytes() if path.exists() else None
    listed = git("ls-tree", commit, "--", path.as_posix()).decode().split()  # mode, kind, object, path
    return git("cat-file", "blob", listed[2]) if listed else None


def _parameters(text: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:  # the reader that knows YAML as DVC writes it reads files
        copy = Path(folder) / PARAMS
        copy.write_bytes(text)
        try:
            return read_yaml(copy)
        except ParamsError as error:
            raise ParamsError(str(error).removeprefix(f"{folder}/")) from None


def _numbers(where: str, text: bytes | None) -> dict[str, float | None]:
    if text is None:
        return {}
    try:
        return TypeAdapter(dict[str, float | None]).validate_json(text)
    except ValidationError:
        raise ValueError(f"{where}: expected names and numbers, found {text[:40]!r}") from None


if __name__ == "__main__":
    sys.exit(main())
