"""Stage `networks` of a table: random networks trained from scratch, one row for every training."""

from __future__ import annotations

import csv
import io
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from bnas.nn.cost import CostTable
from bnas.records.training import EpochRecord, read_epochs, read_predictions
from bnas.space.genotype import Genotype
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
    """Train every network that is not trained yet, and write the table."""
    params, description = stage.params, dataset()
    assert isinstance(params, TabularParams)
    costs = build.cost_table(params, description, search_space(params))
    entries = chosen(costs, params.networks)
    device = build.device(params.runtime)
    plan = trainings(entries, params.networks, params.recipe.epochs)
    advance = stage.progress(sum(training.epochs * len(them) for training, them in plan))
    rows = []
    for training, them in plan:
        recipe = Recipe(**params.recipe.model_dump() | {"seed": training.seed, "epochs": training.epochs})
        use = use_of(params.networks, training)
        trained = networks.family(params, description, recipe, device, use)
        jobs = {
            entry: networks.job(entry.genotype.key, costs.config, entry.genotype, trained, description)
            for entry in them
        }

        def on_epoch(name: str, record: EpochRecord, training: Training = training) -> None:
            advance(1, f"{name}, seed {training.seed}, epoch {record.epoch}/{training.epochs}")

        waiting = [each for each in jobs.values() if not each.is_finished(training.epochs)]
        advance(training.epochs * (len(jobs) - len(waiting)) + sum(each.unfinished().count for each in waiting), "kept")
        network_pool.train_family(waiting, trained, workers=params.runtime.workers, on_epoch=on_epoch)
        rows += [row(entry, training, use, finished, costs) for entry, finished in jobs.items()]
    atomic_write(TABLES / f"{params.name}.csv", text(rows, params.recipe.epochs))


def use_of(section: NetworksSection, training: Training) -> Use:
    """The use of the splits in a training: train, judged by validation, or both but the fold that its seed chooses."""
    if section.folds == 1:
        return Use(("train",), "validation")
    return Use(("train", "validation"), "", section.folds, training.seed % section.folds)


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


def row(entry: Entry, training: Training, use: Use, finished: Job, costs: CostTable) -> dict[str, object]:
    """The table's row of one training."""
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
    }
    for record in read_epochs(finished.folder / "curve.json"):
        values[f"train_loss_{record.epoch}"] = f"{record.loss:.6g}"
        values[f"train_error_{record.epoch}"] = f"{record.error:.6g}"
    return values


def text(rows: Sequence[dict[str, object]], epochs: int) -> str:
    """The table as CSV; epochs that a training did not have are empty."""
    names = list(rows[0])[:13] + [f"train_{what}_{i}" for what in ("loss", "error") for i in range(1, epochs + 1)]
    written = io.StringIO()
    writer = csv.DictWriter(written, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


if __name__ == "__main__":
    sys.exit(TABULAR.main("networks", run))
