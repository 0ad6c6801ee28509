"""Rules of params.yaml that no key alone can show. Each function yields a complaint for every rule that is broken."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from bnas.space.network_config import STEM_STRIDES
from bnas.space.operations import OPERATIONS, PLAIN_CONVOLUTION
from bnas.space.published import PUBLISHED
from bnas.space.search_space import SearchSpace
from bnas.storage.complaints import Complaint, Loc, mismatch, one_of
from bnas.storage.terminal import printable
from pipeline.params.sections import (
    DataSection,
    FinalNetworkSection,
    OperationsSection,
    Params,
    RetrainSection,
    SpaceSection,
    TrainingSection,
)

OWN_SIZES = {"mnist5k": 28, "cifar10": 32, "cifar100": 32, "fashion_mnist": 28}
"""Data set whose images are of one size, which cannot be chosen → pixels of a side."""


def of_search(params: Params) -> Iterator[Complaint]:
    """All rules of the main pipeline's file."""
    space = params.space
    yield from of_data(params.data)
    yield from of_rates("stage1", params.stage1)
    yield from of_rates("stage2", params.stage2)
    yield from of_network(params.network)
    if params.stage1.generations == params.stage1.epochs == 0:
        yield mismatch(("stage1", "epochs"), "an integer of at least 1 where generations is 0", 0)
    yield from of_rates("trial", params.trial)
    if params.trial.schedule_epochs < params.trial.epochs:
        expected = f"an integer of at least epochs ({params.trial.epochs})"
        yield mismatch(("trial", "schedule_epochs"), expected, params.trial.schedule_epochs)
    if params.trial.finalists and params.trial.finalist_epochs <= params.trial.epochs:
        expected = f"an integer above epochs ({params.trial.epochs}) where there are finalists"
        yield mismatch(("trial", "finalist_epochs"), expected, params.trial.finalist_epochs)
    if params.trial.finalists == 1:
        yield mismatch(("trial", "finalists"), "0 or an integer of at least 2", 1)
    yield from of_retrain(params.retrain)

    yield from of_space(space)
    known = OPERATIONS.get(space.name, ())
    if not known:
        return
    if params.retrain.hand_designed_channels and PLAIN_CONVOLUTION[space.name] not in space.operations:
        expected = f"[] where space.operations lacks {PLAIN_CONVOLUTION[space.name]}"
        yield mismatch(("retrain", "hand_designed_channels"), expected, params.retrain.hand_designed_channels)
    if set(space.operations) <= set(known):
        size = architectures(space)
        for stage, population in (
            ("stage1", params.stage1.population),
            ("stage2", params.stage2.population),
            ("search", params.search.population),
            ("trial", params.trial.population),
        ):
            if population > size:
                expected = f"an integer of at most {size}, the number of architectures in the space"
                yield mismatch((stage, "population"), expected, population)


def of_data(data: DataSection) -> Iterator[Complaint]:
    """Rules of the section `data`."""
    if data.test_fraction + data.validation_fraction >= 1:
        expected = f"a number below 1 - test_fraction (test_fraction is {data.test_fraction})"
        yield mismatch(("data", "validation_fraction"), expected, data.validation_fraction)
    own, wanted = OWN_SIZES.get(data.name), data.image_size
    if own and wanted:
        yield mismatch(("data", "image_size"), f"0 for {data.name}, whose images are {own}x{own}", wanted)
    if data.name == "imagenet" and not wanted:
        yield mismatch(("data", "image_size"), "an integer of at least 1 for imagenet", 0)
    for name in ("shift", "cutout"):
        pixels = getattr(data.augmentation, name)
        if pixels >= (side := own or wanted) > 0:
            expected = f"an integer below the images' {side} pixels"
            yield mismatch(("data", "augmentation", name), expected, pixels)
    if printable(data.title) != data.title:
        yield mismatch(("data", "title"), "a text of printable characters", data.title)


def of_space(space: OperationsSection) -> Iterator[Complaint]:
    """Rules of the section `space`."""
    if space.name not in OPERATIONS:
        yield mismatch(("space", "name"), one_of(OPERATIONS), space.name)
        return
    yield from each_once(("space", "operations"), "operation", space.operations, OPERATIONS[space.name])


def of_network(network: FinalNetworkSection) -> Iterator[Complaint]:
    """Rules of the section `network`."""
    if network.stem_stride not in STEM_STRIDES:
        yield mismatch(("network", "stem_stride"), one_of(STEM_STRIDES), network.stem_stride)


def of_retrain(section: RetrainSection) -> Iterator[Complaint]:
    """Rules of the section `retrain`."""
    yield from of_rates("retrain", section)
    yield from each_once(("retrain", "hand_designed_channels"), "width", section.hand_designed_channels)
    yield from each_once(("retrain", "published"), "name", section.published, PUBLISHED)
    if section.published and not section.hand_designed_channels:
        yield mismatch(("retrain", "published"), "[] where hand_designed_channels gives no width", section.published)


def each_once(
    loc: Loc, noun: str, values: Sequence[object], known: Collection[object] | None = None
) -> Iterator[Complaint]:
    """A list that holds nothing twice, and none but the known values if these are given."""
    for i, value in enumerate(values):
        if known is not None and value not in known:
            yield mismatch((*loc, i), one_of(known), value)
        elif value in values[:i]:
            yield Complaint((*loc, i), f"expected each {noun} once, found {value} again")


def architectures(space: SpaceSection) -> int:
    """How many different genotypes a space has."""
    return SearchSpace(tuple(dict.fromkeys(space.operations)), space.nodes, space.name).size


def of_rates(stage: str, recipe: TrainingSection) -> Iterator[Complaint]:
    """Rules of a recipe's rates, of the section of this name."""
    if recipe.final_learning_rate > recipe.learning_rate:
        expected = f"a number of at most learning_rate ({recipe.learning_rate})"
        yield mismatch((stage, "final_learning_rate"), expected, recipe.final_learning_rate)
    if recipe.batch_norm_group == 1 or recipe.batch_size % (recipe.batch_norm_group or 1):
        expected = f"0 or a divisor of batch_size ({recipe.batch_size}) above 1"
        yield mismatch((stage, "batch_norm_group"), expected, recipe.batch_norm_group)
