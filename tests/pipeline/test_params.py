"""Laws of the parameter loader: right values in, one clear line for anything else."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from bnas.space.operations import OPERATIONS
from pipeline.params import Params, ParamsError, ParamsWarning, UndeclaredSectionError, load

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "params.yaml"
DEFAULTS: dict[str, Any] = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
ABSENT = object()


def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for name, value in tree.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]
    return found


LEAVES = leaves(DEFAULTS)
SECTIONS = sorted({leaf.rpartition(".")[0] for leaf in LEAVES} | {"network"})
MODELS_ONCE = [
    leaf
    for leaf in LEAVES
    if not leaf.startswith(("stage2.", "search.variation.", "network.final.")) or "path_dropout" in leaf
]
"""The leaves without those whose model stands at another key already."""


def value_of(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree[name] if isinstance(tree, dict) else getattr(tree, name)
    return tree


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The defaults with the values at these keys replaced, added, or (ABSENT) removed."""
    tree = copy.deepcopy(DEFAULTS)
    for key, value in changes.items():
        *parents, name = key.split(".")
        section = value_of(tree, ".".join(parents)) if parents else tree
        if value is ABSENT:
            del section[name]
        else:
            section[name] = value
    return tree


def raw(key: str, text: str) -> str:
    """The defaults with this YAML text, as it is, for the value at `key`."""
    return json.dumps(changed({key: "@@"}), indent=1).replace('"@@"', text)


@pytest.fixture(autouse=True)
def _outside_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)


class Workspace:
    """A folder with a params.yaml."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "params.yaml"
        self.dvc_file = folder / "dvc.yaml"

    def load(self, content: str | bytes | dict[str, Any]) -> Params:
        if isinstance(content, dict):
            content = json.dumps(content)
        self.file.write_bytes(content.encode() if isinstance(content, str) else content)
        return load(self.file)

    def refuse(self, content: str | bytes | dict[str, Any]) -> str:
        """The one line that refuses this content, without the name of the file."""
        with pytest.raises(ParamsError) as caught:
            self.load(content)
        return self.line(caught.value)

    def line(self, error: ParamsError, file: Path | None = None) -> str:
        text, name = str(error), str(file or self.file)
        assert len(text.splitlines()) == 1
        assert text.startswith(name)
        assert ": expected " in text
        assert len(text) < len(name) + 600
        return text.removeprefix(name).removeprefix(": ")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


# The committed file


def test_default_file_is_valid_and_read_as_written() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(DEFAULT).as_dict() == DEFAULTS


def test_default_file_explains_every_key_where_it_first_stands() -> None:
    explained = set()
    for line in DEFAULT.read_text(encoding="utf-8").splitlines():
        code, _, comment = line.partition(" #")
        if ":" in code:
            name = code.partition(":")[0].strip()
            if comment:
                explained.add(name)
    obvious = {"seed", "weight_decay", "channels", "cells", "objectives", "report", "retrain", "epochs"}
    assert {leaf.rpartition(".")[2] for leaf in LEAVES} - explained - obvious == set()


def test_default_operations_are_all_those_of_the_space() -> None:
    params = load(DEFAULT)
    assert params.space.operations == OPERATIONS[params.space.name]


def test_importing_the_loader_imports_neither_torch_nor_dvc() -> None:
    code = "import sys, pipeline.params; print([m for m in ('torch', 'dvc', 'numpy') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"


# Every key


@pytest.mark.parametrize("key", [*LEAVES, *SECTIONS])
def test_missing_key_is_named(ws: Workspace, key: str) -> None:
    line = ws.refuse(changed({key: ABSENT}))
    assert line.startswith(f"{key}: expected ")
    assert line.endswith(", found nothing")


@pytest.mark.parametrize("key", [*MODELS_ONCE, *SECTIONS])
def test_null_is_no_value(ws: Workspace, key: str) -> None:
    line = ws.refuse(changed({key: None}))
    assert line.startswith(f"{key}: expected ")
    assert line.endswith(", found nothing (null)")


@pytest.mark.parametrize("key", MODELS_ONCE)
@pytest.mark.parametrize(("value", "found"), [([], "a list"), ("text", "the text 'text'")])
def test_value_of_another_kind_is_refused(ws: Workspace, key: str, value: Any, found: str) -> None:
    if key in ("retrain.hand_designed_channels", "retrain.published") and value == []:
        assert value_of(ws.load(changed({"retrain.published": [], key: value})), key) == ()
    elif (key, value) in (("runtime.data_root", "text"), ("data.title", "text")):
        assert value_of(ws.load(changed({key: value})), key) == "text"
    else:
        line = ws.refuse(changed({key: value}))
        assert line.startswith(f"{key}: expected ")
        assert line.endswith(f", found {found}")


@pytest.mark.parametrize("key", ["data.seed", "stage1.learning_rate", "network.sign", "space.operations"])
def test_section_in_place_of_a_value_is_refused(ws: Workspace, key: str) -> None:
    line = ws.refuse(changed({key: {"a": 1}}))
    assert line.startswith(f"{key}: expected ")
    assert line.endswith(", found keys below it")


@pytest.mark.parametrize("key", [*MODELS_ONCE, *SECTIONS])
def test_misspelt_key_is_named_with_the_nearest(ws: Workspace, key: str) -> None:
    misspelt = key + "s"
    line = ws.refuse(changed({key: ABSENT, misspelt: value_of(DEFAULTS, key)}))
    assert line == f"{misspelt}: expected a known key (did you mean {key}?), found an unknown one"


@pytest.mark.parametrize("key", MODELS_ONCE)
def test_boolean_is_no_number_and_number_no_boolean(ws: Workspace, key: str) -> None:
    value = value_of(DEFAULTS, key)
    if isinstance(value, bool):
        assert ws.refuse(changed({key: 0})) == f"{key}: expected true or false, found 0"
    elif isinstance(value, int | float):
        line = ws.refuse(changed({key: True}))
        assert line.startswith(f"{key}: expected ")
        assert line.endswith(", found true")


@pytest.mark.parametrize("key", [leaf for leaf in MODELS_ONCE if type(value_of(DEFAULTS, leaf)) is int])
def test_integer_is_neither_a_fraction_nor_a_whole_float_nor_negative(ws: Workspace, key: str) -> None:
    for value in (4.5, 4.0, -4):
        line = ws.refuse(changed({key: value}))
        assert line.startswith(f"{key}: expected an integer")
        assert line.endswith(f", found {value!r}")


@pytest.mark.parametrize("key", [leaf for leaf in MODELS_ONCE if type(value_of(DEFAULTS, leaf)) is float])
@pytest.mark.parametrize("text", [".nan", "-.inf", "1e999", "-0.001", '"1e-05"'])
def test_number_is_finite_not_negative_and_no_text(ws: Workspace, key: str, text: str) -> None:
    line = ws.refuse(raw(key, text))
    assert line.startswith(f"{key}: expected a number")
    found = {".nan": "nan", "-.inf": "-inf", "1e999": "inf", '"1e-05"': "the text '1e-05'"}
    assert line.endswith(f", found {found.get(text, text)}")


@pytest.mark.parametrize("key", ["stage1.weight_decay", "stage2.variation.crossover", "retrain.final_learning_rate"])
def test_integer_serves_as_number(ws: Workspace, key: str) -> None:
    value = value_of(ws.load(raw(key, "0")), key)
    assert (type(value), value) == (float, 0.0)


# Ranges and rules between keys

BEYOND = [
    ("stage1.population", 30, "an integer of at least 4 and of at most 65536 and a multiple of 4"),
    ("stage2.population", 0, "an integer of at least 4 and of at most 65536 and a multiple of 4"),
    ("search.population", 2, "an integer of at least 4 and of at most 65536 and a multiple of 4"),
    ("data.seed", 2**32, "an integer of at least 0 and below 4294967296"),
    ("data.test_fraction", 0, "a number above 0 and below 1"),
    ("data.test_fraction", 1.0, "a number above 0 and below 1"),
    ("data.test_fraction", 0.84, "validation_fraction: expected a number below 1 - test_fraction"),
    ("data.name", "mnist", "one of mnist5k, cifar10, cifar100, fashion_mnist, image_folder, imagenet"),
    ("data.title", "two\nlines", "a text of printable characters"),
    ("data.image_size", 28, "0 for mnist5k, whose images are 28x28"),
    ("data.image_size", 1025, "an integer of at least 0 and of at most 1024"),
    ("data.on_bad_file", "ignore", "one of error, skip"),
    ("data.augmentation.cutout", 28, "an integer below the images' 28 pixels"),
    ("data.augmentation.cutout", -1, "an integer of at least 0 and of at most 512"),
    ("data.augmentation.color_jitter", 1.1, "a number of at least 0 and of at most 1"),
    ("data.augmentation.random_resized_crop", 1, "true or false"),
    ("runtime.loader_workers", -1, "an integer of at least 0 and of at most 1024"),
    ("space.name", "DARTS", "one of bnas, darts"),
    ("space.operations", ["bin_conv_3x3", "conv_3x3"], "[1]: expected one of skip_connect, max_pool_3x3"),
    ("space.operations", ["bin_conv_3x3", "bin_conv_3x3"], "[1]: expected each operation once"),
    ("space.operations", ["bin_conv_3x3", 3], "[1]: expected a text"),
    ("space.operations", [], "a list of at least one value"),
    ("space.nodes", 0, "an integer of at least 1 and of at most 8"),
    ("space.nodes", 9, "an integer of at least 1 and of at most 8"),
    ("space.sampling", "stratified", "one of size_stratified, uniform"),
    ("network.supernet.channels", 0, "an integer of at least 1 and of at most 4096"),
    ("network.final.cells", 2, "an integer of at least 3 and of at most 256"),
    ("network.stem_stride", 3, "one of 1, 2, 4, 8"),
    ("network.stem_stride", 16, "an integer of at least 1 and of at most 8"),
    ("network.sign", "tanh", "one of approx, ste"),
    ("objectives.margin", 0.99, "a number of at least 1"),
    ("stage1.selection", "two_stage", "one of nsga2, auxiliary, alternate, cars, bins"),
    ("stage1.epochs_per_generation", 0, "an integer of at least 1"),
    ("stage1.batch_size", 1, "an integer of at least 2"),
    ("stage1.learning_rate", 0, "a number above 0"),
    ("stage1.final_learning_rate", 0.004, "a number of at most learning_rate (0.003)"),
    ("stage2.final_learning_rate", 0.004, "a number of at most learning_rate (0.001)"),
    ("retrain.final_learning_rate", 1.0, "a number of at most learning_rate (0.02)"),
    ("stage1.variation.crossover", 1.5, "a number of at least 0 and of at most 1"),
    ("stage2.evaluation.mode", "partial", "one of minibatch, full"),
    ("stage2.evaluation.batch_norm", "running", "one of batch, recalibrated"),
    ("stage2.path_dropout.mode", "edge", "one of none, sample, batch"),
    ("stage2.path_dropout.maximum", 1, "a number of at least 0 and below 1"),
    ("search.selection", "random", "one of nsga2, auxiliary, alternate, cars, bins, two_stage"),
    ("search.generations", 0, "an integer of at least 1"),
    ("search.evaluation.batches", 0, "an integer of at least 1"),
    ("trial.candidates", 0, "an integer of at least 1 and of at most 64"),
    ("retrain.count", 0, "an integer of at least 1"),
    ("retrain.drop_path", 1.0, "a number of at least 0 and below 1"),
    ("retrain.hand_designed_channels", [4, 0], "[1]: expected an integer of at least 1"),
    ("retrain.hand_designed_channels", [4, 8, 4], "[2]: expected each width once, found 4 again"),
    ("retrain.published", ["bats"], "[0]: expected one of ebnas, bnas, found the text 'bats'"),
    ("report.figure_format", "pdf", "one of svg, png"),
    ("report.size_bins", 0, "an integer of at least 1 and of at most 1024"),
    ("runtime.device", "gpu", "one of auto, cpu, cuda"),
    ("runtime.threads", 0, "an integer of at least 1 and of at most 1024"),
    ("runtime.workers", 10**9, "an integer of at least 1 and of at most 1024"),
    ("runtime.data_root", "", "a text that is not empty"),
    ("runtime.data_root", "~/Pictures", "a path without ~, which is not expanded"),
]


def test_a_title_that_fills_the_page_is_refused(ws: Workspace) -> None:
    ws.load(changed({"data.title": "x" * 80}))
    line = ws.refuse(changed({"data.title": "x" * 81}))
    assert line.startswith("data.title: expected a text of at most 80 characters, found the text 'xxx")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"data.name": "cifar10", "data.image_size": 32},
            "data.image_size: expected 0 for cifar10, whose images are 32x32",
        ),
        (
            {"data.name": "cifar10", "data.augmentation.cutout": 32},
            "data.augmentation.cutout: expected an integer below",
        ),
        ({"data.name": "imagenet"}, "data.image_size: expected an integer of at least 1 for imagenet, found 0"),
        (
            {"data.name": "image_folder", "data.image_size": 16, "data.augmentation.cutout": 16},
            "data.augmentation.cutout: expected an integer below the images' 16 pixels, found 16",
        ),
        (
            {"data.augmentation.shift": 30},
            "data.augmentation.shift: expected an integer below the images' 28 pixels, found 30",
        ),
        (
            {"data.name": "image_folder", "data.image_size": 16, "data.augmentation.shift": 16},
            "data.augmentation.shift: expected an integer below the images' 16 pixels, found 16",
        ),
    ],
)
def test_what_does_not_fit_the_images_is_refused(ws: Workspace, changes: dict[str, Any], line: str) -> None:
    assert ws.refuse(changed(changes)).startswith(line)
    key = line.partition(":")[0]
    ws.load(changed(changes | {key: 0 if key in changes else 224}))


@pytest.mark.parametrize(("key", "value", "expected"), BEYOND)
def test_value_out_of_range_is_refused_with_the_range(ws: Workspace, key: str, value: Any, expected: str) -> None:
    line = ws.refuse(changed({key: value}))
    assert line.startswith(key.rpartition(".")[0])
    assert key in line or expected in line
    assert expected in line
    if not isinstance(value, list) and "validation_fraction" not in expected:
        assert line.startswith(f"{key}: expected {expected}, found ")
        assert line.endswith(repr(value))


def test_stage1_without_generations_needs_epochs(ws: Workspace) -> None:
    line = ws.refuse(changed({"stage1.epochs": 0, "stage1.generations": 0}))
    assert line == "stage1.epochs: expected an integer of at least 1 where generations is 0, found 0"


@pytest.mark.parametrize("generations", list(itertools.product((0, 3), repeat=2)))
def test_either_stage_may_go_without_generations(ws: Workspace, generations: tuple[int, int]) -> None:
    first, second = generations
    params = ws.load(changed({"stage1.generations": first, "stage2.generations": second}))
    assert (params.stage1.generations, params.stage2.generations) == generations


def test_population_cannot_exceed_the_space(ws: Workspace) -> None:
    tiny = {"space.nodes": 1, "space.operations": ["skip_connect", "bin_conv_3x3"]}
    line = ws.refuse(changed({**tiny, "stage1.population": 4, "search.population": 16, "trial.population": 16}))
    assert line.startswith("stage2.population: expected an integer of at most 16")
    assert line.endswith("found 32")


def test_several_problems_are_counted_and_the_first_reported(ws: Workspace) -> None:
    changes = {"stage1.population": 3, "search.generations": 0, "retrain.epochs": "many"}
    line = ws.refuse(changed(changes))
    assert line.startswith("stage1.population: expected ")
    assert line.endswith(", found 3 (and 2 more)")


def test_key_nothing_like_a_known_one_is_refused_with_all_known(ws: Workspace) -> None:
    line = ws.refuse(changed({"network.final.xyz": 1}))
    assert line == "network.final.xyz: expected a known key (channels, cells), found an unknown one"


def test_misspelt_section_is_named_with_the_nearest(ws: Workspace) -> None:
    line = ws.refuse(changed({"stage2": ABSENT, "stagge2": DEFAULTS["stage2"]}))
    assert line == "stagge2: expected a known key (did you mean stage2?), found an unknown one"


def test_strange_keys_and_values_stay_on_one_short_line(ws: Workspace) -> None:
    assert ws.refuse({**DEFAULTS, "a\nb\u2028c": 1}).startswith(r"'a\nb\u2028c': expected ")
    assert "'" + "x" * 60 + "'..." in ws.refuse(changed({"space.sampling": "x" * 10_000}))
    ws.refuse({**DEFAULTS, "x" * 10_000: 1})


@pytest.mark.parametrize("rule", ["nsga2", "auxiliary", "alternate", "cars", "two_stage"])
def test_search_accepts_every_selection_rule(ws: Workspace, rule: str) -> None:
    assert ws.load(changed({"search.selection": rule})).search.selection == rule


def test_a_trial_trains_no_longer_than_its_schedule_and_finalists_longer_than_the_rest(ws: Workspace) -> None:
    line = ws.refuse(changed({"trial.epochs": 11}))
    assert line == "trial.schedule_epochs: expected an integer of at least epochs (11), found 10"
    line = ws.refuse(changed({"trial.finalists": 2, "trial.epochs": 3}))
    assert line == "trial.finalist_epochs: expected an integer above epochs (3) where there are finalists, found 3"


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        (
            {"search.population": 32, "search.generations": 12, "search.immigrants": 16, "retrain.count": 433},
            432,  # 32 · (12 + 1) + 16
        ),
        (
            {
                "space.nodes": 1,
                "space.operations": ["skip_connect", "bin_conv_3x3"],
                "stage1.population": 4,
                "stage2.population": 4,
                "search.population": 4,
                "trial.population": 4,
                "retrain.count": 17,
            },
            16,
        ),
    ],
)
def test_more_networks_than_the_front_can_have_is_a_warning(ws: Workspace, changes: dict[str, Any], bound: int) -> None:
    with pytest.warns(ParamsWarning, match=f"retrain.count: expected an integer of at most {bound}") as caught:
        ws.load(changed(changes))
    assert len(caught) == 1
    assert len(str(caught[0].message).splitlines()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ws.load(changed({**changes, "retrain.count": bound}))


# YAML 1.2, as DVC writes it


def dumped(key: str, value: Any) -> str:
    """The defaults with one value replaced, its section written as DVC writes: by ruamel."""
    tree = changed({key: value})
    section = key.partition(".")[0]
    stream = io.StringIO()
    YAML().dump({section: tree.pop(section)}, stream)
    return "".join(f"{name}: {json.dumps(rest)}\n" for name, rest in tree.items()) + stream.getvalue()


SCALARS = [
    ("stage1.weight_decay", "1e-05", 1e-05),
    ("stage1.weight_decay", "1e5", 1e5),
    ("stage1.weight_decay", "1.e-3", 1e-3),
    ("stage1.weight_decay", ".5", 0.5),
    ("stage1.weight_decay", "+1E+2", 100.0),
    ("stage1.weight_decay", "3", 3.0),
    ("data.seed", "010", 10),
    ("data.seed", "0o10", 8),
    ("data.seed", "0x1F", 31),
    ("data.seed", "+7", 7),
    ("data.augmentation.flip", "True", True),
    ("data.augmentation.flip", "FALSE", False),
    *(
        ("runtime.data_root", text, text)
        for text in (
            "on",
            "off",
            "yes",
            "NO",
            "y",
            "2001-01-01",
            "12:30:45",
            "1_000",
            "<<",
            "=",
            "0b1",
            "tRUE",
        )
    ),
    ("runtime.data_root", "'010'", "010"),
    ("runtime.data_root", '"1e-05"', "1e-05"),
    ("runtime.data_root", "!!str 12", "12"),
]


@pytest.mark.parametrize(("key", "text", "value"), SCALARS)
def test_plain_scalars_follow_the_core_schema(ws: Workspace, key: str, text: str, value: Any) -> None:
    found = value_of(ws.load(raw(key, text)), key)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("text", ["1_000", "1:30", "0b11", "1 000", "five", "2001-01-01"])
def test_text_that_only_looks_like_an_integer_is_refused(ws: Workspace, text: str) -> None:
    line = ws.refuse(raw("data.seed", text))
    assert line == f"data.seed: expected an integer of at least 0 and below 4294967296, found the text {text!r}"


@pytest.mark.parametrize("text", ["on", "off", "yes", "NO", "y", "n"])
def test_only_true_and_false_are_booleans(ws: Workspace, text: str) -> None:
    line = ws.refuse(raw("data.augmentation.flip", text))
    assert line == f"data.augmentation.flip: expected true or false, found the text {text!r}"


same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
@settings(same_folder, max_examples=30)
def test_number_written_by_dvc_is_read_back(ws: Workspace, value: float) -> None:
    assert ws.load(dumped("stage1.weight_decay", value)).stage1.weight_decay == value


@given(st.integers(0, 2**32 - 1))
@settings(same_folder, max_examples=15)
def test_integer_written_by_dvc_is_read_back(ws: Workspace, value: int) -> None:
    assert ws.load(dumped("search.seed", value)).search.seed == value


LOOKALIKES = [
    "on",
    "off",
    "yes",
    "NO",
    "y",
    "010",
    "0o7",
    "0x1F",
    "1e-05",
    "1e5",
    "1_0",
    ".5",
    ".inf",
    ".nan",
    "~",
    "null",
    "true",
    "<<",
    "=",
    "1:30",
    "-",
    "?",
    "2001-01-01",
]


@given(st.sampled_from(LOOKALIKES) | st.text(st.characters(exclude_categories=["Cs", "Cc", "Co", "Cn"]), min_size=1))
@settings(same_folder, max_examples=60)
def test_text_written_by_dvc_is_read_back(ws: Workspace, value: str) -> None:
    path = f"./{value}" if value.startswith("~") else value
    assert ws.load(dumped("runtime.data_root", path)).runtime.data_root == path


def test_overrides_of_dvc_experiments_are_read_back(ws: Workspace) -> None:
    from dvc.utils.hydra import apply_overrides

    ws.load(DEFAULT.read_bytes())
    overrides = ["stage1.final_learning_rate=1e-5", "search.seed=2", "retrain.hand_designed_channels=[8]"]
    apply_overrides(ws.file, [*overrides, "data.augmentation.flip=true", "search.selection=two_stage"])
    params = load(ws.file)
    assert params.stage1.final_learning_rate == 1e-05
    assert params.search.seed == 2
    assert params.retrain.hand_designed_channels == (8,)
    assert params.data.augmentation.flip is True
    assert params.search.selection == "two_stage"


# Files that are no params.yaml


@pytest.mark.parametrize(
    ("content", "start", "found"),
    [
        ("", "expected the sections data, space", "nothing (null)"),
        ("# nothing\n", "expected the sections data, space", "nothing (null)"),
        ("- a\n- b\n", "expected the sections data, space", "a list"),
        ("just words", "expected the sections data, space", "the text 'just words'"),
        ("3", "expected the sections data, space", "3"),
        (b"a: \xff\n", "expected text in UTF-8", "byte 0xff"),
        ("data:\n  seed: 1\n seed: 2\n", ", line 3: expected valid YAML", "an error (expected <block end>"),
        (
            "a: 1\nb: c: d\n",
            ", line 2: expected valid YAML",
            "an error (mapping values are not allowed here)",
        ),
        ("a: 1\n\tb: 2\n", ", line 2: expected valid YAML", r"an error (found character '\t'"),
        ("a: [1, 2", ", line 1: expected valid YAML", "an error (expected ',' or ']'"),
        ("a: 1\nb: \x00\n", ", line 2: expected valid YAML", "an error (the character 0x00)"),
        ("a: 1\n--- \nb: 2\n", ", line 2: expected valid YAML", "an error (but found another document)"),
        ("a: &x 1\nb: *x\n", ", line 2: expected valid YAML", "an error (an alias, which is not supported)"),
        ("a: &x [*x]\n", ", line 1: expected valid YAML", "an error (an alias, which is not supported)"),
        ('a: "\\UFFFFFFFF"\n', "expected valid YAML", "an error"),
        ("a: " + "[" * 600, "expected valid YAML", "an error (too many levels)"),
        ("a: 1\nb: {c: 2, c: 3}\n", "b.c: expected the key once", "it again in line 2"),
        ("a: 1\na: 2\n", "a: expected the key once", "it again in line 2"),
        ("a: {b: 1}\na: {b: 2}\n", "a: expected the key once", "it again in line 2"),
        ("a: {1: 2}\n", "a: expected texts as keys", "1"),
        ("? [a]\n: 2\n", "expected texts as keys", "a list"),
        ("a: !!python/name:os.system x\n", "a: expected a plain value", "the tag '"),
        ("a: !mine [1]\n", "a: expected a plain value", "the tag '!mine'"),
        ("a: !!int x\n", "a: expected a plain value", "the tag '"),
        ("a: !!set {x, y}\n", "a: expected a plain value", "the tag '"),
        ("a: [0, 1234567890123456789012]\n", "a[1]: expected an integer of at most 18 digits", "123456789"),
    ],
)
def test_file_of_another_kind_is_refused_in_one_line(
    ws: Workspace, content: str | bytes, start: str, found: str
) -> None:
    line = ws.refuse(content)
    assert line.startswith(start)
    assert f", found {found}" in line


def test_key_given_twice_is_named_by_its_full_path(ws: Workspace) -> None:
    text = re.sub(r"\n  epochs: \d+", r"\g<0>\n  epochs: 7", DEFAULT.read_text(encoding="utf-8"), count=1)
    assert ws.refuse(text).startswith("stage1.epochs: expected the key once, found it again in line ")


def test_byte_order_mark_is_no_content(ws: Workspace) -> None:
    assert ws.load(b"\xef\xbb\xbf" + DEFAULT.read_bytes()).as_dict() == DEFAULTS


def test_nested_aliases_do_not_blow_up(ws: Workspace) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    ws.refuse("a0: &a0 [x]\n" + "\n".join(levels))


def test_unreadable_file_is_refused(ws: Workspace, tmp_path: Path) -> None:
    for file in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ParamsError) as caught:
            load(file)
        assert ws.line(caught.value, file).startswith("expected a readable file, found ")


@given(st.binary(max_size=80) | st.text(max_size=60).map(lambda s: s.encode("utf-8", "surrogatepass")))
@settings(same_folder, max_examples=150)
def test_garbage_gives_nothing_but_params_errors(ws: Workspace, content: bytes) -> None:
    ws.refuse(content)


@given(st.text(st.sampled_from("ab01 :-[]{}&*!?|>'\"%@,#\n\t\\.~<=eU"), max_size=40))
@settings(same_folder, max_examples=150)
def test_near_yaml_gives_nothing_but_params_errors(ws: Workspace, content: str) -> None:
    ws.refuse(content)


# What a caller gets


def test_params_are_frozen() -> None:
    params = load(DEFAULT)
    with pytest.raises(ValidationError):
        params.stage1.epochs = 3
    with pytest.raises(ValidationError):
        params.stage1 = params.stage1


def test_canonical_text_is_equal_exactly_for_equal_values(ws: Workspace) -> None:
    params = load(DEFAULT)
    shuffled = ws.load(dict(reversed(changed({"stage1.weight_decay": 0}).items())))
    assert shuffled.canonical("space", "stage1") == params.canonical("stage1", "space")
    assert json.loads(params.canonical("retrain")) == {"retrain": DEFAULTS["retrain"]}
    other = ws.load(changed({"stage1.weight_decay": 1e-9}))
    assert other.canonical("stage1") != params.canonical("stage1")
    assert other.canonical("space") == params.canonical("space")


DVC = """
stages:
  prepare: {cmd: x, params: [data]}
  search: {cmd: x, params: [space, search.seed, params.yaml: [network, objectives.margin], other.yaml: [x]]}
  everything: {cmd: x, params: [params.yaml: ]}
  nothing: {cmd: x}
  typo: {cmd: x, params: [stge1]}
"""


@pytest.mark.parametrize(
    ("stage", "sections"),
    [
        ("prepare", ("data", "runtime")),
        ("search", ("space", "network", "objectives", "search", "runtime")),
        ("pipeline/transfer/dvc.yaml:search", ("space", "network", "objectives", "search", "runtime")),
        ("everything", tuple(DEFAULTS)),
        ("nothing", ("runtime",)),
        ("", tuple(DEFAULTS)),
    ],
)
def test_stage_gets_the_sections_it_declares_and_runtime(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, stage: str, sections: tuple[str, ...]
) -> None:
    ws.dvc_file.write_text(DVC)
    monkeypatch.setenv("DVC_STAGE", stage)
    params = ws.load(DEFAULTS)
    assert params.sections == sections
    assert params.as_dict() == {name: DEFAULTS[name] for name in sections}
    for name in DEFAULTS:
        assert hasattr(params, name) == (name in sections)


def test_reading_an_undeclared_section_says_so(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ws.dvc_file.write_text(DVC)
    monkeypatch.setenv("DVC_STAGE", "prepare")
    params = ws.load(DEFAULTS)
    message = "stage 'prepare' reads params section 'search', which dvc.yaml does not declare"
    for read in (lambda: params.search, lambda: params.canonical("data", "search")):
        with pytest.raises(UndeclaredSectionError) as caught:
            read()
        assert str(caught.value) == message
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        params.serch  # type: ignore[attr-defined]  # noqa: B018


def test_restricted_params_survive_pickling(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ws.dvc_file.write_text(DVC)
    monkeypatch.setenv("DVC_STAGE", "prepare")
    params = pickle.loads(pickle.dumps(ws.load(DEFAULTS)))
    assert params.data.seed == 0
    with pytest.raises(UndeclaredSectionError, match="stage 'prepare' reads params section 'report'"):
        params.report  # noqa: B018


def test_sections_that_a_stage_does_not_read_are_checked_too(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ws.dvc_file.write_text(DVC)
    monkeypatch.setenv("DVC_STAGE", "prepare")
    assert ws.refuse(changed({"retrain.count": 0})).startswith("retrain.count: expected ")


@pytest.mark.parametrize(
    ("stage", "content", "line"),
    [
        ("stage9", DVC, "stages.stage9: expected the stage that DVC_STAGE names, found nothing"),
        ("typo", DVC, "stages.typo.params: expected sections of params.yaml, found the text 'stge1'"),
        ("prepare", "[]", "stages.prepare: expected the stage that DVC_STAGE names, found nothing"),
        (
            "prepare",
            "stages: {prepare: {params: 3}}",
            "stages.prepare.params: expected sections of params.yaml, found 3",
        ),
        ("prepare", "stages: [", ", line 1: expected valid YAML, found an error"),
        ("prepare", None, "expected a readable file, found No such file or directory"),
    ],
)
def test_dvc_file_without_the_stage_is_refused(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch, stage: str, content: str | None, line: str
) -> None:
    if content is not None:
        ws.dvc_file.write_text(content)
    monkeypatch.setenv("DVC_STAGE", stage)
    with pytest.raises(ParamsError) as caught:
        ws.load(DEFAULTS)
    assert ws.line(caught.value, ws.dvc_file).startswith(line)


def test_nan_never_gets_through(ws: Workspace) -> None:
    numbers = [leaf for leaf in LEAVES if isinstance(value_of(DEFAULTS, leaf), float)]
    params = ws.load(DEFAULTS)
    assert all(math.isfinite(value_of(params, leaf)) for leaf in numbers)
    assert len(numbers) > 20


def test_published_architectures_are_taken_once_each_in_any_space(ws: Workspace) -> None:
    both = {"retrain.published": ["ebnas", "bnas"]}
    assert ws.load(changed(both)).retrain.published == ("ebnas", "bnas")
    line = ws.refuse(changed({"retrain.published": ["bnas", "bnas"]}))
    assert line == "retrain.published[1]: expected each name once, found bnas again"
    line = ws.refuse(changed({**both, "retrain.hand_designed_channels": []}))
    assert line.startswith("retrain.published: expected [] where hand_designed_channels gives no width, found ")


def test_a_hand_designed_baseline_needs_its_convolution(ws: Workspace) -> None:
    few = {"space.operations": ["skip_connect", "max_pool_3x3", "bin_conv_5x5"], "space.nodes": 3}
    line = ws.refuse(changed(few))
    assert line == "retrain.hand_designed_channels: expected [] where space.operations lacks bin_conv_3x3, found a list"
    none = {**few, "retrain.hand_designed_channels": [], "retrain.published": []}
    assert ws.load(changed(none)).retrain.hand_designed_channels == ()
