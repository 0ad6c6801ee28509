"""Ways of scoring paths of a supernet: together, one by one, shared out to ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from bnas.data.batches import MiniBatches
from bnas.nn.network import Supernet
from bnas.scoring import shared_paths
from bnas.scoring.answers import Answered, Answers, Questions, Way, answers_on
from bnas.scoring.shared_paths import EvaluationError
from bnas.space.genotype import Genotype
from bnas.training.loop import calibrate
from bnas.training.ranks import ALONE, Ranks

GENOTYPES_BETWEEN = 64
"""Genotypes that each of several ranks scores before they tell each other."""

Model = Callable[[Tensor], Tensor]
"""Inputs `[N, C, H, W]` → logits `[N, classes]`."""


def way_of(
    supernet: Supernet,
    batches: MiniBatches,
    calibration: Sequence[Tensor] = (),
    workers: int = 1,
    ranks: Ranks = ALONE,
) -> Way:
    """The fastest way there is, by `workers` threads: here is the one choice between them.

    Paths are computed together on the CPU in a supernet, each by itself where statistics are recalibrated, on other
    devices, and for whatever else is called like a supernet. Answers depend neither on the threads and ranks nor on who
    else is scored, and on the way but for rounding.
    """
    if calibration:
        way = recalibrated(supernet, batches, calibration, workers)
    elif isinstance(supernet, Supernet) and batches.normalise.device.type == "cpu":
        way = together(supernet, batches, workers)
    else:
        way = one_by_one(lambda genotype: partial(_path, supernet, genotype), batches, workers)
    return among_ranks(way, ranks)


def _path(supernet: Supernet, genotype: Genotype, x: Tensor) -> Tensor:
    logits: Tensor = supernet(x, genotype)
    return logits


def together(supernet: Supernet, batches: MiniBatches, workers: int = 1) -> Way:
    """Paths of a supernet on the CPU, what several of them share computed once."""
    paths = shared_paths.Paths(supernet)
    return Way(lambda questions: shared_paths.answers(paths, batches, questions, workers))


def recalibrated(supernet: Supernet, batches: MiniBatches, calibration: Sequence[Tensor], workers: int = 1) -> Way:
    """Paths one by one, each with the BatchNorm statistics that it has on all calibration images `[N, C, H, W]`."""
    inputs = torch.cat(list(calibration))

    def model(genotype: Genotype) -> Model:
        network = supernet.extract(genotype)
        calibrate(network, inputs)
        return network

    return replace(one_by_one(model, batches, workers), images_before=len(inputs))


def one_by_one(model: Callable[[Genotype], Model], batches: MiniBatches, workers: int = 1) -> Way:
    """Individuals side by side, each on a thread of its own without further ones: small networks do not feed more."""

    def alone(genotype: Genotype, indices: range) -> list[Answers]:
        try:
            with torch.no_grad():
                forward = model(genotype)
                return [answers_on(forward, batches, index) for index in indices]
        except Exception as error:
            raise EvaluationError(genotype, error) from error

    def answers(questions: Questions) -> Iterator[Answered]:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            everyone = pool.map(alone, questions.keys(), questions.values())
            for (genotype, indices), each in zip(questions.items(), everyone, strict=True):
                yield from ((genotype, index, answer) for index, answer in zip(indices, each, strict=True))

    return Way(answers)


def among_ranks(way: Way, ranks: Ranks) -> Way:
    """Each rank answers a share: neighbours by key, who have most in common. All have to ask for the same.

    They meet after every `GENOTYPES_BETWEEN` genotypes a rank, so that what all know can be saved now and then.
    """
    if ranks.size == 1:
        return way

    def answers(questions: Questions) -> Iterator[Answered]:
        ordered = sorted(questions, key=lambda genotype: genotype.key)
        ranks.agree("genotypes to score", *(f"{genotype.key} {questions[genotype]}" for genotype in ordered))
        for start in range(0, len(ordered), GENOTYPES_BETWEEN * ranks.size):
            these = ordered[start : start + GENOTYPES_BETWEEN * ranks.size]
            share = ranks.share(len(these))
            number = {genotype: share.start + i for i, genotype in enumerate(these[share])}
            mine = way.answers({genotype: questions[genotype] for genotype in number}) if number else ()
            for theirs in ranks.gather([[number[genotype], index, *answer] for genotype, index, answer in mine]):
                yield from ((these[i], index, Answers(*answer)) for i, index, *answer in theirs)

    return replace(way, answers=answers)
