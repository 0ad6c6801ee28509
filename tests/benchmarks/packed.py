"""The packed runtime against PyTorch and onnxruntime; equality first, then times."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import onnxruntime
import pandas as pd
import torch
from numba import njit
from numpy.typing import NDArray
from torch.nn import functional as F

from bnas import packed
from bnas.nn.network import Network
from bnas.packed import kernels, latency, reference
from bnas.packed.lanes import POSITIONS, TOGETHER, count_differences
from bnas.packed.machine import Machine, available_cores
from bnas.packed.onnx_export import to_onnx
from bnas.packed.parameters import BlockParameters, Floats
from bnas.packed.program import build
from bnas.packed.timing import timed
from bnas.records.dataset import DatasetDescription
from bnas.records.networks import RetrainedNetwork, read_networks
from bnas.report.network_tables import markdown_table
from bnas.space.layout import Block, Shape
from bnas.space.search_space import SearchSpace
from pipeline.config import dataset, network_config, search_space
from pipeline.export import RETRAIN, card, trained
from pipeline.params import load
from tests.benchmarks.measure import compared
from tests.benchmarks.text import table

SIDES = {16: 32, 32: 32, 64: 16, 128: 16, 256: 8}
"""Channels → side of the map, as in a network that halves the map when it doubles the channels."""

KERNELS = [(3, 1), (5, 1), (3, 2), (5, 2)]
IMAGES, BLOCK = 16, 4

LEAST = {16: 2, 32: 2, 64: 4, 128: 6, 256: 6}
"""Channels → how many times faster than PyTorch a layer has to be."""


def layers() -> list[dict[str, Any]]:
    """A whole binary block on maps as they lie inside a network, against PyTorch's bare float convolution.

    On one thread and on up to two, as PyTorch may use them: the runtime takes one where the work is not worth two.
    """
    bound = popcount_bounds()
    rows = []
    for threads in range(1, min(available_cores(), 2) + 1):
        for channels, side in SIDES.items():
            for kernel, dilation in KERNELS:
                row = {"threads": threads, "channels": channels, "side": side}
                rows.append(row | layer(channels, side, kernel, dilation, threads))
                for name, most in bound.items():
                    rows[-1][f"of {name} bound"] = round(rows[-1]["Gop/s"] / most / rows[-1]["threads taken"], 3)
    return rows


def layer(channels: int, side: int, kernel: int, dilation: int, threads: int) -> dict[str, Any]:
    """One row of `layers`."""
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    shape = Shape(channels, side, side)
    step = Block("layer", 0, shape, shape, kernel, 1, dilation)

    def draw(*size: int) -> np.ndarray:
        return rng.normal(size=size).astype(np.float32)

    weight = np.where(rng.random((channels, channels, kernel, kernel)) < 0.5, -1, 1).astype(np.int8)
    values = BlockParameters(draw(channels), draw(channels), weight, draw(channels), draw(channels), draw(channels))
    x = draw(IMAGES, *shape)
    if threads == 1:  # On more, each thread does the same to images of its own.
        got = Machine([step], [values], 1)(x[:1]).reshape(1, *shape)
        assert np.array_equal(got, reference.run([step], [values], x[:1]))
    used = threads_used(step, values, x, threads)
    workers = [worker(step, values, x[i * BLOCK :], IMAGES // BLOCK // used) for i in range(used)]
    bits = torch.from_numpy(np.where(x > 0, np.float32(1), np.float32(-1)))
    rival = {}
    for name, layout in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
        a = bits.contiguous(memory_format=layout)
        b = torch.from_numpy(weight.astype(np.float32)).contiguous(memory_format=layout)
        rival[name] = lambda a=a, b=b: F.conv2d(a, b, None, 1, step.padding, dilation)
    with ThreadPoolExecutor(1) as pool, torch.inference_mode():
        others = workers[1:]

        def ours() -> None:
            waiting = [pool.submit(other) for other in others]
            workers[0]()
            for done in waiting:
                done.result()

        found = compared({"packed block": ours, **rival})
    best = min(rival, key=lambda name: found[name]["median"])
    macs = IMAGES * channels**2 * kernel**2 * side**2
    return {
        "kernel": f"{kernel}x{kernel}" + (" dilated" if dilation > 1 else ""),
        "threads taken": used,
        "packed ms": found["packed block"],
        "torch ms": found[best],
        "torch layout": best,
        "ratio": round(found[best]["median"] / found["packed block"]["median"], 2),
        "demanded": LEAST[channels],
        "Gop/s": round(2 * macs / found["packed block"]["median"] / 1e6),
    }


def threads_used(step: Block, values: BlockParameters, x: Floats, threads: int) -> int:
    """How many of the threads the runtime takes for these images."""
    if threads == 1:
        return 1
    machine, alone = Machine([step], [values], threads), worker(step, values, x, IMAGES // BLOCK)
    machine.seconds = timed(alone, seconds=0.05).low / IMAGES
    return machine.threads_for(len(x))


def worker(step: Block, values: BlockParameters, x: Floats, times: int) -> Callable[[], None]:
    """What a thread does: the block on its images `[BLOCK, C, H, W]`, so many times, in arrays of its own."""
    program = build([step], [values])
    scratch, p = program.room.arrays(BLOCK), program.steps[0]
    source, out = scratch.maps[p["source"] * BLOCK :], scratch.maps[p["out"] * BLOCK :]
    part = x[:BLOCK].transpose(1, 0, 2, 3).ravel()
    source[: part.size] = part

    def run() -> None:
        for _ in range(times):
            kernels.block_step(source, out, program.tables, scratch, BLOCK, p)

    return run


@njit(nogil=True)
def _vector(counts, planes, weights, distances, repeats):  # type: ignore[no-untyped-def]
    for i in range(repeats):
        count_differences(counts, planes, weights, distances, i % 8, 0, len(distances), 0, POSITIONS)


@njit(nogil=True)
def _scalar(x, weights, repeats):  # type: ignore[no-untyped-def]
    total = np.uint64(0)
    for i in range(repeats):
        for k in range(len(x)):
            total += np.uint64(numba_popcount(x[k] ^ weights[k] ^ np.uint64(i)))
    return total


@numba.extending.intrinsic
def numba_popcount(typing: Any, word: Any) -> Any:
    """Set bits of a 64-bit word."""
    return word(word), lambda context, builder, signature, args: builder.ctpop(args[0])


def popcount_bounds() -> dict[str, float]:
    """Gop/s (a multiply and an addition each count) of xor, popcount and addition alone, on data in the first cache."""
    rng = np.random.default_rng(0)
    taps, repeats = 144, 4000
    planes = rng.integers(0, 256, 16384, np.uint8)
    weights = rng.integers(0, 256, taps * TOGETHER, np.uint8)
    distances = np.arange(taps) * 64
    counts = np.zeros(TOGETHER * POSITIONS, np.uint16)
    words = rng.integers(0, 2**63, 512).astype(np.uint64)
    found = compared(
        {
            "vector": lambda: _vector(counts, planes, weights, distances, repeats),
            "64-bit": lambda: _scalar(words, words[::-1].copy(), repeats),
        }
    )
    ops = {"vector": 2 * 8 * POSITIONS * TOGETHER * taps * repeats, "64-bit": 2 * 64 * 512 * repeats}
    return {name: ops[name] / found[name]["median"] / 1e6 for name in found}


def networks() -> list[dict[str, Any]]:
    """The networks of the finished run, against PyTorch eager and onnxruntime, on all cores."""
    torch.set_num_threads(available_cores())
    params, description = load("params.yaml"), dataset()
    pixels = np.load("data/prepared/test/images.npy").transpose(0, 3, 1, 2)
    return [
        whole(found, trained(found, params, description), description, pixels)
        for found in read_networks(RETRAIN / "networks.json")
    ]


def whole(
    found: RetrainedNetwork, network: Network, description: DatasetDescription, pixels: NDArray[np.uint8]
) -> dict[str, Any]:
    """One row of `networks`."""
    threads = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bnn"
        packed.save(network, path, card(found, network.config, description))
        loaded = packed.load(path, threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        to_onnx(loaded).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    singles = pixels.astype(np.float32)
    other = int((loaded(pixels).argmax(1) != session.run(None, {"pixels": singles})[0].argmax(1)).sum())
    assert other <= 0.01 * len(pixels), f"{found.name}: onnxruntime gives {other} test images another class"
    row: dict[str, Any] = {"network": found.name, "KiB": round(found.size_bytes / 1024, 2)}
    row["other classes in onnxruntime"] = f"{other} of {len(pixels)}"
    for count in (1, 64):
        inputs = loaded.inputs(pixels[:count])
        x = torch.from_numpy(inputs).contiguous(memory_format=torch.channels_last)
        part = {"pixels": singles[:count].copy()}
        calls: dict[str, Callable[[], object]] = {
            "packed": partial(loaded, inputs),
            "torch": partial(network, x),
            "onnxruntime": partial(session.run, None, part),
        }
        with torch.inference_mode():
            times = compared(calls)
        row |= {f"{name} ms, batch {count}": times[name] for name in times}
        for name in ("torch", "onnxruntime"):
            row[f"{name} / packed, batch {count}"] = round(times[name]["median"] / times["packed"]["median"], 2)
    return row


def latency_table() -> dict[str, Any]:
    """Sums of a latency table, as `objectives.resource: latency` minimises them, against measured whole networks."""
    params, description = load("params.yaml"), dataset()
    space, config = search_space(params), network_config(params, description, params.network.final)
    image = description.image
    table = latency.measure(config, space, image.height, image.width)
    correlation = latency.check(table, config, space, image.height, image.width)
    return {"networks": latency.CHECKED, "correlation": None if correlation is None else round(correlation, 4)}


def compilation() -> dict[str, float]:
    """Seconds to load a network and predict once in a fresh process: with an empty cache, and with what that left."""
    genotype = SearchSpace(nodes=3).sample(random.Random(0))
    code = (
        "import sys, time; start = time.perf_counter(); import numpy as np; from bnas.space.genotype import Genotype;"
        "from bnas.space.network_config import NetworkConfig; from bnas.packed.latency import network_seconds;"
        f"network_seconds(NetworkConfig(1, 10, 8, 3, 2), Genotype.from_json({genotype.to_json()!r}), 28, 28, 0.0);"
        "print(time.perf_counter() - start)"
    )
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
            done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
            seconds.append(round(float(done.stdout), 2))
    return {"empty cache": seconds[0], "cached": seconds[1]}


MEASURES: Mapping[str, Callable[[], Any]] = {
    "layers": layers,
    "networks": networks,
    "latency_table": latency_table,
    "compilation": compilation,
}
"""Name of the figures → what measures them."""


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as paragraphs of Markdown."""
    return [
        "## Packed layers",
        f"A whole packed block (signs, packing, convolution, BatchNorm, shortcut, PReLU) on {IMAGES} images, "
        "against PyTorch's bare float32 convolution in the better memory format, on up to as many threads: the runtime "
        "takes one where the work is not worth two. The bounds are exclusive or, popcount and addition alone, by "
        "thread: in 64-bit words, and in the widest vectors.",
        table(found["layers"]),
        worst(found["layers"]),
        "## Whole networks",
        "The networks of a default run, all cores, milliseconds per call.",
        table(found["networks"]),
        slowest(found["networks"]),
        "## Latency table",
        "Sums of a table of the default space's edges, as `objectives.resource: latency` minimises them, correlate "
        f"with {found['latency_table']['networks']} measured whole networks by {found['latency_table']['correlation']} "
        f"(demanded: {latency.LEAST_CORRELATION}).",
        "## Compilation",
        f"Loading a network and predicting once in a fresh process takes {found['compilation']['empty cache']} s with "
        f"an empty cache and {found['compilation']['cached']} s after that, whatever the network.",
    ]


def worst(rows: Sequence[Mapping[str, Any]]) -> str:
    """The least and the median ratio of each number of channels and threads, beside what is demanded."""
    groups: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["threads"], row["channels"]), []).append(row)
    summary = [
        {
            "threads": str(threads),
            "channels": str(channels),
            "least ratio": f"{min(row['ratio'] for row in group):.2f}",
            "median": f"{statistics.median(row['ratio'] for row in group):.2f}",
            "demanded": f"{group[0]['demanded']}",
            "met": "yes" if all(row["ratio"] >= row["demanded"] for row in group) else "NO",
        }
        for (threads, channels), group in groups.items()
    ]
    return markdown_table(pd.DataFrame(summary))


def slowest(rows: Sequence[Mapping[str, Any]]) -> str:
    """The least ratios over all networks, beside what is demanded."""
    demanded = {"torch": 2, "onnxruntime": 1}
    summary = [
        {
            "rival": rival,
            "batch": str(count),
            "least ratio": f"{(least := min(row[f'{rival} / packed, batch {count}'] for row in rows)):.2f}",
            "demanded": str(demanded[rival]),
            "met": "yes" if least >= demanded[rival] else "NO",
        }
        for rival in demanded
        for count in (1, 64)
    ]
    return markdown_table(pd.DataFrame(summary), left=("rival",))
