"""The most frequent confusions of a network, and small pictures of such images."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bnas.records.training import Predictions
from bnas.report.plot_data import confusions

THUMBNAIL_PIXELS = 64
"""Longest side of a picture in the page; larger images are reduced to it."""


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another: class numbers, and the images' numbers in the test split."""

    actual: int
    predicted: int
    images: tuple[int, ...]


def worst_first(answers: Predictions) -> list[tuple[int, int, int]]:
    """(class, another that it was taken for, images), the most frequent first; of equals the lower classes."""
    return sorted((cell for cell in confusions(answers) if cell[0] != cell[1]), key=lambda cell: -cell[2])


def worst_confusions(answers: Predictions, count: int) -> list[Confusion]:
    """The `count` most frequent confusions, in the order of `worst_first`."""
    confusions = []
    for actual, predicted, _ in worst_first(answers)[:count]:
        images = np.flatnonzero((answers.labels == actual) & (answers.predictions == predicted))
        confusions.append(Confusion(actual, predicted, tuple(images.tolist())))
    return confusions


def worst_of_each(answers: Predictions, count: int) -> list[tuple[int, int, int]]:
    """The `count` most frequent confusions of each class, in the order of `worst_first`."""
    seen = Counter[int]()
    worst = []
    for cell in worst_first(answers):
        seen[cell[0]] += 1
        if seen[cell[0]] <= count:
            worst.append(cell)
    return worst


def image_uri(image: NDArray[np.uint8]) -> str:
    """An image `[H, W, C]` in a `data:` address: WebP in colour if C is 3, else PNG of its channels' mean in grey."""
    colour = image.shape[2] == 3
    picture = Image.fromarray(np.asarray(image) if colour else image.mean(axis=2).round().astype(np.uint8))
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    content, kind = io.BytesIO(), "webp" if colour else "png"
    picture.save(content, format=kind, **({"quality": 85} if colour else {"optimize": True}))
    return f"data:image/{kind};base64," + base64.b64encode(content.getvalue()).decode("ascii")
