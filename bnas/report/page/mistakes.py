"""What a network most often takes for what, and small pictures of such images."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bnas.records.training import Predictions
from bnas.report.analysis import confusion_matrix

THUMBNAIL_PIXELS = 64
"""Longest side of a picture in the page; larger images are reduced to it."""


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another: class numbers, and the images' numbers in the test split."""

    actual: int
    predicted: int
    images: tuple[int, ...]


def worst_confusions(answers: Predictions, classes: int, count: int) -> list[Confusion]:
    """The `count` most frequent confusions, most frequent first; of equals the lower classes."""
    matrix = confusion_matrix(answers, classes)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:count]
    found = []
    for actual, predicted in np.column_stack(np.unravel_index(order, matrix.shape)).tolist():
        if matrix[actual, predicted]:
            images = np.flatnonzero((answers.labels == actual) & (answers.predictions == predicted))
            found.append(Confusion(actual, predicted, tuple(images.tolist())))
    return found


def image_uri(image: NDArray[np.uint8]) -> str:
    """An image `[H, W, C]` in a `data:` address: WebP in colour if C is 3, else PNG of its channels' mean in grey."""
    colour = image.shape[2] == 3
    picture = Image.fromarray(np.asarray(image) if colour else image.mean(axis=2).round().astype(np.uint8))
    picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    content, kind = io.BytesIO(), "webp" if colour else "png"
    picture.save(content, format=kind, **({"quality": 85} if colour else {"optimize": True}))
    return f"data:image/{kind};base64," + base64.b64encode(content.getvalue()).decode("ascii")
