"""Every file that a stage reads, spoilt in every way: one clear line, a non-zero exit, nothing written, no memory."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from bnas import cli
from bnas.space.genotype import Gene, Genotype
from tests import finished_run
from tests.imports import ROOT
from tests.pipeline import spoil
from tests.pipeline.conftest import Searched
from tests.pipeline.forks import Done, Forks
from tests.pipeline.spoil import Spoil, edited, put

MEGABYTES = 512
"""More than any stage of these tests needs, less than what a header may claim."""

IMAGES, LABELS = "data/prepared/train/images.npy", "data/prepared/train/labels.npy"
DATASET = "data/prepared/dataset.json"
POPULATION, WEIGHTS = "data/stage1/population.json", "data/stage1/supernet.safetensors"
EARLIER, LATER = "data/stage1/generations.json", "data/stage2/generations.json"
SEARCHED_FRONT, FRONT = "data/search/front.json", "data/trial/front.json"
TRIAL = "data/trial/networks.json"
LINEAR = "data/retrain/linear.json"
TABLE = "data/latency_table/table.json"
TRAINED = "data/retrain/front-1/weights.safetensors"
NETWORKS, PREDICTIONS = "data/retrain/networks.json", "data/retrain/front-1/predictions.csv"


class Case(NamedTuple):
    stage: str
    file: str
    name: str
    spoil: Spoil
    said: str = ""
    """What the line says, where it does not name the file or its folder."""

    def __str__(self) -> str:
        return f"{self.stage} {Path(self.file).name} {self.name}"


def cases(stage: str, file: str, said: str = "", **ways: Spoil) -> list[Case]:
    return [Case(stage, file, name.replace("_", " "), way, said) for name, way in ways.items()]


def anything(stage: str, file: str) -> list[Case]:
    """What is tried with every file."""
    ways = {"empty": spoil.empty, "truncated": spoil.truncated, "garbage": spoil.garbage, "pickle": spoil.a_pickle}
    return cases(stage, file, missing=spoil.missing, a_folder=spoil.a_folder, outside=spoil.outside, **ways)


def another_json(stage: str, file: str) -> list[Case]:
    """What is tried with further files of the reader that `as_json` tries everything with."""
    return cases(stage, file, truncated=spoil.truncated, an_object=spoil.replaced("{}"), null=spoil.replaced("null"))


def as_json(stage: str, file: str) -> list[Case]:
    """What is tried with one file of each reader of JSON."""
    ways = {"deep": spoil.deep, "huge_number": spoil.huge_number, "null": spoil.replaced("null")}
    return [*anything(stage, file), *cases(stage, file, an_object=spoil.replaced("{}"), **ways)]


def gene(op: object, source: object) -> Spoil:
    return put(0, "normal", 0, 0, [op, source])


def other_space(value: list[object]) -> None:
    node = ((Gene(0, "skip_connect"), Gene(1, "skip_connect")),) * 2
    value[0] = Genotype(node, node).to_dict()


def first_tensor(state: dict) -> str:
    return next(name for name, value in state.items() if value.dim() == 4)


ARRAYS = [
    *anything("stage1", IMAGES),
    *cases(
        "stage1",
        IMAGES,
        a_flipped_pixel=spoil.flipped(0.5),
        a_flipped_magic=spoil.flipped(0.0),
        a_flipped_header=spoil.flipped(0.0002),
        one_byte_more=spoil.content(lambda old: old + b"\0"),
        a_terabyte=spoil.header((2**30, 28, 28, 1)),
        a_negative_shape=spoil.header((-120, -28, 28, 1)),
        a_nested_shape=spoil.header("(" * 4000 + ")" * 4000),
        a_header_of_gigabytes=spoil.header((1,), major=2, claim=2**31 - 1),
        an_unknown_version=spoil.header((1,), major=9),
        code_in_the_header=spoil.header("__import__('os').mkdir('unpickled')"),
        a_huge_type=spoil.header((1, 28, 28, 1), descr="|V2147483647"),
        objects=spoil.replaced(spoil.object_array()),
        an_archive=spoil.zipped,
        floats=spoil.array(lambda old: old.astype("f8")),
        no_channels=spoil.array(lambda old: old[..., 0]),
        another_order=spoil.array(lambda old: old[::-1]),
        labels_instead=spoil.copied("labels.npy"),
    ),
    *cases(
        "stage1",
        IMAGES,
        "train: expected images [120, 28, 28, 1], found [120, 20, 28, 1]",
        smaller_images=spoil.array(lambda old: old[:, :20], hashed=True),
    ),
    *cases(
        "stage1",
        LABELS,
        "data/prepared/train",
        empty=spoil.empty,
        truncated=spoil.truncated,
        a_flipped_bit=spoil.flipped(0.9),
        a_terabyte=spoil.header((2**37,), descr="<i8"),
        floats=spoil.array(lambda old: old.astype("f4")),
        one_less=spoil.array(lambda old: old[1:]),
        an_eleventh_class=spoil.array(lambda old: old + 1, hashed=True),
        a_negative_class=spoil.array(lambda old: old - 1, hashed=True),
    ),
    *anything("stage1", "data/prepared/train/sha256"),
    *cases("stage1", "data/prepared/validation/images.npy", a_flipped_pixel=spoil.flipped(0.6)),
]
DATASETS = [
    *as_json("stage1", DATASET),
    *cases(
        "stage1",
        DATASET,
        a_gigabyte_of_channels=put("image", "channels", 10**9),
        absurd_height=put("image", "height", 10**9),
        no_class=put("classes", []),
        nan=put("mean", [float("nan")]),
        no_deviation=put("std", [0.0]),
        two_means=put("mean", [0.1, 0.2]),
        text_for_a_number=put("image", "width", "28"),
        other_counts=put("counts", "train", 7),
        a_key_less=spoil.without("counts"),
        a_key_more=put("more", 1),
    ),
    *cases("stage1", DATASET, "data/prepared/train: expected labels", few_classes=put("classes", ["0", "1", "2"])),
]
GENOTYPES = [
    *as_json("stage2", POPULATION),
    *cases(
        "stage2",
        POPULATION,
        an_unknown_operation=gene("os.system", 0),
        an_operation_that_is_none=gene(None, 0),
        a_far_source=gene("skip_connect", 10**9),
        a_negative_source=gene("skip_connect", -1),
        true_for_a_source=gene("skip_connect", True),
        a_gene_too_many=put(0, "normal", 0, [["skip_connect", 0]] * 3),
        another_space=put(0, "space", "darts"),
        more_nodes=edited(other_space),
        not_all_genotypes=edited(lambda value: value.append(None)),
    ),
    *another_json("search", "data/stage2/evaluated.json"),
    *another_json("search", "data/stage2/population.json"),
]
WEIGHT = [
    *anything("stage2", WEIGHTS),
    *cases(
        "stage2",
        WEIGHTS,
        a_flipped_weight=spoil.flipped(0.9),
        a_flipped_header=spoil.flipped(0.01),
        an_exabyte_of_header=spoil.claimed_header(2**60),
        a_header_of_100_megabytes=spoil.claimed_header(100_000_000),
        a_terabyte_tensor=spoil.claimed_tensor,
        a_torch_file=spoil.torch_file,
        a_tensor_less=spoil.tensors(lambda state: state.pop(first_tensor(state))),
        a_tensor_more=spoil.tensors(lambda state: state.update({"more": state[first_tensor(state)].clone()})),
        another_shape=spoil.tensors(lambda state: state.update({"stem.0.weight": state["stem.0.weight"][:1].clone()})),
        another_type=spoil.tensors(lambda state: state.update({"stem.0.weight": state["stem.0.weight"].double()})),
        no_hash=spoil.tensors(lambda state: None, hashed=False),
    ),
    *cases(
        "stage2",
        WEIGHTS,
        "training: loss is nan at step 0",
        nan=spoil.tensors(lambda state: state["classifier.bias"].fill_(float("nan"))),
    ),
    *cases(
        "search",
        "data/stage2/supernet.safetensors",
        "scoring failed: ValueError: mini-batch 0: expected finite outputs",
        infinity=spoil.tensors(lambda state: state["classifier.bias"].fill_(float("inf"))),
    ),
    *cases("trial", "data/stage2/supernet.safetensors", truncated=spoil.truncated, missing=spoil.missing),
]


def another_first_gene(front: Any) -> None:
    """Another operation at the first gene of a front's first member, whatever is there."""
    gene = front["members"][0]["genotype"]["normal"][0][0]
    gene[0] = "max_pool_3x3" if gene[0] == "skip_connect" else "skip_connect"


RECORDS = [
    *as_json("stage2", EARLIER),
    *cases(
        "search",
        LATER,
        an_error_above_one=put("generations", 0, "members", 0, "error", 1.5),
        an_unknown_stage=put("generations", 0, "stage", "stage9"),
        another_key=put("generations", 0, "members", 0, "key", "0" * 12),
        a_negative_size=put("generations", 0, "members", 0, "size_bytes", -1.0),
    ),
    *another_json("trial", SEARCHED_FRONT),
    *another_json("trial", "data/search/generations.json"),
    *another_json("retrain", TRIAL),
    *cases(
        "retrain",
        TRIAL,
        no_epochs=put("networks", 0, "epochs", 0),
        a_negative_loss=put("networks", 0, "loss", -1.0),
        another_key=put("networks", 0, "key", "0" * 12),
        another_origin=put("networks", 0, "origin", "elsewhere"),
    ),
    *another_json("retrain", FRONT),
    *cases(
        "retrain",
        FRONT,
        nobody=put("members", []),
        more_wrong_than_images=put("members", 0, "wrong", 10**6),
        not_a_number=put("members", 0, "error", float("nan")),
        another_genotype=edited(another_first_gene),
    ),
]
PARAMETERS = [
    *anything("stage1", "params.yaml"),
    *cases(
        "stage1",
        "params.yaml",
        code=spoil.replaced("!!python/object/apply:os.mkdir [unpickled]"),
        aliases=spoil.replaced("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"),
        deep=spoil.replaced("[" * 10_000),
        a_list=spoil.replaced("- 1\n"),
        a_billion_channels=spoil.content(lambda old: old.replace(b"channels: 2", b"channels: 1000000000", 1)),
        a_billion_individuals=spoil.content(lambda old: old.replace(b"population: 4", b"population: 1000000000", 1)),
        a_billion_pixels_of_shift=spoil.content(lambda old: old.replace(b"shift: 2", b"shift: 1000000000", 1)),
        a_number_of_a_thousand_digits=spoil.content(lambda old: old.replace(b"seed: 0", b"seed: " + b"9" * 1000, 1)),
        an_infinite_rate=spoil.content(lambda old: old.replace(b"learning_rate: 0.003", b"learning_rate: .inf", 1)),
        a_key_twice=spoil.content(lambda old: old + b"\nspace: {}\n"),
    ),
    *(case for case in anything("stage1", "dvc.yaml") if case.name != "truncated"),
    *cases(
        "stage1", "dvc.yaml", another_pipeline=spoil.replaced("stages: {other: {}}"), no_stages=spoil.replaced("[]")
    ),
]
NAMES, HOW = "data/prepared/train/files.txt", "data/prepared/train/index.json"
INDEXED = [
    *(case for case in anything("stage1", NAMES) if case.name != "missing"),
    *cases(
        "stage1",
        NAMES,
        "data/prepared/train",
        missing=spoil.missing,
        a_path_that_climbs_out=spoil.content(lambda old: old.replace(b"train/", b"../../", 1)),
        an_absolute_path=spoil.content(lambda old: old.replace(b"train/", b"/", 1)),
        another_order=spoil.content(lambda old: b"".join(old.splitlines(keepends=True)[::-1])),
        a_line_less=spoil.content(lambda old: old[old.index(b"\n") + 1 :]),
        a_line_too_many=spoil.content(lambda old: old + old[: old.index(b"\n") + 1]),
        no_last_line_break=spoil.content(lambda old: old[:-1]),
    ),
    *as_json("stage1", HOW),
    *cases(
        "stage1",
        HOW,
        a_gigabyte_of_pixels=put("height", 10**9),
        two_channels=put("channels", 2),
        another_size=put("width", 17),
        a_key_more=put("more", 1),
    ),
    *cases(
        "stage1",
        "data/raw/imagenet/train/n1/7.JPEG",
        "n1/7.JPEG: expected a",
        truncated=spoil.truncated,
        garbage=spoil.garbage,
        missing=spoil.missing,
    ),
]
SEARCHED = [*ARRAYS, *DATASETS, *GENOTYPES, *WEIGHT, *RECORDS, *PARAMETERS]

LATENCIES = [
    *(case._replace(spoil=spoil.for_latency(case.spoil)) for case in another_json("stage1", TABLE)),
    *cases(
        "stage1",
        TABLE,
        no_cells=spoil.for_latency(put("table", "cells", [])),
        a_negative_time=spoil.for_latency(put("table", "cells", 0, "edges", 0, "seconds", -1.0)),
    ),
]
SEARCHED += LATENCIES

EXPORTED = [
    *another_json("export", NETWORKS),
    *cases(
        "export",
        NETWORKS,
        "",
        a_name_that_climbs_out=put("networks", 0, "name", "../../../etc"),
    ),
    *cases("export", NETWORKS, "channels", a_billion_channels=put("networks", 0, "channels", 10**9)),
    *cases("export", NETWORKS, "cells", a_billion_cells=put("networks", 0, "cells", 10**9)),
    *cases("export", NETWORKS, TRAINED, more_channels=put("networks", 0, "channels", 4)),
    *anything("export", TRAINED),
    *cases(
        "export",
        TRAINED,
        a_flipped_weight=spoil.flipped(0.9),
        a_terabyte_tensor=spoil.claimed_tensor,
        a_torch_file=spoil.torch_file,
        a_tensor_less=spoil.tensors(lambda state: state.pop(first_tensor(state))),
        no_hash=spoil.tensors(lambda state: None, hashed=False),
    ),
    *cases("export", "data/prepared/test/images.npy", a_flipped_pixel=spoil.flipped(0.5), truncated=spoil.truncated),
]

REPORTED = [
    *as_json("report", NETWORKS),
    *cases(
        "report",
        NETWORKS,
        a_name_that_climbs_out=put("networks", 0, "name", "../../../etc"),
        a_name_with_a_newline=put("networks", 0, "name", "front-1\n"),
        another_test_error=put("networks", 0, "test_error", 0.01),
        no_images=put("networks", 0, "test_images", 0),
    ),
    *anything("report", PREDICTIONS),
    *cases(
        "report",
        PREDICTIONS,
        another_header=spoil.content(lambda old: old.replace(b"index", b"number")),
        letters=spoil.content(lambda old: old.replace(b"\n5,", b"\nfive,")),
        a_number_of_fifty_digits=spoil.content(lambda old: old.replace(b"\n5,", b"\n" + b"5" * 50 + b",")),
        a_row_less=spoil.content(lambda old: b"\n".join(old.split(b"\n")[:3] + old.split(b"\n")[4:])),
    ),
    *cases("report", PREDICTIONS, "predictions of front-1", header_only=spoil.content(lambda old: old[:23])),
    *another_json("report", "data/retrain/front-1/curve.json"),
    *cases("report", LINEAR, null=spoil.replaced("null"), truncated=spoil.truncated, all_wrong=put("wrong", 9**9)),
    *another_json("report", TRIAL),
    *cases("report", "data/search/summary.json", tau_of_three=put("schedule_tau", 3.0), empty=spoil.empty),
    *another_json("report", "data/export/files.json"),
    *cases("report", "data/stage2/training.json", a_key_less=edited(lambda value: value[0].popitem() and None)),
    *cases("report", "data/stage1/training.json", infinity=put(0, "loss", float("inf")), truncated=spoil.truncated),
    *cases(
        "report", "reports/metrics/latency_table.json", above_one=put("latency_correlation", 1.5), empty=spoil.empty
    ),
    *cases("report", "reports/times/stage1.json", negative=put("stage1_seconds", -1), text=put("stage1_seconds", "1")),
]


GROUPS = {"searched": SEARCHED, "indexed": INDEXED, "exported": EXPORTED, "reported": REPORTED}
"""Cases by the run whose copies they spoil."""


def test_every_result_that_a_stage_reads_is_spoilt() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    read = {dep for stage in stages for dep in stage["deps"] if dep.startswith("data/")}
    spoilt = {case.file for group in GROUPS.values() for case in group}
    assert len(read) > 10
    assert [dep for dep in sorted(read) if not any(f"{file}/".startswith(f"{dep}/") for file in spoilt)] == []


class Outcome(NamedTuple):
    """What became of a stage that was given a spoilt file."""

    folder: Path
    before: set[Path]
    done: Done


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if ".cache" not in path.parts}


def outcomes(cases: Sequence[Case], copy: Callable[[str, Path], Path], root: Path, forks: Forks) -> dict[Case, Outcome]:
    """Each case in a folder of its own; the stages run in one process."""
    spoilt = []
    for number, case in enumerate(cases):
        folder = copy(case.stage, root / str(number))
        if case.spoil is not spoil.missing or (folder / case.file).exists():
            with contextlib.chdir(folder):
                case.spoil(folder / case.file)
        spoilt.append((folder, files(folder)))
    ran = forks.run_each([(case.stage, folder) for case, (folder, _) in zip(cases, spoilt, strict=True)], MEGABYTES)
    return {
        case: Outcome(folder, before, done) for case, (folder, before), done in zip(cases, spoilt, ran, strict=True)
    }


def refused(case: Case, outcome: Outcome) -> None:
    folder, before, done = outcome
    assert done.code == 2, done
    (line,) = done.err.splitlines()
    assert line.startswith(f"{case.stage}: ")
    assert (case.said or case.file.rpartition("/")[0] or case.file) in line
    assert len(line) < 500
    assert not (folder / "unpickled").exists(), "content was run"
    assert files(folder) <= before | {folder / "data"}


def finished(stage: str, folder: Path) -> Path:
    """A run before its report, made up."""
    folder.mkdir(parents=True)
    finished_run.write(folder)
    metrics = folder / "reports/metrics/latency_table.json"
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_text('{"latency_correlation": null}')
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def tried(
    searched: Searched, indexed: Searched, retrained: Searched, forks: Forks, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, Outcome]:
    """What became of every case."""
    copies = {
        "searched": searched.before,
        "indexed": indexed.before,
        "exported": retrained.before,
        "reported": finished,
    }
    found: dict[Case, Outcome] = {}
    for group, cases in GROUPS.items():
        found |= outcomes(cases, copies[group], tmp_path_factory.mktemp(group), forks)
    return found


@pytest.mark.parametrize("case", SEARCHED, ids=str)
def test_a_stage_refuses_a_bad_file_in_one_line(case: Case, tried: dict[Case, Outcome]) -> None:
    refused(case, tried[case])


@pytest.mark.parametrize("case", INDEXED, ids=str)
def test_a_stage_refuses_a_bad_index_and_bad_pictures_in_one_line(case: Case, tried: dict[Case, Outcome]) -> None:
    refused(case, tried[case])


@pytest.mark.parametrize("case", EXPORTED, ids=str)
def test_the_export_refuses_a_bad_file_in_one_line(case: Case, tried: dict[Case, Outcome]) -> None:
    refused(case, tried[case])


@pytest.mark.parametrize("case", REPORTED, ids=str)
def test_the_report_refuses_a_bad_file_in_one_line(case: Case, tried: dict[Case, Outcome]) -> None:
    refused(case, tried[case])


@pytest.mark.parametrize("case", another_json("show", NETWORKS), ids=str)
def test_the_table_refuses_a_bad_file_in_one_line(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    case.spoil(tmp_path / case.file)
    assert cli.main(["show"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bnas show: ")
    assert NETWORKS in line


def test_whole_files_are_not_refused(searched: Searched, retrained: Searched, forks: Forks, tmp_path: Path) -> None:
    runs = []
    for stage in ("stage1", "stage2", "search", "export"):
        copy = (retrained if stage == "export" else searched).before(stage, tmp_path / stage)
        runs.append((stage, copy))
    runs.append(("report", finished("report", tmp_path / "report")))
    assert [(done.code, done.err) for done in forks.run_each(runs, MEGABYTES)] == [(0, "")] * len(runs)
