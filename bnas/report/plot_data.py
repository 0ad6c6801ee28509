"""Numbers for `dvc exp show` and `dvc plots`."""

from __future__ import annotations

import math

import numpy as np

from bnas.records.networks import ROLES
from bnas.records.training import EpochRecord, Predictions
from bnas.report.indicators import family_hypervolume, fidelity, network_hypervolume, random_hypervolume
from bnas.report.paired import error_difference, hypervolume_difference
from bnas.report.results import STAGE_NAMES, Retrained, Run
from bnas.search import pareto
from bnas.storage.terminal import printable

ROUNDING = 6
"""Digits after the point in metrics and plot data."""


def metrics(run: Retrained) -> dict[str, float | None]:
    """The numbers by which searches are compared, under names that no other stage uses; None where one does not exist.

    From `margin_low` to `margin_high` reaches the interval of the front's hypervolume minus that of random networks;
    `hv_others` is the larger of hand-designed and published networks' hypervolumes, `gain` how many points fewer the
    front errs than random networks of its sizes, to a hundredth. `tau` (Kendall's, of errors in the supernet and test
    errors) is left out where there was no search, balanced errors where `Retrained.shows_balanced` says so.
    """
    front = run.of_role("front")
    families = [run.of_role("hand"), run.of_role("published")]
    others = [family_hypervolume(run, family) for family in families if family]
    difference, margin = error_difference(run, resamples=1), hypervolume_difference(run)
    values = {
        "hypervolume": network_hypervolume(run, front),
        "hypervolume_random": random_hypervolume(run),
        "margin_low": margin.low if margin else math.nan,
        "margin_high": margin.high if margin else math.nan,
        "hv_others": max(others, default=math.nan),
        "gain": 0 - round(100 * difference.observed, 2) if difference else math.nan,
        "best_error": min(network.test_error for network in front),
        **(_balanced_metrics(run) if run.shows_balanced else {}),
        "smallest_kib": min(network.size_bytes for network in front) / 1024,
        **({"tau": fidelity(run)} if isinstance(run, Run) else {}),
    }
    return {name: None if math.isnan(value) else round(value, ROUNDING) for name, value in values.items()}


def _balanced_metrics(run: Retrained) -> dict[str, float]:
    balanced = min(run.balanced_error(network) for network in run.of_role("front"))
    return {"best_balanced_error": balanced, "majority_error": pareto.guessing_error(run.labels)}


def pareto_rows(run: Retrained) -> list[dict[str, str | float]]:
    """Every retrained network as a point: network, role, size_kib, test_error, balanced_error where that is shown."""
    return [
        {
            "network": network.name,
            "role": network.role,
            "size_kib": round(network.size_bytes / 1024, ROUNDING),
            "test_error": round(network.test_error, ROUNDING),
            **({"balanced_error": round(run.balanced_error(network), ROUNDING)} if run.shows_balanced else {}),
        }
        for network in run.of_role(*ROLES)
    ]


def loss_rows(run: Retrained) -> list[dict[str, str | float | int | None]]:
    """Every epoch of every training: network (of the supernet its stage), kind, size_kib, epoch, loss, error."""
    supernet = run.training if isinstance(run, Run) else {}
    curves: list[tuple[str, str, float | None, tuple[EpochRecord, ...]]] = [
        (STAGE_NAMES[stage], "supernet", None, curve) for stage, curve in supernet.items()
    ]
    for network in run.of_role(*ROLES):
        size_kib = round(network.size_bytes / 1024, ROUNDING)
        curves.append((network.name, network.role, size_kib, run.curves.get(network.name, ())))
    return [
        {
            "network": name,
            "kind": kind,
            "size_kib": size_kib,
            "epoch": record.epoch,
            "loss": round(record.loss, ROUNDING),
            "error": round(record.error, ROUNDING),
        }
        for name, kind, size_kib, curve in curves
        for record in curve
    ]


def confusion_rows(run: Retrained) -> list[dict[str, str | int]]:
    """Images of each class by the class that the front's most accurate network named; pairs without images have no row.

    A row has the names of both classes and their numbers, by which they are ordered.
    """
    network, classes = run.best, list(map(printable, run.dataset.classes))
    return [
        {
            "network": network.name,
            "actual": classes[actual],
            "actual_number": actual,
            "predicted": classes[predicted],
            "predicted_number": predicted,
            "images": count,
        }
        for actual, predicted, count in confusions(run.predictions[network.name])
    ]


def confusions(answers: Predictions) -> list[tuple[int, int, int]]:
    """(class, class that it was taken for, number of such images) wherever there are any, in order."""
    pairs, counts = np.unique(np.column_stack((answers.labels, answers.predictions)), axis=0, return_counts=True)
    return [(actual, predicted, count) for actual, predicted, count in np.column_stack((pairs, counts)).tolist()]
