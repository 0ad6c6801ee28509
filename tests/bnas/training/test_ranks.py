"""Laws of several ranks, over gloo on loopback: whatever is computed is what one process computes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bnas.data.batches import Augmentation
from bnas.nn.network import PathDropout
from bnas.records.training import read_epochs, read_predictions
from bnas.scoring.supernet_scorer import ScoringData, supernet_scorer
from bnas.search import coevolution, frozen_search
from bnas.search.work import Work
from bnas.space.network_config import Architecture
from bnas.storage.checkpoint import Resumption, State
from bnas.storage.weights import read_weights
from bnas.training.family import Family, FamilyData, Recipe
from bnas.training.loop import CosineRate, Sharing, fit, new_training
from bnas.training.network_pool import Job, train_family, train_together
from bnas.training.ranks import ALONE, Letters, LostRankError, Ranks
from tests.bnas import tiny
from tests.bnas.ranks import together

GROUP, BATCH = 4, 24
"""Six groups a step: two ranks take three each, three ranks take two."""

TOLERANCE, AFTER_STEPS = 1e-5, 1e-2
"""Relative differences: of a step's gradient and loss (float sums in another order); of weights after three steps.

Adam turns a gradient that is zero but for rounding into a step of full length, so weights cannot be held as closely.
"""


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# ---- What one rank has to say to the others ----


def basics(ranks: Ranks) -> dict[str, object]:
    found: dict[str, object] = {"share": [ranks.share(7).start, ranks.share(7).stop]}
    tensors = [torch.full((2, 3), float(ranks.rank)), torch.tensor(0.5), torch.ones(1, 2, 2, 2)]
    ranks.sum([tensors[0], tensors[1]])
    found["sum"] = [tensors[0].tolist(), tensors[1].item()]
    found["gather"] = ranks.gather([ranks.rank, "é" * ranks.rank])
    found["main"] = ranks.main_value(f"from {ranks.rank}")
    state = State({"a": torch.arange(6.0).reshape(2, 3).T, "empty": torch.zeros(0)}, {"x": [1, None]})
    shared, nothing = ranks.main_state(state if ranks.is_main else None), ranks.main_state(None)
    assert shared is not None
    found["state"] = [shared.tensors["a"].tolist(), len(shared.tensors["empty"]), shared.plain, nothing]
    ranks.agree("numbers", "1", b"2")
    try:
        ranks.agree("numbers", str(ranks.rank == 2))
    except LostRankError as error:
        found["disagree"] = str(error)
    found["taken"] = list(ranks.next_of("demo", 20))
    letters, heard = Letters(ranks, "demo"), list[list[int]]()
    letters.send([ranks.rank, "x" * 3_000_000])
    ranks.wait()
    end = time.monotonic() + 60
    while ranks.is_main and len(heard) < ranks.size and time.monotonic() < end:  # a store does not say when it has them
        heard += [[rank, len(text)] for rank, text in letters.received()]
    found["letters"] = sorted(heard)
    found["again"] = list(letters.received()) if ranks.is_main else []
    return found


# ---- Training ----


Arrays = dict[str, np.ndarray]


def training(ranks: Ranks, group: int = GROUP, mode: str = "sample", rate: float = 0.01) -> tuple[Arrays, Arrays, list]:
    """A supernet after three steps on sampled paths of augmented images with path dropout, each on another path.

    Weights, the last step's gradients, and loss, error and the generator's state.
    """
    net, rng = tiny.supernet(), random.Random(1)
    state = new_training(net, 0.01, 2)
    path, at = tiny.SPACE.sample(rng), 0

    def forward(x, step, rows):
        nonlocal path, at
        if step != at:
            path, at = tiny.SPACE.sample(rng), step
        return net(x, path, PathDropout(mode, 0.3, state.generator, rows))

    feed = tiny.feed(tiny.split(3 * BATCH), BATCH, Augmentation(1, True, 3))
    sharing = Sharing(ranks, group)
    schedule = CosineRate(rate, rate / 10, 3)
    fit(forward, state, feed, schedule, 1, sharing=sharing)
    (record,) = state.curve
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    gradients = {name: value.grad.numpy() for name, value in net.named_parameters() if value.grad is not None}
    return weights, gradients, [record.loss, record.error, state.generator.get_state().tolist()]


def difference(one: Arrays, other: Arrays) -> float:
    """‖one − other‖ / ‖one‖ over all arrays as one vector."""
    assert one.keys() == other.keys()
    both = [np.concatenate([each[name].ravel() for name in one]) for each in (one, other)]
    return float(np.linalg.norm(both[0] - both[1]) / np.linalg.norm(both[0]))


# ---- Searching ----


def coevolved(ranks: Ranks, stop: int = 0) -> tuple[list[object], dict[str, np.ndarray]]:
    """A stage of co-evolution, and again from its state number `stop` if that is not 0; what it hands on, weights."""
    states: list[State] = []

    def save(state: State) -> None:
        if ranks.is_main:
            states.append(State({n: t.clone() for n, t in state.tensors.items()}, dict(state.plain)))

    data = tiny.data(tiny.split(36), tiny.split(32, 1), 12, ranks)
    plan = tiny.plan(dropout_mode="sample", dropout_maximum=0.3, seed=3)

    def run(state: State | None):
        net = tiny.supernet()
        found = coevolution.coevolve(
            net,
            tiny.problem(),
            plan,
            data,
            [],
            resumption=Resumption(state, save),
            sharing=Sharing(ranks, 4),
        )
        return found, {name: value.numpy() for name, value in net.state_dict().items()}

    found, weights = run(None)
    if stop:
        found, weights = run(ranks.main_state(states[stop - 1] if ranks.is_main else None))
    return [found.population, found.generations, found.curve], weights


def searched(ranks: Ranks) -> list[object]:
    """A search in a frozen supernet, its front confirmed: all that is found, and what it cost."""
    net = tiny.supernet()
    scoring = tiny.scoring(workers=2)
    data = ScoringData(tiny.split(16), tiny.split(48, 1), tiny.NORMALISE)
    scorer = supernet_scorer(net, scoring, data, 5, ranks)
    images: list[int] = []
    plan = tiny.search_plan(population=8, seed=4)
    work = Work(lambda work, note: images.append(work))
    found = frozen_search.search(scorer, tiny.problem(), plan, [], work=work)
    sizes = np.array([tiny.problem().costs.size(g) for g in found.evaluated])
    front = frozen_search.confirm_front(found.evaluated, sizes, scorer, 2)
    return [found.generations, found.population, front, scorer.image_evaluations, sum(images)]


# ---- Retraining ----

RECIPE = Recipe(3, 2, 8, 4, 0.01, 0.0, 0.0, 0.2, 0.1, 0.0, False)
GENOTYPES = {
    "a": tiny.everywhere("bin_conv_3x3"),
    "b": tiny.everywhere("max_pool_3x3"),
    "c": tiny.genotypes(1, seed=5)[0],
}


def job(folder: Path, name: str) -> Job:
    return Job(name, Architecture(tiny.CONFIG, GENOTYPES[name]), folder / name, folder / "unfinished" / name)


def trained(ranks: Ranks, data: FamilyData, folder: Path) -> list[object]:
    """Three networks, each by whoever is free, with a disk of its own for each rank; then one by all together."""
    torch.set_num_threads(1)
    heard: list[tuple[str, int]] = []
    family = Family(RECIPE, data, torch.device("cpu"))
    train_family(
        [job(folder / str(ranks.rank), name) for name in GENOTYPES],
        family,
        workers=1,
        on_epoch=lambda name, record: heard.append((name, record.epoch)),
        ranks=ranks,
    )
    if ranks.size > 1:
        train_together([job(folder / "together", "a")], family, ranks=ranks)
    return sorted(heard)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> FamilyData:
    folder = tmp_path_factory.mktemp("prepared")
    for name, part in (("train", tiny.split(24)), ("validation", tiny.split(16, seed=1)), ("test", tiny.split(21, 2))):
        tiny.write_split(folder / name, part)
    return FamilyData(folder, tiny.MEAN, tiny.STD, Augmentation(1, False))


# ---- All of it in two sessions ----


def everything(ranks: Ranks, data: FamilyData, folder: Path) -> dict[str, object]:
    found: dict[str, object] = {
        "sample": training(ranks),
        "batch": training(ranks, mode="batch"),
        "standing": training(ranks, rate=1e-30),
        "coevolved": coevolved(ranks),
        "searched": searched(ranks),
    }
    if ranks.size == 2:
        found["resumed"] = coevolved(ranks, 2)
    if ranks.size <= 2:
        found["family"] = trained(ranks, data, folder)
    if ranks.size == 3:
        found["basics"] = basics(ranks)
        try:
            training(ranks, BATCH // 2)
        except ValueError as error:
            found["too few groups"] = str(error)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def by(data, folder):
    """What each number of processes came to, by every rank of it."""
    torch.set_num_threads(1)
    return {
        1: [everything(ALONE, data, folder / "1")],
        2: together(2, everything, data, folder / "2"),
        3: together(3, everything, data, folder / "3"),
    }


def test_ranks_share_sums_values_states_and_numbers(by):
    found = [each["basics"] for each in by[3]]
    assert [each["share"] for each in found] == [[0, 2], [2, 4], [4, 7]]
    for each in found:
        assert each["sum"] == [[[3.0] * 3] * 2, 1.5]
        assert each["gather"] == [[0, ""], [1, "é"], [2, "éé"]]
        assert each["main"] == "from 0"
        assert each["state"] == [[[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], 0, {"x": [1, None]}, None]
        assert each["disagree"] == "rank 2 has come to other numbers than rank 0"
        assert each["again"] == []
    assert sorted(number for each in found for number in each["taken"]) == list(range(20))
    assert [each["letters"] for each in found] == [[[rank, 3_000_000] for rank in range(3)], [], []]


def test_one_process_alone_gets_back_what_it_gave():
    state = State({}, {})
    assert ALONE.gather("x") == ["x"]
    assert ALONE.main_value("x") == "x"
    assert ALONE.main_state(state) is state
    assert list(ALONE.next_of("demo", 3)) == [0, 1, 2]
    ALONE.agree("anything", "x")
    ALONE.wait()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_ranks_train_what_one_process_trains_but_for_rounding(by, size, mode):
    weights, _, (loss, error, draws) = by[1][0][mode]
    for each in by[size]:
        found, _, rest = each[mode]
        assert difference(weights, found) < AFTER_STEPS
        assert rest[0] == pytest.approx(loss, rel=TOLERANCE)
        assert rest[1:] == [error, draws], "what is drawn does not depend on how many draw it"


@pytest.mark.parametrize("size", [2, 3])
def test_the_gradient_of_a_step_is_that_of_the_whole_mini_batch_and_of_its_path_only(by, size):
    _, gradients, _ = by[1][0]["standing"]
    assert len(gradients) < len(by[1][0]["standing"][0]), "what is off the path has none"
    for each in by[size]:
        assert difference(gradients, each["standing"][1]) < TOLERANCE


@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_have_the_same_weights_to_the_bit(by, size):
    first, *others = (each["sample"][0] for each in by[size])
    for other in others:
        assert all(np.array_equal(first[name], other[name]) for name in first)


def test_groups_are_normalised_by_themselves():
    grouped, whole = training(ALONE)[0], training(ALONE, 0)[0]
    assert difference(grouped, whole) > 2 * AFTER_STEPS


def test_a_group_is_part_of_what_is_computed_and_the_default_is_the_whole():
    whole, same = training(ALONE, 0)[0], training(ALONE, BATCH)[0]
    assert all(np.array_equal(whole[name], same[name]) for name in whole)


def test_more_ranks_than_groups_are_refused_by_name(by):
    expected = "batch_norm_group: expected at most 8, so that each of 3 processes has images of its own to normalise"
    for each in by[3]:
        assert each["too few groups"] == f"{expected}, found 12"
    with pytest.raises(ValueError, match=r"^batch_norm_group: expected a divisor of batch_size \(24\), found 5"):
        Sharing(ALONE, 5).rows(BATCH)
    with pytest.raises(ValueError, match=r"found 0 \(the whole mini-batch\)"):
        Sharing(Ranks(0, 2), 0).rows(BATCH)


@pytest.mark.parametrize("size", [2, 3])
def test_the_front_is_the_same_whoever_scores_whom(by, size):
    for each in by[size]:
        assert each["searched"] == by[1][0]["searched"]


def test_ranks_coevolve_the_same_population(by):
    population, weights = by[2][0]["coevolved"]
    for each in by[2]:
        assert each["coevolved"][0] == population
        assert difference(each["coevolved"][1], weights) == 0
    (*_, curve), _ = by[1][0]["coevolved"]
    assert population[2][0].loss == pytest.approx(curve[0].loss, rel=AFTER_STEPS)


def test_ranks_go_on_from_the_main_ranks_state_as_if_they_had_not_stopped(by):
    for each in by[2]:
        assert each["resumed"][0] == each["coevolved"][0]
        assert difference(each["resumed"][1], each["coevolved"][1]) == 0


def test_networks_trained_by_several_ranks_are_those_of_one_to_the_byte(by, folder):
    for name in GENOTYPES:
        for file in ("weights.safetensors", "curve.json", "predictions.csv"):
            alone, main = (folder / each / name / file for each in ("1/0", "2/0"))
            assert alone.read_bytes() == main.read_bytes(), (name, file)
    elsewhere = [path.name for path in (folder / "2/1").iterdir() if path.name in GENOTYPES]
    assert 0 < len(elsewhere) < len(GENOTYPES), "each rank has trained some"
    assert by[2][0]["family"] == [(name, epoch) for name in GENOTYPES for epoch in (1, 2)]
    assert by[2][1]["family"] == []


def test_one_network_trained_by_two_ranks_is_that_of_one_but_for_rounding(by, folder):
    alone, both = folder / "1/0/a", folder / "2/together/a"
    one, two = (
        {name: value for name, value in read_weights(each / "weights.safetensors").items() if "tracked" not in name}
        for each in (alone, both)
    )
    assert difference({n: v.numpy() for n, v in one.items()}, {n: v.numpy() for n, v in two.items()}) < AFTER_STEPS
    losses = [[record.loss for record in read_epochs(each / "curve.json")] for each in (alone, both)]
    assert losses[0] == pytest.approx(losses[1], rel=AFTER_STEPS)
    answers = [read_predictions(each / "predictions.csv").predictions for each in (alone, both)]
    assert (answers[0] == answers[1]).mean() > 0.9
    assert not list((folder / "2/together/unfinished").glob("a/*"))
