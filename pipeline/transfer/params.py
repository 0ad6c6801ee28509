"""The parameters of a transfer: sections of the main pipeline's that it needs, and where its front comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bnas.space.operations import OPERATIONS
from pipeline import params as main
from pipeline.params import Data, FinalNetwork, Params, Problem, Report, Retrain, Runtime, Section


class Source(Section):
    """The front to transfer, and the operations of the space it was searched in."""

    front: Annotated[str, Field(min_length=1)]
    operations: Annotated[tuple[str, ...], Field(min_length=1)]


class Transfer(Section):
    """The sections of pipeline/transfer/params.yaml."""

    source: Source
    data: Data
    network: FinalNetwork
    retrain: Retrain
    report: Report
    runtime: Runtime


class TransferFile(Section):
    """The whole file: all keys lie below one, so that none has the name of another in params.yaml."""

    transfer: Transfer


class TransferParams(Params):
    """`Params` without the sections of a search, and with `source`."""

    source: Source


def load(path: Path) -> TransferParams:
    """The validated parameters of a transfer, as `pipeline.params.load` gives those of a search."""
    found = main.validated(path, TransferFile, _broken_rules).transfer
    whole = {name: getattr(found, name) for name in Transfer.model_fields}
    return main.readable(TransferParams.model_construct(**whole), path, "transfer")


def _broken_rules(file: TransferFile) -> Iterator[Problem]:
    params, known = file.transfer, tuple(op for ops in OPERATIONS.values() for op in ops)
    problems = [
        *main.broken_data(params.data),
        *main.broken_stem(("network",), params.network),
        *main.broken_retrain(params.retrain),
        *main.broken_operations(("source", "operations"), params.source.operations, known),
    ]
    yield from ((("transfer", *loc), expected, found) for loc, expected, found in problems)
