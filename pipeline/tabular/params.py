"""The parameters of a table of trained networks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bnas.records.base import Count, Natural, Positive
from bnas.storage.complaints import Complaint, mismatch
from pipeline.params import Params, readable, rules, validated
from pipeline.params.sections import (
    DataSection,
    FinalNetworkSection,
    OperationsSection,
    RecipeSection,
    RuntimeSection,
    Section,
    Seed,
)


class NetworksSection(Section):
    """Which networks are trained, and how often."""

    seed: Seed
    spread: Count
    bands_kib: tuple[Positive, ...]
    per_band: Count
    repeated: Count
    seeds: Natural
    schedules: tuple[Natural, ...]
    folds: Natural


class Tabular(Section):
    """The sections of pipeline/tabular/params.yaml."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
    data: DataSection
    space: OperationsSection
    network: FinalNetworkSection
    recipe: RecipeSection
    networks: NetworksSection
    runtime: RuntimeSection


class TabularFile(Section):
    """The whole file. All keys are below `tabular`, so that none has the name of one in params.yaml."""

    tabular: Tabular


class TabularParams(Params):
    """`Params` without the sections of a search, and with those of a table."""

    name: str
    recipe: RecipeSection
    networks: NetworksSection


def load(path: Path) -> TabularParams:
    """The validated parameters of a table, as `pipeline.params.load` gives those of a search."""
    tabular = validated(path, TabularFile, _broken_rules).tabular
    whole = {name: getattr(tabular, name) for name in Tabular.model_fields}
    return readable(TabularParams.model_construct(**whole), path, "tabular")


def _broken_rules(file: TabularFile) -> Iterator[Complaint]:
    params = file.tabular
    complaints = [
        *rules.of_data(params.data),
        *rules.of_network(params.network),
        *rules.of_space(params.space),
        *rules.of_rates("recipe", params.recipe),
        *rules.each_once(("networks", "bands_kib"), "band", params.networks.bands_kib),
        *rules.each_once(("networks", "schedules"), "schedule", params.networks.schedules),
    ]
    for i, epochs in enumerate(params.networks.schedules):
        if epochs >= params.recipe.epochs:
            expected = f"an integer below recipe.epochs ({params.recipe.epochs})"
            complaints.append(mismatch(("networks", "schedules", i), expected, epochs))
    if 1 < params.networks.folds < params.networks.seeds:
        expected = f"an integer of at most folds ({params.networks.folds}), so that each seed has its own to judge by"
        complaints.append(mismatch(("networks", "seeds"), expected, params.networks.seeds))
    yield from (Complaint(("tabular", *loc), text) for loc, text in complaints)
