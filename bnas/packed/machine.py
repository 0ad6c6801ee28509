"""A program of steps made ready to run on images: threads, and the memory that each of them works in."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

import numpy as np

from bnas.packed.kernels import Scratch, run
from bnas.packed.layout import Step
from bnas.packed.parameters import Floats, Parameters
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
        self._free: SimpleQueue[Scratch] = SimpleQueue()
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
            scratch = self._free.get_nowait()
        except Empty:
            scratch = self.program.room.arrays(self.block)
        flat = images.reshape(len(images), math.prod(images.shape[1:]))
        run(self.program.steps, self.program.tables, scratch, flat, last, self.block)
        self._free.put(scratch)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
