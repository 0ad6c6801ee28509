"""Answers of a model to mini-batches: how many are wrong, and what those weigh."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bnas.data.batches import MiniBatches
from bnas.space.genotype import Genotype


class Answers(NamedTuple):
    """Answers to the images of a mini-batch: how many are wrong, and what those weigh."""

    wrong: int
    weight: float


Questions = Mapping[Genotype, range]
"""Genotypes, and the numbers of the mini-batches that each is to answer to."""

Answered = tuple[Genotype, int, Answers]
"""A genotype, the number of a mini-batch, the answers to it."""


@dataclass(frozen=True)
class Way:
    """A way of scoring: `answers` yields the answers to all that is asked, each once, in any order, when it is known.

    It raises EvaluationError, which names the genotype, where that fails. `images_before` images pass through a path
    whenever it is asked, before it answers.
    """

    answers: Callable[[Questions], Iterator[Answered]]
    images_before: int = 0


def answers_on(model: Callable[[Tensor], Tensor], batches: MiniBatches, index: int) -> Answers:
    """A model's answers to mini-batch `index`; raises ValueError for outputs that are not finite."""
    x, y = batches[index]
    return answers_from(model(x), y, batches.weights(index), index)


def answers_from(logits: Tensor, y: Tensor, weights: Tensor, index: int) -> Answers:
    """Answers by logits `[N, classes]` for labels and weights `[N]`; `index` and errors as in `answers_on`."""
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(f"mini-batch {index}: expected finite outputs, found nan or infinity")
    wrong = logits.argmax(1) != y
    return Answers(int(wrong.sum()), float((wrong * weights).sum()))
