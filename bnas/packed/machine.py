"""Runs a program of steps on images: shares them out among threads, each with memory of its own."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue

import numpy as np

from bnas.packed.kernels import Scratch, run
from bnas.packed.parameters import Floats, Parameters
from bnas.packed.program import build
from bnas.space.layout import Step

CACHE_BYTES = 512 * 1024
"""Memory that a block of images may take: half of a second-level cache."""

MOST_TOGETHER = 16
"""The most images in a block."""

WORTH = 1.5e-4
"""Seconds of work that a thread needs to be worth waking, which takes up to half as long."""

EXPECTED, MOST, FORGIVING = 0.5, 0.9, 0.99
"""Time of a call on several threads, relative to one thread: the first estimate; the estimate from which on one thread
is used; and the factor of the estimate after each call on one thread, so that several threads are tried again."""


class Machine:
    """Steps made ready to run. `machine(images)` takes float32 `[N, C, H, W]` to the last step's map `[N, …]`.

    Images are shared out among up to `threads`, as many as have `worth` seconds of work each; every thread takes the
    next few until none are left. What an image takes is measured: `seconds` is the least so far, since what else the
    machine does only adds. `shared` holds, by the power of two of their number, how many times as long as on one thread
    calls took of late that were shared out. A result does not depend on how many threads there are, nor on its
    neighbours. May be called from several threads at once.
    """

    def __init__(self, steps: Sequence[Step], parameters: Sequence[Parameters], threads: int) -> None:
        if threads < 1:
            raise ValueError(f"threads: expected at least 1, found {threads}")
        self.program = build(steps, parameters)
        self.threads, self.worth, self.seconds = threads, WORTH, math.inf
        self.shared: dict[int, float] = {}
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
        first = self.block if self.seconds == math.inf else 0  # these tell what an image takes
        self._run(images[:first], last[:first])
        self._share(images[first:], last[first:])
        return last

    def threads_for(self, count: int) -> int:
        """How many threads so many images are shared out among: one where sharing has been slower than that of late."""
        return 1 if self.shared.get(count.bit_length(), EXPECTED) >= MOST else self._worth_it(count)

    def _worth_it(self, count: int) -> int:
        return max(1, int(min(self.threads, count, count * self.seconds / self.worth)))

    def _share(self, images: Floats, last: Floats) -> None:
        count, threads = len(images), self.threads_for(len(images))
        size = count.bit_length()
        if self._pool is None or threads == 1:
            if self._worth_it(count) > 1:
                self.shared[size] *= FORGIVING
            self._run(images, last)
            return
        begun = time.perf_counter()
        most = min(-(-count // threads), max(self.block, math.ceil(self.worth / self.seconds)))
        parts: SimpleQueue[slice] = SimpleQueue()
        for start in range(0, count, most):
            parts.put(slice(start, start + most))
        others = [self._pool.submit(self._take, parts, images, last) for _ in range(threads - 1)]
        self._take(parts, images, last)
        for other in others:
            if not other.cancel():  # one that has not come by now, on a machine that is busy, is not waited for
                other.result()
        took = min((time.perf_counter() - begun) / (count * self.seconds), 2.0)
        self.shared[size] = (3 * self.shared.get(size, EXPECTED) + took) / 4

    def _take(self, parts: SimpleQueue[slice], images: Floats, last: Floats) -> None:
        """Compute one part after another until none is left."""
        while True:
            try:
                part = parts.get_nowait()
            except Empty:
                return
            self._run(images[part], last[part])

    def _run(self, images: Floats, last: Floats) -> None:
        if not len(images):
            return
        start = time.perf_counter()
        try:
            scratch = self._free.get_nowait()
        except Empty:
            scratch = self.program.room.arrays(self.block)
        flat = images.reshape(len(images), math.prod(images.shape[1:]))
        run(self.program.steps, self.program.tables, scratch, flat, last, self.block)
        self._free.put(scratch)
        self.seconds = min(self.seconds, (time.perf_counter() - start) / len(images))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
