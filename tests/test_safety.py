"""What the project's code never does, whatever its input: run text, unpickle, hand parameters to a shell."""

from __future__ import annotations

import ast

import pytest

from tests.imports import ROOT
from tests.lower_bounds import CHECKERS, constraints, requirements

FILES = sorted([*ROOT.glob("bnas/**/*.py"), *ROOT.glob("pipeline/**/*.py")])
BUILT_IN = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "pdb"}
ATTRIBUTES = {
    "os.system",
    "os.popen",
    "os.execl",
    "os.execv",
    "os.execvp",
    "os.spawnl",
    "os.spawnv",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "builtins.eval",
    "builtins.exec",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "yaml.Loader",
    "yaml.FullLoader",
    "yaml.UnsafeLoader",
    "torch.jit.load",
    "torch.hub.load",
    "pandas.read_pickle",
    "pd.read_pickle",
}


def forbidden(text: str) -> list[str]:
    """What a module's source holds of all that, with its line."""
    found = []
    for node in ast.walk(ast.parse(text)):
        for what in _of(node):
            found.append(f"{getattr(node, 'lineno', 0)}: {what}")
    return found


def _of(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names if alias.name.split(".")[0] in MODULES]
        case ast.ImportFrom(module=str(module), names=names):
            all_names = [f"{module}.{alias.name}" for alias in names]
            return [name for name in all_names if module.split(".")[0] in MODULES or name in ATTRIBUTES]
        case ast.Name(id=name, ctx=ast.Load()) if name in BUILT_IN:
            return [name]
        case ast.Attribute() if ast.unparse(node) in ATTRIBUTES:
            return [ast.unparse(node)]
        case ast.Call(func=func, keywords=keywords):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in keywords}
            called = ast.unparse(func)
            return [
                *(["shell=True"] if given.get("shell", "False") != "False" else []),
                *(["allow_pickle=True"] if given.get("allow_pickle", "False") != "False" else []),
                *([called] if called == "torch.load" and given.get("weights_only") != "True" else []),
            ]
    return []


TERMINAL = ROOT / "bnas/storage/terminal.py"
"""The one place that decides what is harmless to print, and that writes to stderr."""


def told_elsewhere(text: str) -> list[str]:
    """Where a module escapes text or prints to stderr by itself."""
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(text))
        if (isinstance(node, ast.Attribute) and node.attr == "isprintable")
        or (isinstance(node, ast.Constant) and node.value == "unicode_escape")
        or (isinstance(node, ast.Call) and "sys.stderr" in {ast.unparse(keyword.value) for keyword in node.keywords})
    ]


def test_text_is_made_harmless_and_complained_of_in_one_place() -> None:
    modules = [path for path in FILES if path != TERMINAL]
    found = {path.relative_to(ROOT).as_posix(): told_elsewhere(path.read_text()) for path in modules}
    assert {path: places for path, places in found.items() if places} == {}
    assert len(told_elsewhere(TERMINAL.read_text())) == 3


def test_no_code_is_run_from_data_and_nothing_is_unpickled() -> None:
    assert {path.relative_to(ROOT).as_posix(): found for path in FILES if (found := forbidden(path.read_text()))} == {}


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "run = exec",
        "import pickle",
        "from pickle import loads",
        "import os; os.system(command)",
        "from os import system",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "class Mine(yaml.UnsafeLoader): ...",
    ],
)
def test_each_of_them_would_be_found(line: str) -> None:
    assert forbidden(line)


@pytest.mark.parametrize("line", ["network.eval()", "torch.load(path, weights_only=True)", "re.compile('a')"])
def test_what_looks_alike_is_allowed(line: str) -> None:
    assert forbidden(line) == []


def test_every_dependency_has_a_lower_and_an_upper_bound_and_every_checker_one_version() -> None:
    checkers = {requirement.partition("==")[0] for requirement in requirements() if CHECKERS.fullmatch(requirement)}
    assert checkers >= {"mypy", "ruff", "pandas-stubs", "scipy-stubs", "types-PyYAML", "types-tqdm"}
    assert len(constraints()) == len(requirements()) - len(checkers) > 20
