"""Ranks over gloo on loopback, forked from one process that has imported torch: a fraction of a second each."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.distributed import TCPStore

from bnas.training.ranks import join, leave

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.bnas.ranks", "bnas.search.coevolution", "bnas.training.network_pool", "torch._dynamo"]
)


def together(size: int, work: Callable[..., Any], *arguments: Any, context: Any = CONTEXT) -> list[Any]:
    """What `work(ranks, *arguments)`, a function of a module, returns on each rank, in their order.

    An exception that it raises on a rank is returned instead, as its text. Forks have one thread each; for more, the
    context has to spawn: OpenMP does not survive a fork.
    """
    store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(rank, size, store.port, theirs, work, arguments))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        return [pipe.recv() if pipe.poll(120) else "no answer" for pipe in pipes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()


def _rank(
    rank: int, size: int, port: int, pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    ranks = join(cuda=False)
    try:
        pipe.send(work(ranks, *arguments))
    except Exception as error:
        pipe.send("".join(traceback.format_exception(error)))
    leave(ranks)
