"""The house: imports run downwards, and every stage declares exactly the files it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from jinja2 import Environment, meta

from tests.imports import ROOT, closure, file_of, imported, relative

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
TRANSFER = yaml.safe_load((ROOT / "pipeline/transfer/dvc.yaml").read_text())["stages"]
SCRIPTS = {f"pipeline.{name}": stage for name, stage in STAGES.items()}
SCRIPTS |= {f"pipeline.transfer.{name}": stage for name, stage in TRANSFER.items()}
FILES = sorted([*ROOT.glob("bnas/**/*.py"), *ROOT.glob("pipeline/**/*.py")])
WITHOUT_TORCH = (
    "space",
    "pareto",
    "evolve",
    "results",
    "analysis",
    "figures",
    "cell_graph",
    "markdown",
    "baselines",
    "parts",
    "page.build",
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_deps_are_the_import_closure(script: str) -> None:
    file = file_of(script)
    assert file is not None
    code = relative(closure(file))
    declared = [dep for dep in SCRIPTS[script]["deps"] if dep.startswith(("bnas/", "pipeline/"))]
    assert sorted(declared) == sorted(code + (page_files() if "bnas/page/build.py" in code else []))


def page_files() -> list[str]:
    """What the report's page is made of beside code: its templates, those they refer to, styles and script."""
    folder = ROOT / "bnas" / "page" / "templates"
    seen, todo = set(), ["index.html.j2"]
    while todo:
        name = todo.pop()
        seen.add(name)
        todo += {*meta.find_referenced_templates(Environment().parse((folder / name).read_text()))} - seen
    return relative({folder / name for name in (*seen, "page.css", "page.js")})


def test_the_key_of_a_finished_network_knows_all_code_that_trained_it() -> None:
    from pipeline.retrain import TRAINING_CODE

    assert [f"bnas/{name}.py" for name in TRAINING_CODE] == relative(closure(ROOT / "bnas" / "family.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stage_runs_its_own_script(script: str) -> None:
    assert SCRIPTS[script]["cmd"] == f"python -m {script}"


def test_a_transfer_needs_no_supernet_and_tests_only_in_the_end() -> None:
    deps = {name: set(stage["deps"]) for name, stage in TRANSFER.items()}
    own = {dep for each in deps.values() for dep in each if not dep.startswith(("bnas/", "pipeline/"))}
    assert {dep for dep in own if dep.startswith("data/")} == set(), "nothing of the main pipeline but the front"
    readers = {name for name in deps if {"transfer/data/prepared", "transfer/data/prepared/test"} & deps[name]}
    assert readers == {"retrain", "export", "report"}, "the report shows what was mistaken, and measures nothing again"


def test_no_parameter_of_a_transfer_has_the_name_of_another() -> None:
    names = {key for stage in TRANSFER.values() for file in stage["params"] for keys in file.values() for key in keys}
    assert all(name.startswith("transfer.") for name in names), "`dvc exp show` would print file names before all"
    assert "transfer.runtime" not in names


def test_nothing_before_retraining_sees_the_test_split() -> None:
    def reads_test(dep: str) -> bool:
        return dep.rstrip("/") in ("data", "data/prepared") or dep.startswith("data/prepared/test")

    readers = {name for name, stage in STAGES.items() if any(map(reads_test, stage["deps"]))}
    assert readers == {"retrain", "export", "report"}
    shown = [dep for dep in STAGES["report"]["deps"] if reads_test(dep)]
    assert shown == ["data/prepared/test"], "the report shows what was mistaken, and measures nothing again"


def test_no_stage_depends_on_times() -> None:
    deps = [dep for stage in STAGES.values() for dep in stage["deps"]]
    assert not [dep for dep in deps if dep.startswith("reports/")]


def test_no_stage_declares_runtime_parameters() -> None:
    assert not [name for name, stage in STAGES.items() if "runtime" in stage["params"]]


def test_imports_have_no_circles() -> None:
    done: set[str] = set()

    def visit(path, above: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
        name = path.relative_to(ROOT).as_posix()
        assert name not in above, f"circle: {' -> '.join((*above, name))}"
        if name not in done:
            for other in imported(path):
                visit(other, (*above, name))
            done.add(name)

    for file in FILES:
        visit(file, ())


def test_the_library_never_imports_the_pipeline() -> None:
    for file in ROOT.glob("bnas/**/*.py"):
        assert not [p for p in imported(file) if p.relative_to(ROOT).parts[0] == "pipeline"], file


def test_every_cached_output_is_ignored_by_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    for stage in SCRIPTS.values():
        for out in stage.get("outs", []):
            assert f"/{out}/" in ignored


def test_torch_stays_where_it_is_needed() -> None:
    modules = [f"bnas.{name}" for name in WITHOUT_TORCH]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_only_evolve_imports_deap() -> None:
    users = {file.name for file in FILES if "deap" in file.read_text() and "import" in file.read_text()}
    importers = (
        {
            name
            for name in users
            if any(
                line.strip().startswith(("from deap", "import deap"))
                for line in (ROOT / "bnas" / name).read_text().splitlines()
            )
        }
        if users
        else set()
    )
    assert importers == {"evolve.py"}
