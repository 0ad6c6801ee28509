"""What `prepare` records of the images."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from bnas.records.base import STRICT, Natural, Positive, Record, read_record


@dataclass(frozen=True, config=STRICT)
class ImageShape(Record):
    """The size of an image as networks see it: height and width in pixels, and channels.

    A picture of another size is scaled and centre-cropped to it, from a shorter side of `resize` pixels if that is not
    None.
    """

    height: Natural
    width: Natural
    channels: Natural
    resize: Natural | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        return self.channels, self.height, self.width


@dataclass(frozen=True, config=STRICT)
class SplitCounts(Record):
    """How many images each split has."""

    train: Natural
    validation: Natural
    test: Natural


@dataclass(frozen=True, config=STRICT)
class DatasetDescription(Record):
    """`data/prepared/dataset.json`, written by `prepare`: the prepared images.

    `mean` and `std` are the train split's, per channel, of values in [0, 1]; `hash` is that of all images and labels.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    image: ImageShape
    counts: SplitCounts
    mean: tuple[float, ...]
    std: tuple[Positive, ...]
    hash: str

    def __post_init__(self) -> None:
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.image.channels:
                raise ValueError(f"{field}: expected {self.image.channels} channels, found {len(values)}")
        if len(self.classes) < 2:
            raise ValueError(f"classes: expected at least two, found {list(self.classes)}")


def read_dataset(path: Path) -> DatasetDescription:
    """`data/prepared/dataset.json`."""
    return read_record(path, DatasetDescription)
