"""Kernels on arrays that end at a page which nobody may touch: a vector that reads or writes past an end is a crash.

`python -m tests.bnas.packed.guard` prints `ok`, or dies of a segmentation fault after the steps that it was at.
"""

from __future__ import annotations

import ctypes
import mmap
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas.packed.kernels import Scratch, Tables
from bnas.packed.machine import Machine
from bnas.packed.program import Room
from bnas.space.layout import Pool, Shape, Stem, Step, Sum
from bnas.space.network_config import NetworkConfig
from tests.bnas.packed import builders

EXAMPLES = 80


def guarded(array: NDArray[Any]) -> NDArray[Any]:
    """A copy whose last byte is the last of its page; the next page can be neither read nor written."""
    pages = -(-array.nbytes // mmap.PAGESIZE) + 1
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    end = (pages - 1) * mmap.PAGESIZE
    none = 0
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + end), mmap.PAGESIZE, none) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, offset=end - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


@dataclass(frozen=True)
class GuardedRoom:
    """A program's room, all of its arrays guarded."""

    room: Room

    def arrays(self, block: int) -> Scratch:
        return Scratch(*map(guarded, self.room.arrays(block)))


def drawn(rng: random.Random) -> Sequence[Step]:
    """A block, grouped or not, a stem, a pool or a network, of any size."""
    size, stride = (rng.randint(1, 40), rng.randint(1, 40)), rng.choice([1, 2])
    shape = Shape(rng.randint(1, 4), *size)
    match rng.choice(["block", "block", "grouped", "stem", "pool", "network"]):
        case "stem":
            return [Stem("stem", 0, shape, shape.halved(rng.randint(1, 9), stride), stride)]
        case "pool":
            pool = Pool("pool", 0, shape, shape.halved(shape.channels, stride), rng.choice(["max", "avg"]), stride)
            return [pool, Sum("sum", 1, 1, pool.out, pool.out)]
        case "network":
            config = NetworkConfig(shape.channels, 5, rng.randint(1, 8), rng.randint(3, 5), stride)
            return builders.steps_of(config, rng.randint(1, 3), size, rng.randint(0, 1000))
        case kind:
            groups = rng.randint(2, 5) if kind == "grouped" else 1
            have, made = groups * rng.randint(1, 70 // groups), groups * rng.randint(1, 70 // groups)
            kernel, dilation = rng.choice([1, 3, 5]), rng.choice([1, 2])
            return [builders.block_step(have, made, size, kernel, stride, dilation, groups)]


def main() -> None:
    """Run every example."""
    draws, rng = random.Random(0), np.random.default_rng(0)
    for _ in range(EXAMPLES):
        steps = drawn(draws)
        print(steps[0], flush=True)
        machine = Machine(steps, [builders.parameters(rng, step) for step in steps], 1)
        machine.block = draws.randint(1, 6)
        tables = Tables(*map(guarded, machine.program.tables))
        machine.program = machine.program._replace(tables=tables, room=GuardedRoom(machine.program.room))
        machine(builders.images(rng, draws.randint(1, 5), steps[0].shape))
    print("ok")


if __name__ == "__main__":
    main()
