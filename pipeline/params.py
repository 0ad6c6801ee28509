"""The only reader of params.yaml: every parameter's type and range, and one clear line for a bad file.

What a parameter means, its unit and its default stand beside it in params.yaml; no default is hidden here.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bnas.space.genotype import OPERATIONS, PLAIN_CONVOLUTION
from bnas.space.network_config import STEM_STRIDES
from bnas.space.published import PUBLISHED
from bnas.space.search_space import SearchSpace
from pipeline.yaml12 import Loc, ParamsError, found_text, key_path, params_error, read_yaml

DatasetName = Literal["mnist5k", "cifar10", "cifar100", "fashion_mnist", "image_folder", "imagenet"]
OWN_SIZES = {"mnist5k": 28, "cifar10": 32, "cifar100": 32, "fashion_mnist": 28}
"""Data sets whose images are of one size, which cannot be chosen: pixels of a side."""
SelectionRule = Literal["nsga2", "auxiliary", "alternate", "cars"]

Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Population = Annotated[int, Field(ge=4, le=2**16, multiple_of=4)]  # as DEAP's tournament wants it
BatchSize = Annotated[int, Field(ge=2)]  # BatchNorm has no statistics of one image
Share = Annotated[float, Field(ge=0, le=1)]
ProperShare = Annotated[float, Field(gt=0, lt=1)]
DropProbability = Annotated[float, Field(ge=0, lt=1)]
# Nothing that is allocated may be absurd: these bounds are far above what is of use.
Width = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=3, le=256)]
Pixels = Annotated[int, Field(ge=0, le=512)]
Few = Annotated[int, Field(ge=1, le=1024)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


Problem = tuple[Loc, str, str]
"""Where, what was expected, what was found."""


class UndeclaredSectionError(ParamsError, AttributeError):
    """A DVC stage reads a section that its entry in dvc.yaml does not declare."""


class ParamsWarning(UserWarning):
    """Parameters that are valid but cannot do what they say."""


class Section(BaseModel):
    """Frozen, complete and strictly typed: an integer serves as a number, nothing else is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Augmentation(Section):
    """Random changes of training images."""

    shift: Pixels
    flip: bool
    cutout: Pixels
    random_resized_crop: bool
    color_jitter: Share


class Data(Section):
    """The data set and its split."""

    name: DatasetName
    title: Annotated[str, Field(max_length=80)]
    seed: Seed
    images_per_class: Natural
    image_size: Annotated[int, Field(ge=0, le=1024)]
    on_bad_file: Literal["error", "skip"]
    test_fraction: ProperShare
    validation_fraction: ProperShare
    augmentation: Augmentation


class Space(Section):
    """The search space."""

    name: str
    operations: Annotated[tuple[str, ...], Field(min_length=1)]
    nodes: Annotated[int, Field(ge=1, le=8)]
    sampling: Literal["size_stratified", "uniform"]


class Scale(Section):
    """Width and depth of a network."""

    channels: Width
    cells: Depth


class FinalNetwork(Section):
    """What the finished networks are built with."""

    final: Scale
    stem_stride: Annotated[int, Field(ge=1, le=8)]
    sign: Literal["approx", "ste"]


class Network(FinalNetwork):
    """What the supernet and the finished networks are built with."""

    supernet: Scale


class Objectives(Section):
    """The objectives of the search."""

    resource: Literal["size", "ops", "latency"]
    margin: Annotated[float, Field(ge=1)]


class Variation(Section):
    """How offspring come about."""

    crossover: Share
    mutation_rate: Share
    random_share: Share


class Scoring(Section):
    """What every evaluation in the supernet has in common."""

    mode: Literal["minibatch", "full"]
    batch_size: BatchSize
    batch_norm: Literal["batch", "recalibrated"]
    calibration_batches: Count


class Evaluation(Scoring):
    """Scoring while the supernet's weights still move."""

    batches: Count


class GrowingEvaluation(Scoring):
    """Scoring in the frozen supernet: more mini-batches from generation to generation."""

    first_batches: Count
    last_batches: Count
    rescore_batches: Count
    references: Natural
    score: Literal["error", "composite"]
    front_batches: Natural
    last_front_batches: Count
    survivor_batches: Natural
    front_margin: NonNegative


class Training(Section):
    """A recipe with a cosine schedule between two learning rates."""

    batch_size: BatchSize
    batch_norm_group: Natural
    learning_rate: Positive
    final_learning_rate: NonNegative
    weight_decay: NonNegative
    mixed_precision: bool


class Coevolution(Training):
    """A stage of co-evolution."""

    seed: Seed
    population: Population
    epochs: Natural
    generations: Natural
    epochs_per_generation: Count
    selection: SelectionRule
    variation: Variation
    evaluation: Evaluation


class PathDropout(Section):
    """Random removal of edges while the supernet is trained."""

    mode: Literal["none", "sample", "batch"]
    maximum: DropProbability


class Stage2(Coevolution):
    """The second stage of co-evolution, with path dropout."""

    path_dropout: PathDropout


class Search(Section):
    """The search in the frozen supernet."""

    seed: Seed
    population: Population
    generations: Count
    selection: Literal["nsga2", "auxiliary", "alternate", "cars", "two_stage"]
    immigrants: Annotated[int, Field(ge=0, le=2**16)]
    candidates: Annotated[int, Field(ge=1, le=64)]
    variation: Variation
    evaluation: GrowingEvaluation


class Retrain(Training):
    """The recipe of the finished networks and of their baselines."""

    seed: Seed
    count: Count
    epochs: Count
    drop_path: DropProbability
    label_smoothing: DropProbability
    auxiliary_weight: NonNegative
    hand_designed_channels: tuple[Width, ...]
    linear_baseline: bool
    published: tuple[str, ...]


class Report(Section):
    """What the report looks like."""

    figure_format: Literal["svg", "png"]
    size_bins: Few


class Runtime(Section):
    """What changes results by rounding at most; no stage declares it, every stage may read it."""

    device: Literal["auto", "cpu", "cuda"]
    processes: Few
    threads: Few
    workers: Few
    loader_workers: Annotated[int, Field(ge=0, le=1024)]
    data_root: Annotated[str, Field(min_length=1)]


class Params(Section):
    """The sections of params.yaml; within a DVC stage, those that the stage declares (see `load`)."""

    data: Data
    space: Space
    network: Network
    objectives: Objectives
    stage1: Coevolution
    stage2: Stage2
    search: Search
    retrain: Retrain
    report: Report
    runtime: Runtime
    _stage: str = ""

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the sections that may be read, in the order of the file."""
        return tuple(name for name in type(self).model_fields if name in self.__dict__)

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The readable sections as plain values (dicts, lists, scalars), for reports."""
        return {name: getattr(self, name).model_dump(mode="json") for name in self.sections}

    def canonical(self, *sections: str) -> str:
        """One line of JSON of these sections, the same text for the same values: what a cache key hashes.

        The order of arguments and keys does not matter, nor whether a number is written `1` or `1.0`. Raises
        UndeclaredSectionError for a section that may not be read.
        """
        chosen = {name: getattr(self, name).model_dump(mode="json") for name in sections}
        return json.dumps(chosen, sort_keys=True, separators=(",", ":"))

    if not TYPE_CHECKING:  # for mypy every section exists

        def __getattr__(self, name: str) -> Any:
            """Reached for a section that `load` left out: says so. Anything else is pydantic's."""
            if name in type(self).model_fields:
                reads = f"stage {self._stage!r} reads params section {name!r}"
                raise UndeclaredSectionError(f"{reads}, which dvc.yaml does not declare")
            return super().__getattr__(name)


def load(path: str | os.PathLike[str]) -> Params:
    """The validated parameters; within a DVC stage only the sections that its entry in dvc.yaml declares.

    DVC names the running stage in the environment variable DVC_STAGE; its `params` are looked up in the
    dvc.yaml beside `path`. The whole file is validated in any case, and `runtime` can always be read.

    Raises ParamsError, one line, for anything that is wrong with either file. Warns (ParamsWarning) of more
    retrained networks than the front can have.
    """
    file = Path(path)
    params = validated(file, Params, _broken_rules)
    _warn_of_impossible_count(file, params)
    return readable(params, file)


M = TypeVar("M", bound=Section)
P = TypeVar("P", bound=Params)


def validated(file: Path, model: type[M], broken_rules: Callable[[M], Iterator[Problem]]) -> M:
    """The whole file as a `model`. Raises ParamsError, one line, for the first of what is wrong with it."""
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise params_error(file, (), f"the sections {', '.join(model.model_fields)}", found_text(content))
    try:
        found = model.model_validate(content)
    except ValidationError as error:
        raise _first_of(file, list(_problems(error, model))) from None
    if broken := list(broken_rules(found)):
        raise _first_of(file, broken)
    return found


def readable(params: P, file: Path, within: str = "") -> P:
    """Within a DVC stage, what of the sections it declares; else all of them. See `declared` for `within`."""
    address = os.environ.get("DVC_STAGE")
    if not address:
        return params
    stage = address.rpartition(":")[2]
    names = {*declared(file, stage, params.sections, within)[0], "runtime"}
    restricted = type(params).model_construct(**{n: getattr(params, n) for n in params.sections if n in names})
    restricted._stage = stage
    return restricted


def _broken_rules(params: Params) -> Iterator[Problem]:
    """What no key alone can show."""
    space, search = params.space, params.search
    yield from broken_data(params.data)
    yield from _broken_rates("stage1", params.stage1)
    yield from _broken_rates("stage2", params.stage2)
    yield from broken_stem(("network",), params.network)
    if params.stage1.generations == params.stage1.epochs == 0:
        yield ("stage1", "epochs"), "an integer of at least 1 where generations is 0", "0"
    scoring = search.evaluation
    for name, first, last in (
        ("first_batches", scoring.first_batches, scoring.last_batches),
        ("front_batches", scoring.front_batches, scoring.last_front_batches),
    ):
        if last < first:
            key = "last_" + name.removeprefix("first_")
            yield ("search", "evaluation", key), f"an integer of at least {name} ({first})", found_text(last)
    yield from broken_retrain(params.retrain)

    known = OPERATIONS.get(space.name, ())
    if not known:
        yield ("space", "name"), one_of(OPERATIONS), found_text(space.name)
        return
    yield from broken_operations(("space", "operations"), space.operations, known)
    if params.retrain.hand_designed_channels and PLAIN_CONVOLUTION[space.name] not in space.operations:
        expected = f"[] where space.operations lacks {PLAIN_CONVOLUTION[space.name]}"
        yield ("retrain", "hand_designed_channels"), expected, found_text(params.retrain.hand_designed_channels)
    yield from _unfit_published(space, params.retrain.published)
    if set(space.operations) <= set(known):
        size = _architectures(space)
        populations = (params.stage1.population, params.stage2.population, search.population)
        for name, population in zip(("stage1", "stage2", "search"), populations, strict=True):
            if population > size:
                expected = f"an integer of at most {size}, the number of architectures in the space"
                yield (name, "population"), expected, found_text(population)


def broken_data(data: Data) -> Iterator[Problem]:
    """Rules of the section `data`."""
    if data.test_fraction + data.validation_fraction >= 1:
        expected = f"a number below 1 - test_fraction (test_fraction is {data.test_fraction})"
        yield ("data", "validation_fraction"), expected, found_text(data.validation_fraction)
    yield from _broken_sizes(data)


def broken_stem(loc: Loc, network: FinalNetwork) -> Iterator[Problem]:
    """Rules of the section `network`."""
    if network.stem_stride not in STEM_STRIDES:
        yield (*loc, "stem_stride"), one_of(STEM_STRIDES), found_text(network.stem_stride)


def broken_retrain(section: Retrain) -> Iterator[Problem]:
    """Rules of the section `retrain`."""
    yield from _broken_rates("retrain", section)
    widths = section.hand_designed_channels
    for i, width in enumerate(widths):
        if width in widths[:i]:
            yield ("retrain", "hand_designed_channels", i), "each width once", f"{width} again"
    names = section.published
    for i, name in enumerate(names):
        if name not in PUBLISHED:
            yield ("retrain", "published", i), one_of(PUBLISHED), found_text(name)
        elif name in names[:i]:
            yield ("retrain", "published", i), "each name once", f"{name} again"


def _broken_rates(name: str, recipe: Training) -> Iterator[Problem]:
    if recipe.final_learning_rate > recipe.learning_rate:
        expected = f"a number of at most learning_rate ({recipe.learning_rate})"
        yield (name, "final_learning_rate"), expected, found_text(recipe.final_learning_rate)
    if recipe.batch_norm_group == 1 or recipe.batch_size % (recipe.batch_norm_group or 1):
        expected = f"0 or a divisor of batch_size ({recipe.batch_size}) above 1"
        yield (name, "batch_norm_group"), expected, found_text(recipe.batch_norm_group)


def broken_operations(loc: Loc, operations: Sequence[str], known: Collection[str]) -> Iterator[Problem]:
    """A list of operations: each of the known ones, and once."""
    for i, operation in enumerate(operations):
        if operation not in known:
            yield (*loc, i), one_of(known), found_text(operation)
        elif operation in operations[:i]:
            yield (*loc, i), "each operation once", f"{operation} again"


def _broken_sizes(data: Data) -> Iterator[Problem]:
    own, wanted = OWN_SIZES.get(data.name), data.image_size
    if own and wanted:
        yield ("data", "image_size"), f"0 for {data.name}, whose images are {own}x{own}", found_text(wanted)
    if data.name == "imagenet" and not wanted:
        yield ("data", "image_size"), "an integer of at least 1 for imagenet", "0"
    for name in ("shift", "cutout"):
        pixels = getattr(data.augmentation, name)
        if pixels >= (side := own or wanted) > 0:
            expected = f"an integer below the images' {side} pixels"
            yield ("data", "augmentation", name), expected, found_text(pixels)
    if not data.title.isprintable():
        yield ("data", "title"), "a text of printable characters", found_text(data.title)


def _unfit_published(space: Space, names: tuple[str, ...]) -> Iterator[Problem]:
    for i, name in enumerate(names):
        loc, genotype = ("retrain", "published", i), PUBLISHED.get(name)
        if genotype is None:
            continue
        needed = sorted({gene.op for gene in genotype.genes})
        if (space.name, space.nodes) != (genotype.space, genotype.nodes) or not set(needed) <= set(space.operations):
            where = f"space.name {genotype.space}, space.nodes {genotype.nodes} and {', '.join(needed)}"
            yield loc, f"none in this space ({name} needs {where})", found_text(name)


def _architectures(space: Space) -> int:
    return SearchSpace(tuple(dict.fromkeys(space.operations)), space.nodes, space.name).size


def _warn_of_impossible_count(file: Path, params: Params) -> None:
    search, count = params.search, params.retrain.count
    evaluated = search.population * (search.generations + 1) + search.immigrants
    bound = min(evaluated, _architectures(params.space))
    if count > bound:
        expected = f"an integer of at most {bound}, the most architectures the front can have"
        problem = params_error(file, ("retrain", "count"), expected, str(count))
        warnings.warn(str(problem), ParamsWarning, stacklevel=3)


def declared(file: Path, stage: str, sections: Collection[str] = (), within: str = "") -> tuple[set[str], list[Path]]:
    """What the dvc.yaml beside `file` says that a stage reads: sections of `file`, and files and folders.

    `sections` are all that the file has, below the key `within` if there is one; none stand for those of `Params`.
    """
    known = sections or tuple(Params.model_fields)
    dvc_file, loc = file.with_name("dvc.yaml"), ("stages", stage)
    content = read_yaml(dvc_file)
    try:
        items = content["stages"][stage].get("params") or ()
        paths = [Path(path) for path in content["stages"][stage].get("deps") or ()]
    except (AttributeError, KeyError, TypeError):
        raise params_error(dvc_file, loc, "the stage that DVC_STAGE names", "nothing") from None
    keys: list[object] = []
    for item in items if isinstance(items, tuple) else (items,):
        if not isinstance(item, dict):
            keys.append(item)
            continue
        for other, listed in item.items():
            if Path(other).name == file.name:  # no list under the name stands for the whole file
                keys += listed if isinstance(listed, tuple) else known
    above = f"{within}." if within else ""
    names = {str(key).removeprefix(above).partition(".")[0]: key for key in keys}
    for name, key in names.items():
        if name not in known or not str(key).startswith(above):
            raise params_error(dvc_file, (*loc, "params"), f"sections of {file.name}", found_text(key))
    return set(names), paths


# What is wrong, in one line.


def _first_of(file: Path, problems: list[Problem]) -> ParamsError:
    first = params_error(file, *problems[0])
    return ParamsError(f"{first} (and {len(problems) - 1} more)") if len(problems) > 1 else first


def one_of(allowed: Collection[object]) -> str:
    """Values to choose from, in words."""
    names = ", ".join(map(str, allowed))
    return names if len(allowed) == 1 else f"one of {names}"


@functools.cache
def _json_schema(model: type[Section]) -> dict[str, Any]:
    return model.model_json_schema()


def _schema(loc: Loc, model: type[Section]) -> dict[str, Any]:
    """The part of a model's JSON schema that describes the value at `loc`."""
    root = node = _json_schema(model)
    for step in loc:
        node = node["items"] if isinstance(step, int) else node["properties"][step]
        if "$ref" in node:
            node = root["$defs"][node["$ref"].rpartition("/")[2]]
    return node


def _expected(schema: dict[str, Any]) -> str:
    """The schema of one value in words."""
    if "const" in schema or "enum" in schema:
        return one_of(schema.get("enum") or [schema["const"]])
    match schema["type"]:
        case "object":
            return f"the keys {', '.join(schema['properties'])}"
        case "array":
            return "a list of " + ("at least one " if "minItems" in schema else "") + "values"
        case "boolean":
            return "true or false"
        case "string":
            most = f" of at most {schema['maxLength']} characters" if "maxLength" in schema else ""
            return "a text" + most + (" that is not empty" if "minLength" in schema else "")
    words = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "of at most",
        "exclusiveMaximum": "below",
        "multipleOf": "a multiple of",
    }
    bounds = " and ".join(f"{word} {schema[name]:.10g}" for name, word in words.items() if name in schema)
    return f"{'an integer' if schema['type'] == 'integer' else 'a number'} {bounds}".rstrip()


def _problems(error: ValidationError, model: type[Section]) -> Iterator[Problem]:
    """Misspelt keys first: they explain what is missing."""
    details = error.errors(include_url=False)
    meant: set[Loc] = set()
    for loc in (detail["loc"] for detail in details if detail["type"] == "extra_forbidden"):
        siblings = list(_schema(loc[:-1], model)["properties"])
        hint = ", ".join(siblings)
        if nearest := difflib.get_close_matches(str(loc[-1]), siblings, 1):
            meant.add((*loc[:-1], nearest[0]))
            hint = f"did you mean {key_path((*loc[:-1], nearest[0]))}?"
        yield loc, f"a known key ({hint})", "an unknown one"
    for detail in details:
        loc, missing = detail["loc"], detail["type"] == "missing"
        if detail["type"] != "extra_forbidden" and not (missing and loc in meant):
            yield loc, _expected(_schema(loc, model)), "nothing" if missing else found_text(detail["input"])
