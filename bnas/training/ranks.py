"""Several processes (*ranks*) that do one work together: the sums and plain values that they exchange.

A rank is started by `torchrun` or by something that sets the same environment variables (`pipeline.processes` does).
Tensors on the CPU travel over gloo, those on GPUs over nccl. Nothing is pickled: plain values travel as JSON, states
as safetensors.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch import distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from bnas.storage.checkpoint import State
from bnas.storage.terminal import complain

T = TypeVar("T")

LAUNCHER = "BNAS_LAUNCHER"
"""The environment variable that holds the process id of who started a rank on its host: a rank ends with it."""

START = timedelta(minutes=5)
"""The longest that ranks wait for each other in the beginning."""

WORK = timedelta(days=30)
"""The longest that a rank waits for others at work: not a sign of anything, since heartbeats tell who is alive."""

BEAT_SECONDS, MISSED_BEATS = 1.0, 60
"""How often a rank says that it lives, and after how many silent beats it is given up."""

LOST = 75
"""Exit code of a rank that ends only because another one did."""


class LostRankError(RuntimeError):
    """Another rank has ended, or has come to another state than this one."""


@dataclass(frozen=True)
class Ranks:
    """This process among the `size` that share a work; `local` is its number on its own host.

    Whatever is called here has to be called by all ranks, in the same order, unless it says otherwise. For a process
    of its own (`ALONE`) everything returns at once what it was given.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    store: Store | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's part of so many things in a row: contiguous, the parts' lengths differing by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor (float, one device) by its sum over all ranks: the same bits on every one of them.

        All travel in one buffer. Ranks have to pass tensors of the same shapes.
        """
        if self.size == 1:
            return
        buffer = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _lost_ranks():
            dist.all_reduce(buffer)
        for tensor, summed in zip(tensors, torch.split(buffer, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view(tensor.shape))

    def gather(self, value: T) -> list[T]:
        """Every rank's value, which JSON has to be able to hold, in the order of the ranks."""
        if self.size == 1:
            return [value]
        return [json.loads(content) for content in self._gather_bytes(json.dumps(value).encode())]

    def main_value(self, value: T) -> T:
        """The value, which JSON has to be able to hold, of the main rank."""
        if self.size == 1:
            return value
        told: T = json.loads(self._main_bytes(json.dumps(value).encode()))
        return told

    def main_state(self, state: State | None) -> State | None:
        """The state that the main rank passes, or None if it has none."""
        if self.size == 1:
            return state
        plain = self.main_value(None if state is None else dict(state.plain))
        if plain is None:
            return None
        content = b"" if state is None else save({name: t.contiguous() for name, t in state.tensors.items()})
        return State(load(self._main_bytes(content)), plain)

    def agree(self, what: str, *contents: bytes | str) -> None:
        """Raise LostRankError, naming a rank, unless all ranks pass the same contents."""
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for content in contents:
            digest.update(content if isinstance(content, bytes) else content.encode())
        digests = self.gather(digest.hexdigest())
        for rank, other in enumerate(digests):
            if other != digests[0]:
                raise LostRankError(f"rank {rank} has come to other {what} than rank 0")

    def wait(self) -> None:
        """Until all ranks have come here."""
        self.gather(None)

    def next_of(self, name: str, count: int) -> Iterator[int]:
        """Numbers below `count` that no other rank gets, each when it is asked for. Every rank calls it by itself."""
        if self.store is None:
            yield from range(count)
            return
        while (number := self.store.add(f"next/{name}", 1) - 1) < count:
            yield number

    def _gather_bytes(self, content: bytes) -> list[bytes]:
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with _lost_ranks():
            dist.all_gather(lengths, torch.tensor([len(content)]))
            longest = max(int(length) for length in lengths)
            padded = torch.frombuffer(bytearray(content.ljust(longest, b"\0")), dtype=torch.uint8)
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
        return [part[: int(length)].numpy().tobytes() for part, length in zip(parts, lengths, strict=True)]

    def _main_bytes(self, content: bytes) -> bytes:
        length = torch.tensor([len(content)])
        with _lost_ranks():
            dist.broadcast(length, 0)
            buffer = torch.empty(int(length), dtype=torch.uint8)
            if self.is_main:
                buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            dist.broadcast(buffer, 0)
        return buffer.numpy().tobytes()


ALONE = Ranks()
"""A process that shares its work with no other."""


class Letters:
    """Plain values sent to the main rank, without anyone waiting. Each rank makes it once for a name."""

    _PIECE = 2**20  # a store takes 8 MiB at a time

    def __init__(self, ranks: Ranks, name: str) -> None:
        assert ranks.store is not None
        self._store, self._read = PrefixStore(f"letters/{name}", ranks.store), 0

    def send(self, value: Any) -> None:
        """Send a value that JSON can hold. By any rank at any time."""
        content = json.dumps(value)
        pieces = [content[at : at + self._PIECE] for at in range(0, len(content), self._PIECE)]
        number = self._store.add("sent", 1)
        for i, piece in enumerate(pieces):
            self._store.set(f"{number}/{i}", piece)
        self._store.set(f"{number}", str(len(pieces)))

    def received(self) -> Iterator[Any]:
        """What was sent and not received yet, in order. By the main rank at any time."""
        while self._store.check([f"{self._read + 1}"]):
            self._read += 1
            pieces = int(self._store.get(f"{self._read}"))
            yield json.loads(b"".join(self._store.get(f"{self._read}/{i}") for i in range(pieces)))
            for key in (f"{self._read}", *(f"{self._read}/{i}" for i in range(pieces))):
                self._store.delete_key(key)


class _lost_ranks:  # noqa: N801  # reads as a context
    """A context that turns what torch raises when a connection breaks into LostRankError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        if isinstance(error, (RuntimeError, ValueError)) and not isinstance(error, LostRankError):
            raise LostRankError("another rank has ended, or cannot be reached; its host may say why") from error


def is_rank() -> bool:
    """Whether this process was started as one of several."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def join(*, cuda: bool) -> Ranks:
    """Meet the other ranks that the environment speaks of. From then on, whoever is left ends when one does.

    With `cuda` each rank of a host has the GPU of its local number. Raises ValueError where there are fewer of them.
    """
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    _end_with_launcher()
    if cuda:
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"processes: expected at most {torch.cuda.device_count()}, the GPUs of this host, "
                f"found {os.environ.get('LOCAL_WORLD_SIZE', local + 1)}"
            )
        torch.cuda.set_device(local)
    store, _, _ = next(rendezvous("env://", timeout=START))
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    own = TCPStore(address, port, None, is_master=False, timeout=START)  # a store answers one thread at a time
    with _lost_ranks():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=WORK,
        )
    threading.Thread(target=_heartbeat, args=(PrefixStore("beat", own), rank, size), daemon=True).start()
    return Ranks(rank, size, local, PrefixStore("ranks", store))


def leave(ranks: Ranks) -> None:
    """Wait for the others, then part from them."""
    ranks.wait()
    _parted.set()
    dist.destroy_process_group()


_parted = threading.Event()


def _heartbeat(store: Store, rank: int, size: int) -> None:
    """Tell the others that this rank lives, and end it when one of them has not been heard of for long.

    Beats are counted, not seconds: a machine that slept finds everybody where it left them.
    """
    others = [other for other in range(size) if other != rank]
    heard, silent = dict.fromkeys(others, b""), dict.fromkeys(others, 0)
    number = 0
    while not _parted.wait(BEAT_SECONDS):
        number += 1
        try:
            store.set(str(rank), str(number))
            for other in others:
                beat = store.get(str(other)) if store.check([str(other)]) else b""
                silent[other] = 0 if beat != heard[other] else silent[other] + 1
                heard[other] = beat
        except RuntimeError:
            if not _parted.wait(BEAT_SECONDS):
                give_up("lost the connection to rank 0's host", LOST)
            return
        for other in others:
            if silent[other] >= MISSED_BEATS:
                give_up(f"rank {other} has not been heard of for {MISSED_BEATS * BEAT_SECONDS:.0f} s", LOST)


def give_up(message: str, code: int) -> NoReturn:
    """End this process at once, with a line for the launcher, who prints it."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        with open(path, "w") as file:
            json.dump({"message": message, "timestamp": str(int(time.time()))}, file)
    else:
        complain(f"rank {os.environ.get('RANK', 0)}", message)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with_launcher() -> None:
    """End this process when its launcher does: one that was killed cannot end its ranks."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: at once, also within a long computation

    def watch() -> None:
        while os.getppid() == int(launcher):
            time.sleep(0.2)
        os._exit(LOST)

    threading.Thread(target=watch, daemon=True).start()
