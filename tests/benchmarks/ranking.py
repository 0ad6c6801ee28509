"""What estimates of errors are worth: Kendall's tau-b with the errors of networks trained in full, on the tables.

`reports/tabular/*.csv` hold the tables (`dvc repro pipeline/tabular/dvc.yaml`). An estimate is a callable that is given
a table and returns a value for every network, the lower the better; add one to `estimates`. No estimate has seen the
trainings that it is compared with. All networks: their errors in full under seed 0. Repeated ones: the mean of their
errors in full under all seeds but that of the estimate, which is nearer to what an architecture is worth. The best
tenth: by how many points its mean error is below that of all networks of its size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bnas.search.network_regression import Features, NetworkRegression
from bnas.search.pareto import kendall_tau
from bnas.space.genotype import Genotype
from bnas.space.search_space import SearchSpace
from pipeline.params import load
from pipeline.tabular.networks import SHORT
from tests.benchmarks.text import table as markdown
from tests.imports import ROOT

TABLES = ROOT / "reports/tabular"
RESAMPLES = 400
FOLDS = 10
OWN_SHARE = load(ROOT / "params.yaml").trial.own_share
"""What the trial of params.yaml goes by."""

Values = "pd.Series[float]"
"""A value for each network, indexed by its key; networks that lack it may be left out."""


def trainings(rows: pd.DataFrame, seed: int, epochs: int) -> pd.DataFrame:
    """The trainings of a seed for so many epochs, by network."""
    return rows[(rows["seed"] == seed) & (rows["epochs"] == epochs)].set_index("network")


def target(rows: pd.DataFrame) -> pd.DataFrame:
    """The trainings in full under seed 0, which all networks have."""
    return trainings(rows, 0, int(rows["epochs"].max()))


def repeated(rows: pd.DataFrame, without: int | None) -> pd.DataFrame:
    """Of networks trained in full under every seed: as `target`, but with mean errors over the seeds but this one."""
    full = rows[(rows["epochs"] == rows["epochs"].max()) & (rows["seed"] < SHORT)]
    seeds = full.groupby("network")["seed"].nunique()
    known = seeds.index[seeds == full["seed"].nunique()]
    means = full[full["seed"] != without].groupby("network")["error"].mean()
    return target(rows).loc[known].assign(error=means[known])


def loss(rows: pd.DataFrame, epoch: int) -> Values:
    """The training loss of an epoch."""
    return rows[f"train_loss_{epoch}"]


def loss_and_error(rows: pd.DataFrame, epochs: int) -> Values:
    """The sum of both after a short schedule, each in its standard deviations over the table."""
    short = trainings(rows, SHORT, epochs)
    first, second = ((each - each.mean()) / each.std() for each in (loss(short, epochs), short["error"]))
    return first + second


def features(rows: pd.DataFrame) -> NDArray[np.float64]:
    """What the trial's regression sees of networks."""
    genotypes = list(map(Genotype.from_json, rows["genotype"]))
    ops = tuple(dict.fromkeys(gene.op for genotype in genotypes for gene in genotype.genes))
    counts = Features(SearchSpace(ops, genotypes[0].nodes, genotypes[0].space), ())(genotypes)
    return np.column_stack([counts, np.log(rows[["size_bytes", "ops"]])])


def predicted(rows: pd.DataFrame) -> Values:
    """The regression on errors of other networks: each tenth from the other nine."""
    full = target(rows)
    return pd.Series(left_out(features(full), full["error"].to_numpy(), 0), full.index)


def left_out(matrix: NDArray[np.float64], results: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """What the regression expects of every row, from rows of the other tenths of a random division."""
    parts = np.random.default_rng(seed).permutation(len(results)) % FOLDS
    values = np.zeros(len(results))
    for part in np.unique(parts):
        inside = parts == part
        values[inside] = NetworkRegression(matrix[~inside], results[~inside].tolist())(matrix[inside])
    return values


def trial(trained: pd.DataFrame, epochs: int, own: float = OWN_SHARE) -> Values:
    """The estimate of a trial from the first epochs of these trainings; `own` is `own_share`."""
    results = loss(trained, epochs)
    return own * results + (1 - own) * regressed(features(trained), results)


def regressed(matrix: NDArray[np.float64], results: Values) -> Values:
    """What the regression over trained networks makes of each of them."""
    return pd.Series(NetworkRegression(matrix, results.tolist())(matrix), results.index)


class Estimate(NamedTuple):
    """Values from a table, the epochs that a network is trained for them, and the seed of a full training they see.

    `begins` says that they are of its first epochs, so that its own error is no target.
    """

    values: Callable[[pd.DataFrame], Values]
    epochs: int
    seed: int | None = None
    begins: bool = False


def estimates(rows: pd.DataFrame) -> dict[str, Estimate]:
    """Name → the estimate."""
    short = sorted(set(rows["epochs"]) - {rows["epochs"].max()})
    longest = int(rows["epochs"].max())
    found = {
        "size alone": Estimate(lambda rows: -target(rows)["size_bytes"], 0),
        "operations alone": Estimate(lambda rows: -target(rows)["ops"], 0),
        "regression on other networks' errors": Estimate(predicted, 0, 0),
    }
    for epochs in map(int, short):
        found |= {
            f"training loss, {epochs} of {epochs}": Estimate(
                lambda r, e=epochs: loss(trainings(r, SHORT, e), e), epochs
            ),
            f"error, {epochs} of {epochs}": Estimate(lambda r, e=epochs: trainings(r, SHORT, e)["error"], epochs),
            f"loss and error, {epochs} of {epochs}": Estimate(lambda r, e=epochs: loss_and_error(r, e), epochs),
            f"the trial's estimate, {epochs} of {epochs}": Estimate(
                lambda r, e=epochs: trial(trainings(r, SHORT, e), e), epochs
            ),
        }
    for epochs in (1, 2, 3):
        name = f"{epochs} of {longest}"
        found |= {
            f"training loss, {name}, seed 1": Estimate(
                lambda r, e=epochs: loss(trainings(r, 1, longest), e), epochs, 1
            ),
            f"training loss, {name}": Estimate(lambda r, e=epochs: loss(target(r), e), epochs, 0, True),
            f"regression alone, {name}": Estimate(lambda r, e=epochs: trial(target(r), e, 0.0), epochs, 0, True),
            f"the trial's estimate, {name}": Estimate(lambda r, e=epochs: trial(target(r), e), epochs, 0, True),
        }
    ceiling = Estimate(lambda r: trainings(r, 1, longest)["error"], longest, 1)
    return found | {"error in full, another seed: the ceiling": ceiling}


def tau(group: pd.DataFrame) -> float:
    """Between the estimate and the error."""
    return kendall_tau(group["estimate"], group["error"])


def best_tenth(group: pd.DataFrame) -> float:
    """By how many points the networks with the lowest tenth of the estimates err less than all do; at least one."""
    best = group.nsmallest(max(1, round(len(group) / 10)), "estimate")
    return float(100 * (group["error"].mean() - best["error"].mean()))


def agreement(
    full: pd.DataFrame, values: Values, equal: bool, measure: Callable[[pd.DataFrame], float] = tau
) -> dict[str, float] | None:
    """Tau over all networks that have a value, or within bands of equal size; its 95 % interval over networks.

    Another `measure` is taken in the same way.
    """
    both = full.join(values.rename("estimate"), how="inner")
    groups = [part for name, part in both.groupby("part") if name != "spread"] if equal else [both]
    groups = [group for group in groups if len(group) > 4]
    if not groups:
        return None
    rng = np.random.default_rng(0)
    drawn = []
    for draw in range(RESAMPLES + 1):
        chosen = [group if not draw else group.iloc[rng.integers(0, len(group), len(group))] for group in groups]
        drawn.append(float(np.average(list(map(measure, chosen)), weights=[len(group) for group in groups])))
    if np.isnan(drawn[0]):  # an estimate that tells none apart
        return None
    low, high = np.nanquantile(drawn[1:], [0.025, 0.975])
    return {"median": drawn[0], "low": float(low), "high": float(high)}


def ranking() -> dict[str, list[dict[str, Any]]]:
    """Table → a row for every estimate."""
    found = {}
    paths = sorted(TABLES.glob("*.csv"))
    if not paths:
        raise SystemExit("ranking: expected tables in reports/tabular, found none: dvc repro pipeline/tabular/dvc.yaml")
    for path in paths:
        rows = pd.read_csv(path)
        full = target(rows)
        second = float((full["seconds"] / full["epochs"]).median())
        found[path.stem] = []
        for name, estimate in estimates(rows).items():
            values = estimate.values(rows)
            if not len(values):
                continue
            again, others = repeated(rows, estimate.seed), full[:0] if estimate.begins else full
            found[path.stem].append(
                {
                    "estimate": name,
                    "networks": len(full.index.intersection(values.index)),
                    "tau, all sizes (95 %)": agreement(others, values, equal=False),
                    "tau, equal size (95 %)": agreement(others, values, equal=True),
                    "best tenth, equal size, points (95 %)": agreement(others, values, equal=True, measure=best_tenth),
                    "repeated": len(again.index.intersection(values.index)),
                    "tau, equal size, mean of other seeds (95 %)": agreement(again, values, equal=True),
                    "seconds a network": round(estimate.epochs * second, 1),
                }
            )
    return found


def text(found: Mapping[str, Any]) -> list[str]:
    """The section of the report."""
    parts = ["## What estimates of errors are worth", (__doc__ or "").split("\n\n")[1].replace("\n", " ")]
    for name, rows in found["ranking"].items():
        parts += [f"### {name}", markdown([{k: "-" if v is None else v for k, v in row.items()} for row in rows])]
    return parts


MEASURES = {"ranking": ranking}

if __name__ == "__main__":
    print(json.dumps(ranking(), indent=1))
