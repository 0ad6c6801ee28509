"""Answers that were given once, kept in memory and in checkpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bnas.records.base import parse
from bnas.scoring.answers import Answers
from bnas.space.genotype import Genotype
from bnas.storage.checkpoint import Resumption, Save, State

SAVE_SECONDS = 60.0
"""The longest that answers wait to be saved while scoring goes on."""


class AnswerStore:
    """Answers of each genotype to the mini-batches of one sequence, from the first on and without a gap.

    Answers that an interrupted run left (`remembered`) are not known until they are asked for: whoever runs the same
    search again with them takes the same way, in less time.
    """

    def __init__(self) -> None:
        self._known: dict[Genotype, list[Answers]] = {}
        self._early: dict[tuple[Genotype, int], Answers] = {}
        self.remembered: dict[Genotype, list[Answers]] = {}
        self._save: Save | None = None
        self._saved = time.monotonic()

    def keep(self, resumption: Resumption) -> None:
        """Save all answers from now on, and remember those of an interrupted run, if there are any.

        Raises ValueError for a state that holds no answers.
        """
        self._save = resumption.save
        if resumption.state is not None:
            try:
                answers = [(Genotype.from_dict(value), each) for value, each in resumption.state.plain["answers"]]
            except (KeyError, TypeError) as error:
                raise ValueError(f"checkpoint: expected answers of a search, found {error}") from None
            self.remembered = {genotype: parse("checkpoint", each, list[Answers]) for genotype, each in answers}

    def known(self, genotype: Genotype) -> Sequence[Answers]:
        """Its answers to the first mini-batches."""
        return self._known.get(genotype, ())

    def genotypes(self) -> list[Genotype]:
        """Everyone who has answered, in the order in which they were first asked."""
        return [genotype for genotype, known in self._known.items() if known]

    def missing(self, genotype: Genotype, count: int) -> range:
        """Which of the first `count` mini-batches have no answer, when all that is remembered of them is known."""
        known = self._known.setdefault(genotype, [])
        known += self.remembered.get(genotype, [])[len(known) : count]
        return range(len(known), count)

    def add(self, genotype: Genotype, index: int, answers: Answers) -> None:
        """The answers to mini-batch `index`; they wait to be known until those to the ones before are."""
        known = self._known[genotype]
        self._early[genotype, index] = answers
        while (genotype, len(known)) in self._early:
            known.append(self._early.pop((genotype, len(known))))

    def save(self) -> None:
        """Save all answers, if `keep` said to what; those that wait for others are left out."""
        if self._save is None:
            return
        everything = self.remembered | {
            genotype: max(self._known[genotype], self.remembered.get(genotype, []), key=len)
            for genotype in self.genotypes()
        }
        self._save(State({}, {"answers": [[genotype.to_dict(), each] for genotype, each in everything.items()]}))
        self._saved = time.monotonic()

    def save_if_due(self) -> None:
        """`save`, unless that was less than `SAVE_SECONDS` ago."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()
