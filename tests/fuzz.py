"""`make fuzz`: readers of files, given what no person would write, for some minutes; how many inputs they were given.

A reader may refuse an input in one line, with the one error it documents, or take it. Anything else stops here, with
hypothesis' smallest example. Another reader is another entry of `TARGETS`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bnas.data.npy import open_array
from bnas.packed import PackedError
from bnas.packed import load as load_network
from bnas.records.base import Record, parse, read_stage_times
from bnas.records.dataset import read_dataset
from bnas.records.export import read_exported, read_latencies
from bnas.records.networks import read_network_times, read_networks
from bnas.records.search import Member, read_front, read_generations, read_summary
from bnas.records.training import read_epochs, read_predictions
from bnas.records.trial import read_trial
from bnas.storage.checkpoint import Checkpoints, State
from bnas.storage.files import read_json
from bnas.storage.weights import WeightsError, read_weights, save_weights
from pipeline.params import ParamsWarning, load
from pipeline.params.yaml12 import ParamsError
from tests import finished_run
from tests.bnas.packed.builders import CONFIG, content
from tests.bnas.packed.hostile import parts, with_text
from tests.imports import ROOT

PARAMETERS = (ROOT / "params.yaml").read_bytes()
Target = tuple[Callable[[Path], object], type[Exception], st.SearchStrategy[bytes]]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([10**400, "1e-5", "010", "on", "0x1F", ".inf", "-", "~", "!!python/name:os.system", "&a", "*a"]),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    """Every key path of nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*before, key)
        yield from places(inner, (*before, key))


@st.composite
def changed_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with bytes flipped, cut out, doubled or put in."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["flip", "cut", "double", "insert", "truncate"])):
            case "flip" if content:
                content[at] ^= draw(st.integers(1, 255))
            case "cut":
                del content[at : at + draw(st.integers(1, 40))]
            case "double":
                content[at:at] = content[at : at + draw(st.integers(1, 200))]
            case "insert":
                content[at:at] = draw(st.binary(max_size=20))
            case _:
                del content[at:]
    return bytes(content)


def change_values(draw: st.DrawFn, values: Any) -> None:
    """Replace some values of nested dicts and lists, or take them out."""
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(values))
        if not known:
            return
        *above, last = draw(st.sampled_from(known))
        target = values
        for key in above:
            target = target[key]
        if draw(st.booleans()):
            target[last] = draw(VALUES)
        else:
            del target[last]


@st.composite
def changed_parameters(draw: st.DrawFn) -> bytes:
    """The committed parameters with some values, or whole sections, replaced or taken out."""
    values = yaml.safe_load(PARAMETERS)
    change_values(draw, values)
    return yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")


@st.composite
def changed_json(draw: st.DrawFn, whole: bytes) -> bytes:
    """JSON with some values replaced or taken out."""
    values = json.loads(whole)
    change_values(draw, values)
    return json.dumps(values).encode()


def read_parameters(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ParamsWarning)
        load(path)


@cache
def example(name: str) -> bytes:
    """A file of a finished run."""
    with tempfile.TemporaryDirectory() as folder:
        finished_run.write(Path(folder))
        return (Path(folder) / name).read_bytes()


def an_array() -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, np.zeros((3, 4, 4, 1), np.uint8))
        return Path(file.name).read_bytes()


def changed(name: str) -> st.SearchStrategy[bytes]:
    return st.deferred(lambda: changed_bytes(example(name)))


def changed_file(name: str) -> st.SearchStrategy[bytes]:
    """A JSON file of a finished run whose bytes or values are changed."""
    return st.deferred(lambda: st.one_of(changed_bytes(example(name)), changed_json(example(name))))


def reads_as(kind: type[Record], value: Record) -> Target:
    """The reader of a record that no file of its own is made up for, and what it is given."""
    content = json.dumps(value.to_dict()).encode()
    return (
        lambda path: parse(path, read_json(path), kind),
        ValueError,
        st.one_of(changed_bytes(content), changed_json(content)),
    )


# ---- Tensors ----


def a_checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        plain = {"generation": 3, "rng": [3, [1, 2, 3], None], "answers": [["a", [1, 2]]]}
        Checkpoints(Path(folder), "key").save(State({"weight": torch.zeros(2, 3), "step": torch.tensor(1)}, plain))
        return (Path(folder) / "checkpoint-1").read_bytes()


@st.composite
def hashed_again(draw: st.DrawFn, whole: bytes) -> bytes:
    """A checkpoint whose tensors or plain value are changed, and whose hash was made to fit."""
    start = whole.index(b"\n") + 1
    if draw(st.booleans()):
        body = draw(changed_bytes(whole[start:]))
    else:
        tensors = safetensors.torch.load(whole[start:])
        plain = draw(st.one_of(changed_json(tensors["plain"].numpy().tobytes()), st.binary(max_size=50)))
        tensors["plain"] = torch.frombuffer(bytearray(plain or b" "), dtype=torch.uint8)
        if draw(st.booleans()):
            del tensors[draw(st.sampled_from(sorted(tensors)))]
        body = safetensors.torch.save(tensors)
    return whole[: start - 65] + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def read_checkpoint(path: Path) -> None:
    """The state in a file, as a stage that goes on reads it; ValueError with the warning where it is passed over."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        copy = Path(folder) / "checkpoint-1"
        copy.write_bytes(path.read_bytes())
        if Checkpoints(Path(folder), "key").newest() is None:
            (warning,) = said
            raise ValueError(str(warning.message).replace(str(copy), str(path)))


SAFETENSORS_TYPES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "I16": 2,
    "BF16": 2,
    "F16": 2,
    "F8_E5M2": 1,
    "I32": 4,
    "F32": 4,
    "F64": 8,
}
"""Name → bytes."""


@st.composite
def made_up_tensors(draw: st.DrawFn) -> bytes:
    """A safetensors file with tensors of any type and shape, and any metadata."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(st.text(max_size=8), max_size=4, unique=True)):
        kind, shape = draw(st.sampled_from(sorted(SAFETENSORS_TYPES))), draw(st.lists(st.integers(0, 3), max_size=3))
        start, end = end, end + SAFETENSORS_TYPES[kind] * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.sampled_from(["sha256", "format", ""]), st.text(max_size=9)))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def some_weights() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_weights(torch.nn.Linear(2, 3), Path(folder) / "weights")
        return (Path(folder) / "weights").read_bytes()


@st.composite
def changed_card(draw: st.DrawFn, whole: bytes) -> bytes:
    """A packed file whose card is changed and whose hash was made to fit."""
    card = json.dumps(parts(whole).card).encode()
    return with_text(whole, draw(changed_bytes(card)).decode(errors="replace"))


def load_packed(path: Path) -> None:
    """Read a packed file and predict with it, as `bnas predict` does."""
    network = load_network(path, threads=1)
    image = network.card.image
    network(np.zeros((1, image.channels, image.height, image.width), np.uint8))


PACKED, CHECKPOINT = content(replace(CONFIG, shipped="int8")), a_checkpoint()
PACKED_1 = (ROOT / "tests/bnas/packed/format1.bnn").read_bytes()
TARGETS: dict[str, Target] = {
    "params": (read_parameters, ParamsError, st.one_of(changed_parameters(), changed_bytes(PARAMETERS), st.binary())),
    "array": (open_array, ValueError, changed_bytes(an_array())),
    "dataset": (read_dataset, ValueError, changed_file("data/prepared/dataset.json")),
    "curve": (read_epochs, ValueError, changed_file("data/stage1/training.json")),
    "front": (read_front, ValueError, changed_file("data/search/front.json")),
    "generations": (read_generations, ValueError, changed_file("data/search/generations.json")),
    "summary": (read_summary, ValueError, changed_file("data/search/summary.json")),
    "trial": (read_trial, ValueError, changed_file("data/trial/networks.json")),
    "networks": (read_networks, ValueError, changed_file("data/retrain/networks.json")),
    "predictions": (read_predictions, ValueError, changed("data/retrain/front-1/predictions.csv")),
    "exported": (read_exported, ValueError, changed_file("data/export/files.json")),
    "latencies": (read_latencies, ValueError, changed_file("reports/times/latency.json")),
    "times": (read_stage_times, ValueError, changed_file("reports/times/stage1.json")),
    "network times": (read_network_times, ValueError, changed_file("reports/times/networks.json")),
    "genotype": reads_as(Member, Member(finished_run.SPACE.sample(random.Random(0)), 0.5, 0.25, 100.0)),
    "checkpoint": (read_checkpoint, ValueError, st.one_of(changed_bytes(CHECKPOINT), hashed_again(CHECKPOINT))),
    "weights": (read_weights, WeightsError, st.one_of(changed_bytes(some_weights()), made_up_tensors())),
    "packed": (load_packed, PackedError, st.one_of(changed_bytes(PACKED), changed_card(PACKED), st.binary())),
    "packed 1": (load_packed, PackedError, st.one_of(changed_bytes(PACKED_1), changed_card(PACKED_1))),
}
"""Name → reader, the error it refuses with, and what it is given."""


def fuzz(name: str, seconds: float, first_seed: int) -> Counter[str]:
    """How many inputs a reader was given within so many seconds, and how many of them it took."""
    reader, error, inputs = TARGETS[name]
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"

        def attempt(content: bytes) -> None:
            path.write_bytes(content)
            counts["inputs"] += 1
            try:
                reader(path)
            except error as refused:
                text = str(refused)
                assert "\n" not in text, text
                assert str(path) in text, text
                assert len(text) < 1000, text
            else:
                counts["taken"] += 1

        while time.monotonic() < end:
            checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
            run = given(inputs)(attempt)
            run = settings(
                max_examples=500,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=checks,
            )(run)
            seed(first_seed)(run)()
            first_seed += 1
    return counts


def main() -> int:
    """0 unless a reader fails otherwise than it should, which is raised."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.targets:
        counts = fuzz(name, options.seconds, options.seed)
        print(f"{name}: {counts['inputs']} inputs, {counts['taken']} taken, the others refused in one line", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
