"""What `stage1`, `stage2` and `retrain` record of training: epochs, and answers image by image."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from bnas.records.base import STRICT, Natural, Record, Share, read_record
from bnas.storage.files import read_text

_CSV_HEADER = "index,label,prediction"

_CSV_ROW = re.compile(r"([0-9]{1,18}),([0-9]{1,18}),([0-9]{1,18})")


@dataclass(frozen=True, config=STRICT)
class EpochRecord(Record):
    """One epoch of training: the mean loss, the training error in [0, 1], and the learning rate at its end."""

    epoch: Natural
    loss: float
    error: Share
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The answers of one network to the test split: integer arrays `[N]` of classes, in the split's order."""

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.labels.shape != self.predictions.shape:
            raise ValueError(
                "Predictions: expected two equally long vectors, "
                f"found shapes {self.labels.shape} and {self.predictions.shape}"
            )

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which images were named right: booleans `[N]`."""
        return np.equal(self.labels, self.predictions)

    def to_csv(self) -> str:
        """The text of `predictions.csv`: a header, then index, label and prediction of each image."""
        rows = zip(self.labels.tolist(), self.predictions.tolist(), strict=True)
        lines = (f"{index},{label},{prediction}\n" for index, (label, prediction) in enumerate(rows))
        return _CSV_HEADER + "\n" + "".join(lines)


def read_epochs(path: Path) -> tuple[EpochRecord, ...]:
    """The epochs of a supernet stage (`training.json`) or of a retrained network (`curve.json`)."""
    return read_record(path, tuple[EpochRecord, ...])


def read_predictions(path: Path) -> Predictions:
    """`data/retrain/<network>/predictions.csv`, whose index counts up from 0."""
    lines = read_text(path).splitlines()
    if not lines or lines[0] != _CSV_HEADER:
        raise ValueError(f"{path}: expected the header {_CSV_HEADER}, found {(lines or [''])[0][:60]!r}")
    rows = [_CSV_ROW.fullmatch(line) for line in lines[1:]]
    if not all(rows):
        found = lines[1 + rows.index(None)]
        raise ValueError(f"{path}: expected three whole numbers in every row, found {found[:40]!r}")
    cells = [[int(cell) for cell in row.groups()] for row in rows if row]
    index, labels, predictions = np.array(cells, dtype=np.int64).reshape(len(rows), 3).T
    if not np.array_equal(index, np.arange(len(index))):
        raise ValueError(f"{path}: expected indices counting up from 0, found others")
    return Predictions(labels, predictions)
