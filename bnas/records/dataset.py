"""The description of prepared images."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from bnas.records.base import STRICT, Natural, Positive, Record, read_record


@dataclass(frozen=True, config=STRICT)
class ImageShape(Record):
    """Height and width in pixels, and channels.

    A picture of another size is scaled and centre-cropped to it, from a shorter side of `resize` pixels if that is not
    None (`bnas.images.read_image`).
    """

    height: Natural
    width: Natural
    channels: Natural
    resize: Natural | None = None


@dataclass(frozen=True, config=STRICT)
class SplitCounts(Record):
    """Images in each split."""

    train: Natural
    validation: Natural
    test: Natural


@dataclass(frozen=True, config=STRICT)
class DatasetDescription(Record):
    """`data/prepared/dataset.json`: the images; mean and deviation per channel of the train split."""

    name: str
    title: str
    classes: tuple[str, ...]
    image: ImageShape
    counts: SplitCounts
    mean: tuple[float, ...]
    std: tuple[Positive, ...]
    hash: str


def read_dataset(path: Path) -> DatasetDescription:
    """`dataset.json`. This and the other readers raise ValueError, one line, for a malformed file."""
    return read_record(path, DatasetDescription)
