"""The sections of params.yaml: every parameter's type and range.

What a parameter means, its unit and its default stand beside it in params.yaml; no default is hidden here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bnas.records.base import Count, Natural, NonNegative, Positive, Share
from bnas.storage.complaints import value_text
from pipeline.params.yaml12 import ParamsError

DatasetName = Literal["mnist5k", "cifar10", "cifar100", "fashion_mnist", "image_folder", "imagenet"]
SelectionRule = Literal["nsga2", "auxiliary", "alternate", "cars", "bins"]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Population = Annotated[int, Field(ge=4, le=2**16, multiple_of=4)]  # as DEAP's tournament wants it
BatchSize = Annotated[int, Field(ge=2)]  # BatchNorm has no statistics of one image
ProperShare = Annotated[float, Field(gt=0, lt=1)]
DropProbability = Annotated[float, Field(ge=0, lt=1)]
# Nothing that is allocated may be absurd: these bounds are far above what is of use.
Width = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=3, le=256)]
Pixels = Annotated[int, Field(ge=0, le=512)]
Few = Annotated[int, Field(ge=1, le=1024)]


class UndeclaredSectionError(ParamsError, AttributeError):
    """A DVC stage reads a section that its entry in dvc.yaml does not declare."""


class Section(BaseModel):
    """Frozen, complete and strictly typed: an integer serves as a number, nothing else is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AugmentationSection(Section):
    """Random changes of training images."""

    shift: Pixels
    flip: bool
    cutout: Pixels
    random_resized_crop: bool
    color_jitter: Share


class DataSection(Section):
    """The data set and its split."""

    name: DatasetName
    title: Annotated[str, Field(max_length=80)]
    seed: Seed
    images_per_class: Count
    image_size: Annotated[int, Field(ge=0, le=1024)]
    on_bad_file: Literal["error", "skip"]
    test_fraction: ProperShare
    validation_fraction: ProperShare
    augmentation: AugmentationSection


class OperationsSection(Section):
    """A space of architectures."""

    name: str
    operations: Annotated[tuple[str, ...], Field(min_length=1)]
    nodes: Annotated[int, Field(ge=1, le=8)]


class SpaceSection(OperationsSection):
    """The search space."""

    sampling: Literal["size_stratified", "uniform"]


class ScaleSection(Section):
    """Width and depth of a network."""

    channels: Width
    cells: Depth


class FinalNetworkSection(Section):
    """What the finished networks are built with."""

    final: ScaleSection
    stem_stride: Annotated[int, Field(ge=1, le=8)]
    sign: Literal["approx", "ste"]
    shipped: Literal["float32", "float16", "int8"]


class NetworkSection(FinalNetworkSection):
    """What the supernet and the finished networks are built with."""

    supernet: ScaleSection


class ObjectivesSection(Section):
    """The objectives of the search."""

    error: Literal["plain", "balanced"]
    resource: Literal["size", "ops", "ram", "latency"]
    margin: Annotated[float, Field(ge=1)]


class VariationSection(Section):
    """How offspring come about."""

    crossover: Share
    mutation_rate: Share
    random_share: Share


class EvaluationSection(Section):
    """Scoring of architectures in the supernet."""

    mode: Literal["minibatch", "full"]
    batch_size: BatchSize
    batches: Natural
    batch_norm: Literal["batch", "recalibrated"]
    calibration_batches: Natural


class TrainingSection(Section):
    """A recipe with a cosine schedule between two learning rates."""

    batch_size: BatchSize
    batch_norm_group: Count
    learning_rate: Positive
    final_learning_rate: NonNegative
    weight_decay: NonNegative
    mixed_precision: bool


class CoevolutionSection(TrainingSection):
    """A stage of co-evolution."""

    seed: Seed
    population: Population
    epochs: Count
    generations: Count
    epochs_per_generation: Natural
    selection: SelectionRule
    variation: VariationSection
    evaluation: EvaluationSection


class PathDropoutSection(Section):
    """Random removal of edges while the supernet is trained."""

    mode: Literal["none", "sample", "batch"]
    maximum: DropProbability


class Stage2Section(CoevolutionSection):
    """The second stage of co-evolution, with path dropout."""

    path_dropout: PathDropoutSection


class SearchSection(Section):
    """The search in the frozen supernet."""

    seed: Seed
    population: Population
    generations: Natural
    selection: Literal[SelectionRule, "two_stage"]
    immigrants: Annotated[int, Field(ge=0, le=2**16)]
    variation: VariationSection
    evaluation: EvaluationSection


class TrialSection(TrainingSection):
    """The search that goes on by short trainings from scratch."""

    seed: Seed
    source: Literal["search", "evolution", "random", "none"]
    population: Population
    generations: Count
    candidates: Annotated[int, Field(ge=1, le=64)]
    selection: Literal[SelectionRule, "two_stage"]
    variation: VariationSection
    epochs: Natural
    schedule_epochs: Natural
    own_share: Share
    finalists: Count
    finalist_epochs: Natural
    bins: Few


class RecipeSection(TrainingSection):
    """The recipe of networks that are trained from scratch."""

    seed: Seed
    epochs: Natural
    drop_path: DropProbability
    label_smoothing: DropProbability
    auxiliary_weight: NonNegative


class RetrainSection(RecipeSection):
    """The finished networks and their baselines."""

    count: Natural
    random_per_front: Natural
    hand_designed_channels: tuple[Width, ...]
    linear_baseline: bool
    published: tuple[str, ...]


class ReportSection(Section):
    """What the report looks like."""

    figure_format: Literal["svg", "png"]
    size_bins: Few


def _without_home(path: str) -> str:
    if path.startswith("~"):
        raise ValueError(f"expected a path without ~, which is not expanded, found {value_text(path)}")
    return path


class RuntimeSection(Section):
    """What changes results by rounding at most; no stage declares it, every stage may read it."""

    device: Literal["auto", "cpu", "cuda"]
    processes: Few
    threads: Few
    workers: Few
    loader_workers: Annotated[int, Field(ge=0, le=1024)]
    data_root: Annotated[str, Field(min_length=1), AfterValidator(_without_home)]


class Params(Section):
    """The sections of params.yaml; within a DVC stage, those that the stage declares (see `load`)."""

    data: DataSection
    space: SpaceSection
    network: NetworkSection
    objectives: ObjectivesSection
    stage1: CoevolutionSection
    stage2: Stage2Section
    search: SearchSection
    trial: TrialSection
    retrain: RetrainSection
    report: ReportSection
    runtime: RuntimeSection
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
