"""Training images that are read from their files while training goes on, by processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bnas.data.augmentation import EVERYTHING, Augmentation, crop_boxes
from bnas.data.file_images import FileImages
from bnas.data.image_array import ImageArray, Joined
from bnas.data.picture import ImageError, cropped, opened_image
from bnas.data.problems import DataError


def file_parts(images: ImageArray) -> tuple[FileImages, ...]:
    """The files that an array consists of, in order; none if it holds anything else."""
    if isinstance(images, FileImages):
        return (images,)
    if isinstance(images, Joined):
        first, second = file_parts(images.first), file_parts(images.second)
        return first + second if first and second else ()
    return ()


class Pictures(Dataset[Tensor | str]):
    """Augmented training images, or what is wrong with their files; asked for by (row, seed of its draws)."""

    def __init__(self, parts: Sequence[FileImages], augmentation: Augmentation) -> None:
        self._parts, self._augmentation = parts, augmentation

    def __getitem__(self, job: tuple[int, int]) -> Tensor | str:
        row, seed = job
        part = next(iter(self._parts))
        for part in self._parts:
            if row < len(part):
                break
            row -= len(part)
        generator = torch.Generator().manual_seed(seed)
        try:
            image = self._read(part, row, generator)
        except ImageError as error:
            return str(error)
        images = torch.from_numpy(image.copy())[None]
        return self._augmentation.recolour(self._augmentation.move(images, generator), generator)[0]

    def _read(self, part: FileImages, row: int, generator: torch.Generator) -> NDArray[np.uint8]:
        """A random crop is one of the whole picture; else it is scaled and cropped as for testing."""
        height, width = part.height, part.width
        with opened_image(part.root / part.paths[row], part.channels) as picture:
            if not self._augmentation.random_resized_crop:
                return cropped(picture, height, width, part.resize)
            top, left, h, w = crop_boxes(1, picture.height, picture.width, generator)[0].tolist()
            crop = picture.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + w, top + h))
            return np.asarray(crop, np.uint8).reshape(height, width, part.channels)


class _Jobs:
    """The rows of a part of each mini-batch with a seed for each image, which its place in the epoch gives."""

    def __init__(self, batches: Sequence[NDArray[np.int64]], seed: int, part: slice) -> None:
        self._batches, self._seed, self._part = batches, seed, part

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        place = self._seed
        for rows in self._batches:
            yield [(row, place + i) for i, row in enumerate(rows.tolist())][self._part]
            place += len(rows)


def streamed(
    parts: Sequence[FileImages],
    augmentation: Augmentation,
    batches: Sequence[NDArray[np.int64]],
    seed: int,
    part: slice = EVERYTHING,
) -> Iterator[Tensor]:
    """The mini-batches of these rows, or a part of each, augmented, uint8 `[B, H, W, C]`.

    However many processes read them (the parts' `loader_workers`; with 0 this one does), they are the same.
    Raises DataError, which names the file, for a picture that cannot be read, and where a process dies as it delivers.
    """
    workers = max(part.loader_workers for part in parts)
    # In a spawned process, as those that retrain networks are, PyTorch would spawn, too: seconds of imports each epoch.
    forks = workers > 0 and sys.platform == "linux"
    loader: DataLoader[Tensor | str] = DataLoader(
        Pictures(parts, augmentation),
        batch_sampler=_Jobs(batches, seed, part),
        num_workers=workers,
        multiprocessing_context="fork" if forks else None,
        collate_fn=_stacked,
        generator=torch.Generator(),  # else the loader would draw from the global one
    )
    try:
        for images in loader:
            if isinstance(images, str):
                raise DataError(images)
            yield images
    except (OSError, EOFError) as error:  # of the way between processes: what files raise is text by now
        raise _lost(error) from None


@contextmanager
def lost_readers() -> Iterator[None]:
    """A process that reads pictures and dies, as for want of memory, becomes a DataError; around all of a training.

    PyTorch says so at once, wherever the process that trains may be at that moment.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise _lost(error) from None


def _lost(error: Exception) -> DataError:
    return DataError(
        "loader_workers: expected processes that read pictures to the end, found one that died for want of "
        f"memory or of room in /dev/shm, or was killed ({error})"
    )


def _stacked(items: list[Tensor | str]) -> Tensor | str:
    images = [item for item in items if not isinstance(item, str)]
    return torch.stack(images) if len(images) == len(items) else next(item for item in items if isinstance(item, str))
