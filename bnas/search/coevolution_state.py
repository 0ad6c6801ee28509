"""The state of a stage of co-evolution: what a checkpoint of it holds."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from bnas.records.base import parse
from bnas.records.search import GenerationRecord
from bnas.space.genotype import Genotype
from bnas.storage.checkpoint import State, random_state, set_random_state
from bnas.training.loop import TrainingState


@dataclass
class CoevolutionState:
    """A supernet stage between two epochs or generations: everything that its rest depends on.

    `waiting` holds the members whose turn in the current round of training is still to come, the next one last.
    """

    training: TrainingState
    rng: random.Random
    members: tuple[Genotype, ...]
    waiting: list[Genotype] = field(default_factory=list)
    generations: list[GenerationRecord] = field(default_factory=list)
    evaluated: set[Genotype] = field(default_factory=set)

    def next_member(self) -> Genotype:
        """The member to be trained next: members take turns, in a new order each round."""
        if not self.waiting:
            order = list(self.members)
            self.rng.shuffle(order)
            self.waiting = order[::-1]
        return self.waiting.pop()

    def state(self) -> State:
        """The whole state, as `restore` takes it."""
        training = self.training.state()
        plain = {
            "random": random_state(self.rng),
            "members": _plain(self.members),
            "waiting": _plain(self.waiting),
            "generations": [record.to_dict() for record in self.generations],
            "evaluated": _plain(sorted(self.evaluated, key=lambda genotype: genotype.key)),
        }
        return State(training.tensors, {**training.plain, **plain})

    def restore(self, state: State) -> None:
        """Go on as the stage whose `state` it is; raises ValueError for the state of anything else."""
        self.training.restore(state)
        plain = state.plain
        try:
            set_random_state(self.rng, plain["random"])
            self.members, self.waiting = tuple(_genotypes(plain["members"])), _genotypes(plain["waiting"])
            self.generations = list(parse("checkpoint", plain["generations"], tuple[GenerationRecord, ...]))
            self.evaluated = set(_genotypes(plain["evaluated"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"checkpoint: expected the state of this stage, found {error}") from None


def _plain(genotypes: Iterable[Genotype]) -> list[object]:
    return [genotype.to_dict() for genotype in genotypes]


def _genotypes(values: Iterable[object]) -> list[Genotype]:
    return [Genotype.from_dict(value) for value in values]
