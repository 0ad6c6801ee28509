"""Predictions from a packed network: numpy and numba only."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from bnas.data.picture import normalise
from bnas.packed.card import ModelCard
from bnas.packed.file import PackedFile, read
from bnas.packed.kernels import run
from bnas.packed.layout import Step
from bnas.packed.parameters import Floats, Parameters, split
from bnas.packed.program import build

CACHE_BYTES = 512 * 1024
"""What a block of images may take: half of a second-level cache."""

MOST_TOGETHER = 16
"""Images in a block."""


class Machine:
    """Steps made ready to run. `machine(images)` takes float32 `[N, C, H, W]` to the last step's map `[N, …]`.

    Images are shared out among `threads`; a result does not depend on how many there are, nor on its neighbours. May be
    called from several threads at once.
    """

    def __init__(self, steps: Sequence[Step], parameters: Sequence[Parameters], threads: int) -> None:
        if threads < 1:
            raise ValueError(f"threads: expected at least 1, found {threads}")
        self.program = build(steps, parameters)
        self.threads = threads
        self.block = max(1, min(MOST_TOGETHER, CACHE_BYTES // self.program.room.bytes))
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._rooms: SimpleQueue[tuple[NDArray[np.generic], ...]] = SimpleQueue()
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None

    def __call__(self, images: Floats) -> Floats:
        """The last step's map of every image, flattened."""
        if os.getpid() != self._process:  # a fork has none of its parent's threads, and would wait for them forever
            self._start()
        count = len(images)
        last = np.empty((count, int(np.prod(self.program.out))), np.float32)
        share = -(-count // self.threads) or 1
        if self._pool is None or share >= count:
            self._run(images, last)
            return last
        parts = [slice(start, start + share) for start in range(0, count, share)]
        # The calling thread takes a share, too: waking one thread fewer is worth a part of a millisecond.
        others = [self._pool.submit(self._run, images[part], last[part]) for part in parts[1:]]
        self._run(images[parts[0]], last[parts[0]])
        for done in others:
            done.result()
        return last

    def _run(self, images: Floats, last: Floats) -> None:
        try:
            room = self._rooms.get_nowait()
        except Empty:
            room = self.program.room.arrays(self.block)
        flat = images.reshape(len(images), math.prod(images.shape[1:]))
        run(self.program.steps, self.program.tables, room, flat, last, self.block)
        self._rooms.put(room)


class PackedNetwork:
    """A network read from a file. `network(images)` returns logits `[N, classes]`, float32.

    Images are `[N, C, H, W]` of the size that `card.image` names: uint8 pixels, which are normalised as in testing, or
    float32 that has been normalised already. Raises ValueError for another shape or type, and for nan or infinity.
    """

    def __init__(self, content: PackedFile, threads: int | None = None) -> None:
        self.card: ModelCard = content.card
        self.content = content
        self.steps = self.card.steps()
        self.parameters = split(self.steps, content.bits, content.floats)
        self._machine = Machine(self.steps, self.parameters, threads or available_cores())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.card.classes

    def __call__(self, images: NDArray[np.uint8] | Floats) -> Floats:
        """Logits `[N, classes]`."""
        return self._machine(self.inputs(images))

    def inputs(self, images: NDArray[np.uint8] | Floats) -> Floats:
        """What the first layer sees of images, float32 `[N, C, H, W]`."""
        image = self.card.image
        shape = (image.channels, image.height, image.width)
        if images.ndim != 4 or images.shape[1:] != shape or images.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"images: expected uint8 or float32 [N, {', '.join(map(str, shape))}], "
                f"found {images.dtype} {list(images.shape)}"
            )
        if images.dtype == np.uint8:
            pixels = images.astype(np.uint8, copy=False).transpose(0, 2, 3, 1)
            return normalise(pixels, self.card.mean, self.card.std)
        if not np.isfinite(images).all():
            raise ValueError("images: expected finite values, found nan or infinity")
        # Writable, too: for arrays that are not, numba would compile everything again.
        return np.require(images, np.float32, ("C", "W"))

    def probabilities(self, images: NDArray[np.uint8] | Floats) -> NDArray[np.float64]:
        """Softmax of the logits, `[N, classes]`."""
        logits = self(images).astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return found


def load(path: str | os.PathLike[str], threads: int | None = None) -> PackedNetwork:
    """The network in a file, predicting on so many threads (None: all cores). Raises PackedError for a bad file."""
    return PackedNetwork(read(path), threads)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
