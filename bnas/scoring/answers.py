"""Answers of a model to mini-batches: wrong ones, and those to be expected by its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.data.batches import MiniBatches
from bnas.nn.network import Supernet
from bnas.space.genotype import Genotype


class Answers(NamedTuple):
    """Answers to the images of a mini-batch: how many are wrong, what those weigh, and what was to be expected.

    Expected: the sum of 1 − p, each by its image's weight, where p is the probability of the image's class (softmax of
    the logits).
    """

    wrong: int
    weight: float
    expected: float


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
    return Answers(int(wrong.sum()), float((wrong * weights).sum()), float((doubts(logits, y) * weights).sum()))


def doubts(logits: Tensor, y: Tensor) -> Tensor:
    """1 − p of each label `[N]` by logits `[N, classes]`, in float64."""
    return 1 - logits.detach().double().softmax(1).gather(1, y[:, None])[:, 0]


def difficulty(supernet: Supernet, batches: MiniBatches, genotypes: Sequence[Genotype]) -> NDArray[np.float64]:
    """How hard each image of the split is, `[N]`: how many of some genotypes' paths are expected to be wrong [ours].

    The sum of 1 − p over the paths, where p is a path's probability of the image's class.
    """
    hard = np.zeros(len(batches.split))
    with torch.no_grad():
        for index in range(len(batches)):
            x, y = batches[index]
            for genotype in genotypes:
                hard[batches.rows(index)] += doubts(supernet(x, genotype), y).cpu().numpy()
    return hard
