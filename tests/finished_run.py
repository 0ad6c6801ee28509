"""The files that a finished run leaves behind, made up: small, seeded, and of the committed format."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bnas.records.dataset import DatasetDescription, ImageShape, SplitCounts
from bnas.records.export import ExportedNetwork, ExportedNetworks, NetworkLatency
from bnas.records.networks import ROLES, LinearBaseline, NetworkTime, RetrainedNetwork, RetrainedNetworks
from bnas.records.search import Front, FrontMember, GenerationRecord, Generations, Member, SearchSummary, SpaceRange
from bnas.records.training import EpochRecord, Predictions
from bnas.records.trial import Origin, TrialNetwork, TrialNetworks
from bnas.report.results import Run
from bnas.space.genotype import Genotype
from bnas.space.search_space import SearchSpace
from pipeline.report import read_run

SPACE = SearchSpace(nodes=3)
RANGE = SpaceRange(4000.0, 16000.0, 0.9)
IMAGES = 400
STAGES = (("stage1", 3, "auxiliary"), ("stage2", 3, "alternate"), ("search", 4, "alternate"))


def size(genotype: Genotype) -> float:
    """A made-up size: grows with the number of weighted operations."""
    share = 1 - genotype.parameter_free_share
    return RANGE.smallest_bytes * (RANGE.largest_bytes / RANGE.smallest_bytes) ** share


def _error(genotype: Genotype, scale: float, rng: random.Random) -> float:
    position = math.log(size(genotype) / RANGE.smallest_bytes, 4)
    return min(0.9, max(0.01, scale * (1.2 - position) * rng.uniform(0.85, 1.15)))


def _curve(epochs: int, start: float) -> list[EpochRecord]:
    return [EpochRecord(e, start / e, min(1.0, 0.4 * start / e), 0.003 / e) for e in range(1, epochs + 1)]


def generations(rng: random.Random, population: int = 12) -> tuple[GenerationRecord, ...]:
    records = []
    for stage, count, rule in STAGES:
        for _ in range(count):
            members = []
            for _ in range(population):
                genotype = SPACE.sample_mixed(rng)
                scale = 0.6 - 0.03 * len(records)
                members.append(
                    Member(genotype, _error(genotype, scale, rng), _error(genotype, 0.3, rng), size(genotype))
                )
            records.append(GenerationRecord(stage, len(records) + 1, rule, tuple(members)))
    return tuple(records)


def front(rng: random.Random, count: int = 7) -> Front:
    """Members of different sizes whose errors fall with size."""
    by_size: dict[float, Genotype] = {}
    while len(by_size) < count:
        genotype = SPACE.sample_mixed(rng)
        by_size.setdefault(size(genotype), genotype)
    members = []
    for i, (bytes_, genotype) in enumerate(sorted(by_size.items())):
        wrong = 90 - 8 * i
        members.append(FrontMember(genotype, wrong / 200, wrong, 200, bytes_, 900 + 500 * i, 1e6 + 2.5e5 * i))
    return Front(RANGE, tuple(members))


def networks(found: Front, rng: random.Random, count: int = 4) -> list[RetrainedNetwork]:
    chosen = [found.members[i] for i in np.linspace(0, len(found.members) - 1, count).round().astype(int)]
    made = []
    for i, m in enumerate(chosen, 1):
        common = (8, 3, m.size_bytes, m.params, m.ops)
        made.append(
            RetrainedNetwork(
                f"front-{i}",
                "front",
                m.genotype,
                *common,
                m.error,
                30 - 5 * i,
                IMAGES,
                6,
                None,
                trial_estimate=0.5,
                ram_bytes=34_496,
            )
        )
        other = SPACE.sample(rng)
        made.append(
            RetrainedNetwork(
                f"random-{i}",
                "random",
                other,
                *common,
                m.error + 0.05,
                36 - 5 * i,
                IMAGES,
                6,
                f"front-{i}",
                trial_estimate=0.6,
            )
        )
    hand = SPACE.sample(rng)
    made.append(RetrainedNetwork("hand-4", "hand", hand, 4, 3, 3000.0, 700, 9e5, None, 40, IMAGES, 6, None))
    made.append(RetrainedNetwork("hand-8", "hand", hand, 8, 3, 9000.0, 2700, 3e6, 0.2, 14, IMAGES, 6, None))
    published = SPACE.sample(rng)
    made.append(RetrainedNetwork("ebnas", "published", published, 8, 3, 8000.0, 2500, 3e6, 0.3, 18, IMAGES, 6, None))
    return sorted(made, key=lambda network: ROLES.index(network.role))


def trial(rng: random.Random, count: int = 12) -> list[TrialNetwork]:
    """Two rungs: every origin in turn, and the best of the first trained for longer."""
    first = []
    for i in range(count):
        genotype, origin = SPACE.sample_mixed(rng), get_args(Origin)[i % 3]
        loss = 1 + _error(genotype, 0.5, rng)
        first.append(TrialNetwork(genotype, origin, 1, loss, 40, 200, size(genotype), loss / 4, round(loss, 3)))
    best = sorted(first, key=lambda network: network.estimate)[: count // 3]
    return first + [dataclasses.replace(n, epochs=3, loss=n.loss / 2, estimate=n.estimate / 2) for n in best]


def predictions(wrong: int, rng: np.random.Generator) -> Predictions:
    labels = np.arange(IMAGES) % 10
    answers = labels.copy()
    mistaken = rng.choice(IMAGES, wrong, replace=False)
    answers[mistaken] = (answers[mistaken] + 1) % 10
    return Predictions(labels, answers)


def images(seed: int) -> NDArray[np.uint8]:
    """Test images `[N, 28, 28, 1]`: a bright square whose place tells the class, in noise."""
    made = np.random.default_rng(seed).integers(0, 90, (IMAGES, 28, 28, 1), dtype=np.uint8)
    for i, image in enumerate(made):
        row, column = divmod(i % 10, 4)
        image[2 + 8 * row : 8 + 8 * row, 1 + 7 * column : 6 + 7 * column] = 255
    return made


def write(root: Path, seed: int = 0, *, times: bool = True) -> None:
    """All files under `root`, as the stages before the report write them."""
    rng = random.Random(seed)
    dataset = DatasetDescription(
        "made_up",
        "made-up digits",
        tuple("0123456789"),
        ImageShape(28, 28, 1),
        SplitCounts(1600, 200, IMAGES),
        (0.13,),
        (0.31,),
        "0" * 16,
    )
    _write(root / "data/prepared/dataset.json", dataset.to_dict())
    (root / "data/prepared/test").mkdir()
    np.save(root / "data/prepared/test/images.npy", images(seed))
    for stage, epochs in (("stage1", 5), ("stage2", 3)):
        _write(root / f"data/{stage}/training.json", [e.to_dict() for e in _curve(epochs, 2.2)])
    _write(root / "data/search/generations.json", Generations(generations(rng)).to_dict())
    found = front(rng)
    _write(root / "data/search/front.json", found.to_dict())
    summary = SearchSummary(520, 40000, 104000, 0.81, 0.2, 0.75)
    _write(root / "data/search/summary.json", summary.to_dict())
    _write(root / "data/trial/networks.json", TrialNetworks(tuple(trial(rng))).to_dict())
    _write(root / "data/trial/front.json", replace(found, members=found.members[::2]).to_dict())
    made = networks(found, rng)
    _write(root / "data/retrain/networks.json", RetrainedNetworks(tuple(made)).to_dict())
    _write(root / "data/retrain/linear.json", LinearBaseline(120, IMAGES, 6).to_dict())
    generator = np.random.default_rng(seed)
    for network in made:
        folder = root / "data/retrain" / network.name
        _write(folder / "curve.json", [e.to_dict() for e in _curve(network.epochs, 1.5)])
        (folder / "predictions.csv").write_text(predictions(network.wrong, generator).to_csv())
    exported = [ExportedNetwork(n.name, int(n.size_bytes) + 900, int(n.size_bytes), 900, "0" * 16, 0) for n in made]
    _write(root / "data/export/files.json", ExportedNetworks(tuple(exported)).to_dict())
    if times:
        latencies = [NetworkLatency(n.name, 5e-5, 2e-3, 1e-3, 8e-3).to_dict() for n in made]
        _write(root / "reports/times/latency.json", latencies)
        for stage, seconds in (("prepare", 3.2), ("stage1", 95.0), ("stage2", 80.1), ("retrain", 4210.0)):
            _write(root / f"reports/times/{stage}.json", {f"{stage}_seconds": seconds})
        rows = [NetworkTime(network.name, 40.0 + i).to_dict() for i, network in enumerate(made)]
        _write(root / "reports/times/networks.json", rows)


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def read(root: Path) -> Run:
    """The run as the report stage reads it, from another folder than the working directory."""
    with contextlib.chdir(root):
        return read_run("float32")
