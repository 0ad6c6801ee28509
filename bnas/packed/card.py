"""The card of a packed file: all that it says about its network beside the parameters."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bnas.records.base import STRICT, Positive, Record
from bnas.records.dataset import ImageShape
from bnas.records.networks import RetrainedNetwork
from bnas.space.layout import Step, elements, layout
from bnas.space.network_config import Architecture, NetworkConfig
from bnas.space.schedule import schedule
from bnas.storage.complaints import complaints, first_of

MOST_STEPS = 30_000
"""The most steps of a network that a file may describe."""

MOST_STEPS_AN_EDGE = 6
"""The most steps of an operation, by which `MOST_STEPS` is checked before the steps are listed."""

MOST_VALUES = 2**28
"""The most values in all maps of one image, so that no file makes its reader allocate more than a gigabyte."""


@dataclass(frozen=True, config=STRICT)
class ModelCard(Record):
    """The network, its cost and errors; the images it was trained on, and how they are normalised.

    `config` is the network's configuration, `title` the data set's name, `classes` names the logits in order, `image`
    is the input's size, `mean` and `std` are per channel of values in [0, 1], `data` the data set's content hash.
    """

    network: RetrainedNetwork
    config: NetworkConfig
    title: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    image: ImageShape
    mean: tuple[float, ...]
    std: tuple[Positive, ...]
    data: str

    def __post_init__(self) -> None:
        pairs = (
            ("classes", len(self.classes), self.config.classes),
            ("image.channels", self.image.channels, self.config.in_channels),
            ("mean", len(self.mean), self.config.in_channels),
            ("std", len(self.std), self.config.in_channels),
            ("network.channels", self.network.channels, self.config.channels),
            ("network.cells", self.network.cells, self.config.cells),
        )
        for field, found, expected in pairs:
            if found != expected:
                raise ValueError(f"{field}: expected {expected} as config says, found {found}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: expected different names, found one twice")
        if not all(1e-6 <= value <= 1e6 for value in self.std):
            raise ValueError(f"std: expected values from 1e-06 to 1e+06, found {list(self.std)}")
        steps = self.config.cells * (3 + self.network.genotype.nodes * (1 + 2 * MOST_STEPS_AN_EDGE))
        if steps > MOST_STEPS:
            raise ValueError(f"config.cells: expected cells and nodes of at most {MOST_STEPS} steps, found {steps}")
        values = sum(elements(step.out) for step in self.steps())
        if values > MOST_VALUES:
            raise ValueError(f"image: expected maps of at most {MOST_VALUES} values in all, found {values}")

    @property
    def architecture(self) -> Architecture:
        """The network's configuration and genotype."""
        return Architecture(self.config, self.network.genotype)

    def steps(self) -> tuple[Step, ...]:
        """The steps of the network, for images of its size."""
        return layout(*self.architecture, self.image.height, self.image.width)

    @cached_property
    def ram_bytes(self) -> int:
        """Bytes of memory that one image is computed in: see `bnas.space.schedule.Schedule.bytes`."""
        return schedule(self.steps()).bytes

    def plain(self, version: int) -> dict[str, Any]:
        """The plain value in a file of that version: 1 has no rounding, 2 no values that are derived from others."""
        value = {**self.to_dict(), "config": asdict(self.config)}
        del value["network"]["trial_estimate"]  # says nothing of the network that ships
        del value["network"]["ram_bytes"]  # follows from the steps
        if version == 1:
            del value["config"]["shipped"], value["network"]["rounded"]
        else:
            for name in RetrainedNetwork.DERIVED:
                del value["network"][name]
        return value

    def to_json(self) -> str:
        """One line of JSON, as short as can be."""
        return json.dumps(self.plain(2), allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, version: int) -> ModelCard:
        """The card in a file of that version; raises ValueError, one line, for anything else."""
        try:
            value = json.loads(text)
            card: ModelCard = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise ValueError(first_of(complaints(error, cls))) from None
        except RecursionError:
            raise ValueError("expected a flat description, found endless nesting") from None
        if card.plain(version) != value:
            raise ValueError("expected the keys of a card and what follows from them, found others")
        return card
