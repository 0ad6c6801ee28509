import json

import numpy as np
import pytest
import torch

from bnas.data.split import Split
from bnas.records.networks import LinearBaseline, read_linear
from bnas.report.sentences import linear_note
from bnas.training.family import Family, FamilyData, Recipe
from bnas.training.linear_baseline import train_linear
from bnas.training.loop import TrainingError
from tests import finished_run
from tests.bnas import tiny

RECIPE = Recipe(
    seed=3,
    epochs=6,
    batch_size=8,
    batch_norm_group=0,
    learning_rate=0.01,
    final_learning_rate=0.0,
    weight_decay=0.0,
    drop_path=0.2,
    label_smoothing=0.0,
    auxiliary_weight=0.0,
    mixed_precision=False,
)


def trained(folder, make, classes, recipe=RECIPE, heard=None):
    for name, count, seed in (("train", 64, 0), ("validation", 32, 1), ("test", 80, 2)):
        if not (folder / name).exists():
            tiny.write_split(folder / name, make(count, seed))
    data = FamilyData(folder, tiny.MEAN, tiny.STD, tiny.PLAIN)
    heard = [] if heard is None else heard
    return train_linear(Family(recipe, data, torch.device("cpu")), classes, heard.append)


def equal_pixels(count, seed):
    """The class is whether two pixels are equal: no weighted sum of pixels shows it."""
    bits = np.random.default_rng(seed).integers(0, 2, (count, 2))
    images = np.zeros((count, 8, 8, 1), dtype=np.uint8)
    images[:, 0, :2, 0] = 255 * bits
    return Split(images, (bits[:, 0] == bits[:, 1]).astype(np.int64))


def test_a_linear_classifier_learns_what_weighted_pixels_show_and_nothing_else(tmp_path):
    heard = []
    shown = trained(tmp_path / "shown", tiny.split, tiny.CLASSES, heard=heard)
    hidden = trained(tmp_path / "hidden", equal_pixels, 2)
    assert (shown.test_images, shown.epochs, [record.epoch for record in heard]) == (80, 6, [1, 2, 3, 4, 5, 6])
    assert shown.test_error < 0.1
    assert hidden.test_error > 0.3
    assert trained(tmp_path / "hidden", equal_pixels, 2) == hidden


def test_a_recipe_that_loses_it_is_named(tmp_path):
    recipe = Recipe(**{**RECIPE.__dict__, "learning_rate": 1e38})
    with pytest.raises(TrainingError, match="linear baseline"):
        trained(tmp_path, tiny.split, tiny.CLASSES, recipe)


def test_only_networks_whose_whole_interval_is_below_count_as_better(tmp_path):
    finished_run.write(tmp_path)
    networks = finished_run.read(tmp_path).networks
    at = sorted(network.wrong for network in networks)
    note = linear_note(LinearBaseline(at[len(at) // 2], finished_run.IMAGES, 6), networks)
    assert f"0 of {len(networks)} networks" in linear_note(LinearBaseline(at[0], finished_run.IMAGES, 6), networks)
    assert f"All {len(networks)} networks" in linear_note(LinearBaseline(300, finished_run.IMAGES, 6), networks)
    # Intervals of neighbours overlap, so fewer than those with lower errors are clearly better.
    clearly = int(note.split(" networks lie")[0].rsplit(". ", 1)[1].split(" of ")[0])
    assert clearly < sum(wrong < at[len(at) // 2] for wrong in at)


def test_it_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "linear.json"
    path.write_text(json.dumps(LinearBaseline(3, 40, 2).to_dict()))
    assert read_linear(path) == LinearBaseline(3, 40, 2)
    path.write_text(json.dumps(LinearBaseline(3, 40, 2).to_dict() | {"wrong": 41}))
    with pytest.raises(ValueError, match=r"linear\.json: .*at most 40, found 41"):
        read_linear(path)
