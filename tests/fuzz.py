"""`make fuzz`: readers of files, given what no person would write, for some minutes; how many inputs they were given.

A reader may refuse an input in one line, with the one error it documents, or take it. Anything else stops here, with
hypothesis' smallest example. Another reader is another entry of `TARGETS`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bnas.arrays import open_array
from bnas.packed import PackedError
from bnas.packed import load as load_network
from bnas.results import read_front, read_generations, read_networks, read_predictions
from pipeline.params import ParamsWarning, load
from pipeline.yaml12 import ParamsError
from tests import finished_run
from tests.bnas.packed.builders import content
from tests.bnas.packed.hostile import parts, with_text
from tests.imports import ROOT

PARAMETERS = (ROOT / "params.yaml").read_bytes()
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["1e-5", "010", "on", "0x1F", ".inf", "-", "~", "!!python/name:os.system", "&a", "*a"]),
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


@st.composite
def changed_parameters(draw: st.DrawFn) -> bytes:
    """The committed parameters with some values, or whole sections, replaced or taken out."""
    values = yaml.safe_load(PARAMETERS)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from(list(places(values))))
        target = values
        for key in above:
            target = target[key]
        if draw(st.booleans()):
            target[last] = draw(VALUES)
        else:
            del target[last]
    return yaml.safe_dump(values, allow_unicode=True).encode("utf-8", "surrogatepass")


def read_parameters(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ParamsWarning)
        load(path)


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


PACKED = content()
Target = tuple[Callable[[Path], object], type[Exception], st.SearchStrategy[bytes]]
TARGETS: dict[str, Target] = {
    "params": (read_parameters, ParamsError, st.one_of(changed_parameters(), changed_bytes(PARAMETERS), st.binary())),
    "array": (open_array, ValueError, changed_bytes(an_array())),
    "front": (read_front, ValueError, changed("data/search/front.json")),
    "generations": (read_generations, ValueError, changed("data/search/generations.json")),
    "networks": (read_networks, ValueError, changed("data/retrain/networks.json")),
    "packed": (load_packed, PackedError, st.one_of(changed_bytes(PACKED), changed_card(PACKED), st.binary())),
    "predictions": (read_predictions, ValueError, changed("data/retrain/front-1/predictions.csv")),
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
