"""Stage `networks` of a table: random networks trained from scratch, one row for every training."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path

from bnas.nn.cost import CostTable
from bnas.records.dataset import DatasetDescription
from bnas.records.training import EpochRecord, read_epochs, read_predictions
from bnas.space.genotype import Genotype
from bnas.space.network_config import NetworkConfig
from bnas.space.search_space import distinct
from bnas.training import network_pool
from bnas.training.family import Recipe, Use
from bnas.training.network_pool import Job
from pipeline import build, networks
from pipeline.config import dataset, search_space
from pipeline.stage import Stage, atomic_write
from pipeline.stage.side import PROJECT
from pipeline.tabular.params import NetworksSection, TabularParams
from pipeline.tabular.stage import TABULAR

TABLES = PROJECT / "reports/tabular"

POOL = 24_000
"""Random architectures that networks are chosen from: half with uniform genes, half of all sizes."""

EQUAL = 0.03
"""Sizes that differ from a band's by no more than this share are equal."""

AT_ONCE = 24
"""Networks after which the table is written."""

SHORT = 1000
"""Added to the seed of trainings by a short schedule, so that none shares its weights with a full training."""


@dataclass(frozen=True)
class Entry:
    """A network of the table: which part it belongs to (`spread`, or the KiB of its band), and its architecture."""

    part: str
    genotype: Genotype


@dataclass(frozen=True)
class Training:
    """One training of a network: seed and epochs."""

    seed: int
    epochs: int


def run(stage: Stage) -> None:
    """Train what the table lacks, some networks at a time, and write the table anew after each of these."""
    params, description = stage.params, dataset()
    assert isinstance(params, TabularParams)
    costs = build.cost_table(params, description, search_space(params))
    entries = chosen(costs, params.networks)
    device, path = build.device(params.runtime), TABLES / f"{params.name}.csv"
    plan = trainings(entries, params.networks, params.recipe.epochs)
    conditions = conditions_of(params, costs.config, description)
    rows = kept_rows(path, conditions)
    advance = stage.progress(sum(training.epochs * len(them) for training, them in plan))
    with network_pool.started(params.runtime.workers) as workers:
        for start in range(0, len(entries), AT_ONCE):
            some = entries[start : start + AT_ONCE]
            for training, them in plan:
                lacking = [entry for entry in them if entry in some and key_of(entry, training) not in rows]
                recipe = Recipe(**{**params.recipe.model_dump(), "seed": training.seed, "epochs": training.epochs})
                use = use_of(params.networks, training)
                trained = networks.family(params, description, recipe, device, use)
                jobs = [networks.job(e.genotype.key, costs.config, e.genotype, trained, description) for e in lacking]

                def on_epoch(name: str, record: EpochRecord, training: Training = training) -> None:
                    advance(1, f"{name}, seed {training.seed}, epoch {record.epoch}/{training.epochs}")

                waiting = [each for each in jobs if not each.is_finished(training.epochs)]
                there = sum(entry in some for entry in them) - len(waiting)
                advance(training.epochs * there + sum(each.unfinished().count for each in waiting), "kept")
                network_pool.train_family(waiting, trained, workers=workers, on_epoch=on_epoch)
                for entry, finished in zip(lacking, jobs, strict=True):
                    rows[key_of(entry, training)] = row(entry, training, use, finished, costs, conditions)
            order = [key_of(entry, training) for training, them in plan for entry in them]
            atomic_write(path, text([rows[key] for key in dict.fromkeys((*order, *rows)) if key in rows], params))


Row = dict[str, str]
"""A line of the table, by column."""

Key = tuple[str, str, str]
"""Which training a row is of: genotype, seed, epochs."""


def key_of(entry: Entry, training: Training) -> Key:
    """The key of a network's training."""
    return entry.genotype.to_json(), str(training.seed), str(training.epochs)


def conditions_of(params: TabularParams, final: NetworkConfig, description: DatasetDescription) -> str:
    """A hash of what all trainings of the table share: data, recipe and configuration; not the code."""
    shared = {
        "config": asdict(final),
        "recipe": params.recipe.model_dump(exclude={"seed", "epochs"}),
        "augmentation": asdict(build.augmentation(params)),
        "data": description.hash,
        "folds": params.networks.folds,
    }
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]


def kept_rows(path: Path, conditions: str) -> dict[Key, Row]:
    """The rows of a table that is there: what was trained on another day or machine is not trained again.

    Raises ValueError where rows are of other conditions.
    """
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    others = sum(row.get("conditions") != conditions for row in rows)
    if others:
        raise ValueError(
            f"{path.relative_to(PROJECT)}: expected rows of these data, this recipe and configuration (conditions "
            f"{conditions}), found {others} of others; give the table another tabular.name, or move the file away"
        )
    return {(row["genotype"], row["seed"], row["epochs"]): row for row in rows}


def use_of(section: NetworksSection, training: Training) -> Use:
    """The use of the splits in a training: train, judged by validation, or both but the fold that its seed chooses."""
    if section.folds == 1:
        return Use(("train",), "validation")
    seed = training.seed - SHORT + 1 if training.seed >= SHORT else training.seed  # short ones: not the fold of seed 0
    return Use(("train", "validation"), "", section.folds, seed % section.folds)


def trainings(entries: Sequence[Entry], section: NetworksSection, epochs: int) -> list[tuple[Training, list[Entry]]]:
    """Every training of the table with its networks: all in full, some under further seeds, all by short schedules.

    Networks that are trained again are the first of the bands.
    """
    repeated = [entry for entry in entries if entry.part != "spread"][: section.repeated]
    return [
        (Training(0, epochs), list(entries)),
        *((Training(SHORT, short), list(entries)) for short in section.schedules),
        *((Training(seed, epochs), repeated) for seed in range(1, section.seeds)),
    ]


def chosen(costs: CostTable, section: NetworksSection) -> list[Entry]:
    """The networks, spread ones and those of the bands in turn; fewer of each are the first of more."""
    rng = random.Random(section.seed)
    space = costs.space
    pool = distinct(lambda: space.sample(rng), POOL // 2)
    pool = list(dict.fromkeys(pool + distinct(lambda: space.sample_mixed(rng), POOL // 2)))
    rng.shuffle(pool)
    sizes = {genotype: costs.size(genotype) for genotype in pool}
    # Half of the pool for either: more networks in the bands take none of those that are spread.
    bands = [banded(pool[::2], sizes, band * 1024, section.per_band) for band in section.bands_kib]
    parts = [
        [Entry(f"{band:g}", genotype) for genotype in them] for band, them in zip(section.bands_kib, bands, strict=True)
    ]
    parts.append([Entry("spread", genotype) for genotype in spread_out(pool[1::2], sizes, section.spread)])
    return [entry for entry in chain(*zip_longest(*parts)) if entry is not None]


def banded(pool: Sequence[Genotype], sizes: dict[Genotype, float], middle: float, count: int) -> list[Genotype]:
    """The first of the pool whose size is equal to `middle`. Raises ValueError where they are too few."""
    equal = [genotype for genotype in pool if abs(sizes[genotype] / middle - 1) <= EQUAL]
    if len(equal) < count:
        raise ValueError(
            f"networks.bands_kib: expected {count} architectures of {middle / 1024:g} KiB, found {len(equal)}"
        )
    return equal[:count]


def spread_out(pool: Sequence[Genotype], sizes: dict[Genotype, float], count: int) -> list[Genotype]:
    """Architectures at evenly spread log sizes: the middle of the range first, then quarters, and so on."""
    logs = {genotype: math.log(sizes[genotype]) for genotype in pool}
    low, high = min(logs.values()), max(logs.values())
    taken = []
    for place in halves(count):
        nearest = min(logs, key=lambda genotype: abs(logs[genotype] - low - (high - low) * place))
        taken.append(nearest)
        del logs[nearest]
    return taken


def halves(count: int) -> Iterator[float]:
    """1/2, 1/4, 3/4, 1/8, …: the sequence of van der Corput in base 2."""
    for number in range(1, count + 1):
        yield sum(int(bit) / 2**place for place, bit in enumerate(reversed(f"{number:b}"), 1))


def row(entry: Entry, training: Training, use: Use, finished: Job, costs: CostTable, conditions: str) -> Row:
    """What the table says of one training."""
    cost, answers = costs(entry.genotype), read_predictions(finished.folder / "predictions.csv")
    values: dict[str, object] = {
        "network": entry.genotype.key,
        "part": entry.part,
        "genotype": entry.genotype.to_json(),
        "size_bytes": f"{costs.size(entry.genotype):.10g}",
        "binary_params": cost.binary_params,
        "float_params": cost.float_params,
        "ops": f"{cost.ops:.10g}",
        "seed": training.seed,
        "fold": use.fold,
        "epochs": training.epochs,
        "error": f"{(~answers.correct).mean():.6g}",
        "images": len(answers.labels),
        "seconds": network_pool.read_seconds(finished.folder),
        "conditions": conditions,
    }
    for record in read_epochs(finished.folder / "curve.json"):
        values[f"train_loss_{record.epoch}"] = f"{record.loss:.6g}"
        values[f"train_error_{record.epoch}"] = f"{record.error:.6g}"
    return {name: str(value) for name, value in values.items()}


def text(rows: Sequence[Row], params: TabularParams) -> str:
    """The table as CSV; what a training did not come to is empty."""
    curves = [f"train_{what}_{i}" for what in ("loss", "error") for i in range(1, params.recipe.epochs + 1)]
    names = [*(name for name in rows[0] if not name.startswith("train_")), *curves]
    written = io.StringIO()
    writer = csv.DictWriter(written, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


if __name__ == "__main__":
    sys.exit(TABULAR.main("networks", run))
