"""`make chaos`: kill a tiny `dvc repro` at random moments, start it again, and compare the end with an undisturbed run.

The whole process group is killed (SIGKILL, and now and then what Ctrl-C and a scheduler send first). One round goes
on until the pipeline has come to its end; rounds follow until there were enough kills. The table goes to
`reports/chaos.md`. With `--keep` the kills are added to those of earlier calls.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.imports import ROOT
from tests.pipeline.workspace import STAGES, Workspace

LONGEST = 6.0
"""Seconds after the start of a stage at which a run is killed at the latest: somewhat more than a stage takes."""

AHEAD = 3
"""Stages that a run may start, at the most, before the seconds are counted."""

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

PARAMETERS: dict[str, object] = {"stage1.epochs": 2, "stage1.generations": 2, "retrain.epochs": 3}
"""As tiny as in other tests, but with something to stop between."""


@dataclass(frozen=True)
class Kill:
    """One interruption: in which stage (`dvc` where none had started), by which signal, and when.

    `seconds` counts from the start of that stage or of one before it.
    """

    seconds: float
    stage: str
    signal: str


@dataclass(frozen=True)
class Round:
    """One pipeline run with its interruptions, and what differed in the end."""

    kills: tuple[Kill, ...]
    files: int
    different: tuple[str, ...]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a finished run but times and the report's rendering, which holds times."""
    files = [p for top in ("data", "reports") for p in (folder / top).rglob("*") if p.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    passed_over = ("reports/times/", "reports/report.md", "reports/index.html", "reports/figures")
    return {n: p.read_bytes() for n, p in sorted(names.items()) if not n.startswith(passed_over)}


def interrupt(workspace: Workspace, stages: int, seconds: float, number: signal.Signals) -> Kill | None:
    """Start `dvc repro` and kill its process group so many seconds after so many stages have started.

    None if it came to its end before.
    """
    with tempfile.NamedTemporaryFile("w") as output:
        log = Path(output.name)
        process = subprocess.Popen(
            [Path(sys.executable).with_name("dvc"), "repro"],
            cwd=workspace.folder,
            env=workspace.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None and len(started(log)) < stages:
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(timeout=seconds):
                raise AssertionError(f"dvc repro exited {process.returncode}\n{log.read_text()}")
            return None
        os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        end_group(process.pid)
        process.wait()
        remove_cut_rwlock(workspace.folder)
        return Kill(round(seconds, 2), ["dvc", *started(log)][-1], number.name)


def remove_cut_rwlock(folder: Path) -> None:
    """As docs/resuming.md says: DVC writes this file in place, so that a kill at that moment leaves it empty."""
    path = folder / ".dvc/tmp/rwlock"
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        return
    except ValueError:
        path.unlink()


def started(log: Path) -> list[str]:
    """The stages that a run says it has started."""
    return re.findall(r"^Running stage '(\w+)'", log.read_text(), flags=re.MULTILINE)


def end_group(group: int) -> None:
    """Kill what is left of a process group, and wait until nothing is."""
    while living(group):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        time.sleep(0.01)


def living(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def disturbed(
    workspace: Workspace, reference: dict[str, bytes], rng: random.Random, most: int, ahead: int = AHEAD
) -> Round:
    """Interrupt a workspace's run at random moments, `most` times at the most, until it comes to its end."""
    kills: list[Kill] = []
    while len(kills) < most:
        kill = interrupt(workspace, rng.randint(0, ahead), rng.uniform(0, LONGEST), rng.choice(SIGNALS))
        if kill is None:
            break
        kills.append(kill)
    workspace.run("dvc", "repro")
    found = contents(workspace.folder)
    names = sorted(reference.keys() | found.keys())
    return Round(tuple(kills), len(names), tuple(name for name in names if reference.get(name) != found.get(name)))


def rounds(kills: int, seed: int, report: Callable[[Round], None]) -> None:
    """Rounds in fresh workspaces until there were so many kills."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        reference = contents(tiny(Path(folder), run=True).folder)
    while kills > 0:
        with tempfile.TemporaryDirectory() as folder:
            done = disturbed(tiny(Path(folder)), reference, rng, kills)
        kills -= len(done.kills)
        report(done)


def tiny(folder: Path, *, run: bool = False) -> Workspace:
    """A fresh workspace with tiny parameters."""
    workspace = Workspace(folder)
    for key, value in PARAMETERS.items():
        workspace.set(key, value)
    if run:
        workspace.repro()
    return workspace


def table(done: Iterable[Round]) -> str:
    """The rounds as Markdown."""
    done = list(done)
    where: Counter[str] = Counter(kill.stage for each in done for kill in each.kills)
    how: Counter[str] = Counter(kill.signal for each in done for kill in each.kills)
    different = sum(len(each.different) for each in done)
    lines = [
        "# Interrupted runs",
        "",
        "`make chaos` starts a tiny `dvc repro`, kills its whole process group at a random moment, starts it again,",
        "and so on until it comes to its end; then every file under `data/` and `reports/` (times and the report's",
        "rendering aside) is compared with that of an undisturbed run.",
        "",
        f"**Kills: {sum(where.values())}, in {len(done)} pipeline runs. Files that differed in the end: {different}.**",
        f"By signal: {', '.join(f'{count} {name}' for name, count in sorted(how.items()))}.",
        "",
        "| killed in | times |",
        "|---|---|",
        *(f"| {stage} | {where[stage]} |" for stage in ("dvc", *STAGES) if where[stage]),
        "",
        "| run | kills: stage (seconds after its start, or that of one before it) | files compared | different |",
        "|---|---|---|---|",
    ]
    for number, each in enumerate(done, 1):
        kills = ", ".join(f"{kill.stage} ({kill.seconds:.1f})" for kill in each.kills) or "none"
        lines.append(f"| {number} | {kills} | {each.files} | {', '.join(each.different) or 'none'} |")
    return "\n".join(lines) + "\n"


def read_rounds(path: Path) -> list[Round]:
    """What an earlier call kept."""
    if not path.exists():
        return []
    return [
        Round(tuple(Kill(**kill) for kill in each["kills"]), each["files"], tuple(each["different"]))
        for each in json.loads(path.read_text())
    ]


def main() -> int:
    """1 if any file differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="file that collects the rounds of several calls")
    parser.add_argument("--table", type=Path, default=ROOT / "reports" / "chaos.md")
    options = parser.parse_args()
    done = read_rounds(options.keep) if options.keep else []

    def report(each: Round) -> None:
        done.append(each)
        print(f"run {len(done)}: {len(each.kills)} kills, different: {', '.join(each.different) or 'none'}", flush=True)
        if options.keep:
            options.keep.write_text(json.dumps([asdict(one) for one in done]))
        options.table.write_text(table(done))

    rounds(options.kills, options.seed, report)
    return int(any(each.different for each in done))


if __name__ == "__main__":
    sys.exit(main())
