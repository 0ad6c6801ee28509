"""One prepared split: images and labels on disk, and their normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas.data.file_images import FILES, FileImages, index_bytes, open_index
from bnas.data.image_array import ImageArray, Joined
from bnas.data.npy import content_hash, open_array
from bnas.data.problems import DataError
from bnas.storage.files import read_text


@dataclass(frozen=True)
class Split:
    """One part of a prepared data set: `images` uint8 `[N, H, W, C]` and `labels` int64 `[N]`."""

    images: ImageArray
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def open(cls, folder: Path, root: Path | None = None, loader_workers: int = 1) -> Split:
        """The split that `prepare` wrote to a folder, its images memory-mapped.

        Where it wrote an index, they lie below `root`, and are read by so many threads, or while training processes.
        Raises DataError for a folder that holds anything else.
        """
        try:
            images: ImageArray
            if (folder / FILES).exists():
                images = open_index(folder, root, loader_workers)
            else:
                images = open_array(folder / "images.npy")
            labels = open_array(folder / "labels.npy")
        except (OSError, ValueError) as error:
            raise DataError(f"{folder}: expected images and labels.npy, found {error}") from None
        fits = images.dtype == np.uint8 and len(images.shape) == 4 and np.issubdtype(labels.dtype, np.integer)
        if not fits or labels.shape != images.shape[:1]:
            raise DataError(
                f"{folder}: expected uint8 images [N, H, W, C] and N whole labels, "
                f"found {images.dtype} {list(images.shape)} and {labels.dtype} {list(labels.shape)}"
            )
        return cls(images, labels.astype(np.int64))

    def verify(self, folder: Path) -> None:
        """Raises DataError unless the split's content is what `prepare` wrote to the folder."""
        indexed = isinstance(self.images, FileImages)
        images = np.frombuffer(index_bytes(folder), np.uint8) if indexed else self.images
        if read_text(folder / "sha256") != content_hash([images, self.labels]) + "\n":
            raise DataError(f"{folder}: expected the arrays that were written, found other content than sha256 says")

    def joined(self, other: Split) -> Split:
        """Both splits as one; the images stay where they are."""
        return Split(Joined(self.images, other.images), np.concatenate([self.labels, other.labels]))


@dataclass(frozen=True)
class Normalise:
    """uint8 images → network input: `(x / 255 − mean) / std` per channel. The same for training and testing."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 `[N, H, W, C]` → float32 `[N, C, H, W]`, channels last in memory, on the device."""
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=self.device)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=self.device)
        # In place: a large mini-batch costs more for each new stretch of memory than for the arithmetic.
        return images.to(self.device).float().mul_(scale).add_(shift).permute(0, 3, 1, 2)
