"""The parameters of a transfer: the sections of a search that it needs, and where its front comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bnas.space.operations import OPERATIONS
from bnas.storage.complaints import Complaint
from pipeline.params import Params, readable, rules, validated
from pipeline.params.sections import (
    DataSection,
    FinalNetworkSection,
    ReportSection,
    RetrainSection,
    RuntimeSection,
    Section,
)


class SourceSection(Section):
    """The front to transfer, and the operations of the space it was searched in."""

    front: Annotated[str, Field(min_length=1)]
    operations: Annotated[tuple[str, ...], Field(min_length=1)]


class Transfer(Section):
    """The sections of pipeline/transfer/params.yaml."""

    source: SourceSection
    data: DataSection
    network: FinalNetworkSection
    retrain: RetrainSection
    report: ReportSection
    runtime: RuntimeSection


class TransferFile(Section):
    """The whole file. All keys are below `transfer`, so that none has the name of one in params.yaml."""

    transfer: Transfer


class TransferParams(Params):
    """`Params` without the sections of a search, and with `source`."""

    source: SourceSection


def load(path: Path) -> TransferParams:
    """The validated parameters of a transfer, as `pipeline.params.load` gives those of a search."""
    transfer = validated(path, TransferFile, _broken_rules).transfer
    whole = {name: getattr(transfer, name) for name in Transfer.model_fields}
    return readable(TransferParams.model_construct(**whole), path, "transfer")


def _broken_rules(file: TransferFile) -> Iterator[Complaint]:
    params, known = file.transfer, [operation for operations in OPERATIONS.values() for operation in operations]
    complaints = [
        *rules.of_data(params.data),
        *rules.of_network(params.network),
        *rules.of_retrain(params.retrain),
        *rules.each_once(("source", "operations"), "operation", params.source.operations, known),
    ]
    yield from (Complaint(("transfer", *loc), text) for loc, text in complaints)
