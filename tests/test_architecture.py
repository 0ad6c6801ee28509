"""The house: wings import downwards only, and every stage depends on exactly the wings that it imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bnas.storage.source_code import imported
from tests.imports import ROOT, closure, module_file, rooms

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
TRANSFER = yaml.safe_load((ROOT / "pipeline/transfer/dvc.yaml").read_text())["stages"]
SCRIPTS = {f"pipeline.{name}": stage for name, stage in STAGES.items()}
SCRIPTS |= {f"pipeline.transfer.{name}": stage for name, stage in TRANSFER.items()}
TABULAR = yaml.safe_load((ROOT / "pipeline/tabular/dvc.yaml").read_text())["stages"]
SCRIPTS |= {f"pipeline.tabular.{name}": stage for name, stage in TABULAR.items()}
FILES = sorted([*ROOT.glob("bnas/**/*.py"), *ROOT.glob("pipeline/**/*.py")])
FLOORS = (
    ("storage",),
    ("kernels", "space"),
    ("nn", "records", "data"),
    ("packed", "training"),
    ("scoring", "firmware"),
    ("search",),
    ("report",),
    ("cli",),
    ("pipeline",),
)
"""From the lowest up. A wing imports from itself and from lower floors, not from its neighbours."""
FLOOR = {wing: number for number, floor in enumerate(FLOORS) for wing in floor}
WITHOUT_TORCH = ("space", "storage", "records", "kernels", "report", "firmware")
"""Wings whose modules import nothing of torch (but the modules below)."""
TORCH_IN = {"storage": {"checkpoint.py", "weights.py"}}


def wing(file: Path) -> str | None:
    """The wing that a file belongs to; None for `bnas/__init__.py`, which is above and below all."""
    parts = file.relative_to(ROOT).parts
    if parts[0] == "pipeline":
        return "pipeline"
    return None if parts[1] == "__init__.py" else parts[1].removesuffix(".py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_deps_are_the_wings_that_a_stage_imports(script: str) -> None:
    declared = [dep for dep in SCRIPTS[script]["deps"] if dep.startswith(("bnas/", "pipeline/"))]
    assert declared == rooms(closure(script))


def test_every_module_is_in_a_wing_of_the_plan() -> None:
    assert {wing(file) for file in FILES} - {None} == set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_run_downwards_only(file: Path) -> None:
    here = wing(file)
    for other in imported(file, ROOT):
        there = wing(other)
        assert there is None or there == here or FLOOR[there] < FLOOR[here], f"{file} imports {other}"


def test_imports_have_no_circles() -> None:
    done: set[Path] = set()

    def visit(file: Path, above: tuple[Path, ...]) -> None:
        assert file not in above, f"circle: {' -> '.join(map(str, (*above, file)))}"
        if file not in done:
            for other in imported(file, ROOT):
                visit(other, (*above, file))
            done.add(file)

    for file in FILES:
        visit(file, ())


def test_no_module_imports_a_private_name_of_another() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("bnas", "pipeline"):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], file


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_stage_runs_its_own_script(script: str) -> None:
    assert SCRIPTS[script]["cmd"] == f"python -m {script}"
    assert module_file(script).exists()


def test_a_transfer_needs_no_supernet_and_tests_only_in_the_end() -> None:
    deps = {name: set(stage["deps"]) for name, stage in TRANSFER.items()}
    own = {dep for each in deps.values() for dep in each if not dep.startswith(("bnas/", "pipeline/"))}
    assert {dep for dep in own if dep.startswith("data/")} == set(), "nothing of the main pipeline but the front"
    readers = {name for name in deps if {"transfer/data/prepared", "transfer/data/prepared/test"} & deps[name]}
    assert readers == {"retrain", "export", "report"}, "the report shows what was mistaken, and measures nothing again"


@pytest.mark.parametrize(("name", "stages"), [("transfer", TRANSFER), ("tabular", TABULAR)])
def test_no_parameter_of_a_side_pipeline_has_the_name_of_another(name: str, stages: dict[str, Any]) -> None:
    names = {key for stage in stages.values() for file in stage["params"] for keys in file.values() for key in keys}
    assert all(key.startswith(f"{name}.") for key in names), "`dvc exp show` would print file names before all"
    assert f"{name}.runtime" not in names


def test_a_table_never_sees_the_test_split() -> None:
    assert not [dep for dep in TABULAR["networks"]["deps"] if dep.startswith("tabular/data/prepared/test")]
    assert "tabular/data/prepared" not in TABULAR["networks"]["deps"]


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


def test_searches_are_compared_by_few_metrics_and_one_of_them_is_the_time() -> None:
    metrics = [file for stage in STAGES.values() for entry in stage.get("metrics", []) for file in entry]
    assert metrics == ["reports/metrics/search.json", "reports/metrics/report.json", "reports/times/total.json"]


def test_no_stage_declares_runtime_parameters() -> None:
    assert not [name for name, stage in STAGES.items() if "runtime" in stage["params"]]


def test_every_output_beside_the_small_files_is_ignored_by_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    for stage in SCRIPTS.values():
        outs = [out if isinstance(out, str) else next(iter(out)) for out in stage.get("outs", [])]
        assert [out for out in outs if f"/{out}/" not in ignored and not out.startswith("reports/")] == []


def test_torch_stays_where_it_is_needed() -> None:
    modules = [
        file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for file in FILES
        if wing(file) in WITHOUT_TORCH and file.name not in TORCH_IN.get(wing(file) or "", ())
    ]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert len(modules) > 30
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_package_imports_nothing_heavy_by_its_name() -> None:
    packages = [f"bnas.{file.parent.name}" for file in ROOT.glob("bnas/*/__init__.py")]
    heavy = "{'torch', 'numpy', 'numba', 'pandas', 'matplotlib', 'pydantic'} & set(sys.modules)"
    code = f"import sys, {', '.join(packages)}; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_selection_and_the_generation_step_import_deap() -> None:
    importers = set()
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "deap" for name in names):
                importers.add(file.relative_to(ROOT).as_posix())
    assert importers == {"bnas/search/generation.py", "bnas/search/selection.py"}
