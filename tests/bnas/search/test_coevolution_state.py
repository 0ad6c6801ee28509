"""A stage or a search that stops after any of its checkpoints and goes on: the same end, and less work."""

from dataclasses import replace

import pytest
import torch

from bnas.scoring.answers import Way
from bnas.scoring.shared_paths import EvaluationError
from bnas.search.coevolution import coevolve
from bnas.search.frozen_search import confirm_front, search
from bnas.search.work import Work
from bnas.storage.checkpoint import Checkpoints, Resumption, State, forget
from bnas.training.loop import TrainingError
from tests.bnas import tiny

DATA = tiny.data(tiny.split(32), tiny.split(32, seed=1))
PLAN = tiny.plan(epochs=2, generations=2, epochs_per_generation=2, dropout_mode="sample", dropout_maximum=0.2)
STATES = 2 + 2 * (2 + 1)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


class Stopped(BaseException):
    """The process dies."""


def stop_after(count, save):
    """Saves so many states, then dies."""
    saved = []

    def stopping(state):
        save(state)
        saved.append(state)
        if len(saved) == count:
            raise Stopped

    return stopping


def keep(states):
    """Keeps copies: a state's tensors are the computation's own."""

    def save(state):
        states.append(State({name: value.clone() for name, value in state.tensors.items()}, state.plain))

    return save


def stage(net, state=None, save=lambda state: None, plan=PLAN, seed=1, advance=lambda work, note: None):
    steps = []
    forward = net.forward

    def counted(x, genotype, dropout=None):
        steps.append(torch.is_grad_enabled())
        return forward(x, genotype, dropout)

    net.forward = counted
    population = tiny.genotypes(2)
    return (
        coevolve(
            net, tiny.problem(), replace(plan, seed=seed), DATA, population,
            resumption=Resumption(state, save), work=Work(advance),
        ),
        steps,
    )  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted():
    torch.set_num_threads(1)
    net, states = tiny.supernet(), []
    result, steps = stage(net, save=keep(states))
    return net, result, steps, states


def test_a_state_is_saved_after_every_epoch_and_generation(uninterrupted):
    states = uninterrupted[3]
    counts = [(len(state.plain["curve"]), len(state.plain["generations"])) for state in states]
    assert counts == [(1, 0), (2, 0), (3, 0), (4, 0), (4, 1), (5, 1), (6, 1), (6, 2)]


@pytest.mark.parametrize("stops", [[1], [2], [3], [4], [5], [8], [1, 1, 1], [2, 3]])
def test_a_stopped_stage_goes_on_to_the_same_end_with_less_work(uninterrupted, tmp_path, stops):
    net, result, steps, _ = uninterrupted
    for count in stops:
        checkpoints = Checkpoints(tmp_path, "key")
        state = checkpoints.newest()
        with pytest.raises(Stopped):
            stage(tiny.supernet(), state, stop_after(count, checkpoints.save))
    last = tiny.supernet(seed=5)  # other weights: everything comes from the checkpoint
    state = Checkpoints(tmp_path, "key").newest()
    again, redone = stage(last, state)
    assert again == result
    assert tiny.same_weights(net, last)
    left = len(result.curve) - len(state.plain["curve"])
    assert sum(redone) == left * DATA.feed.steps
    assert len(redone) < len(steps)


def test_moments_lie_in_memory_as_their_weights_do():
    # The optimiser's fused step goes through both as they lie there.
    net, other = (tiny.supernet(seed).to(memory_format=torch.channels_last) for seed in (0, 1))
    plan, states = tiny.plan(epochs=3, generations=0), []
    result, _ = stage(net, save=keep(states), plan=plan)
    resumed, _ = stage(other, states[0], plan=plan)
    assert resumed == result
    assert tiny.same_weights(net, other)


def test_forecast_of_what_is_done_and_what_is_left_add_up(uninterrupted):
    states, work = uninterrupted[3], PLAN.work(DATA.feed, 16)
    assert PLAN.done(DATA.feed, 16, None) == 0
    assert PLAN.done(DATA.feed, 16, states[-1]) == work
    for state in states[:-1]:
        told = []
        stage(tiny.supernet(), state, advance=lambda work, note, told=told: told.append(work))
        assert PLAN.done(DATA.feed, 16, state) + sum(told) == pytest.approx(work)


@pytest.mark.parametrize("spoil", ["curve", "random", "members", "generations", "tensor", "extra", "moment"])
def test_a_state_that_does_not_fit_is_refused_in_one_line(uninterrupted, spoil):
    state = uninterrupted[3][4]
    tensors, plain = dict(state.tensors), dict(state.plain)
    if spoil == "tensor":
        tensors.pop(next(name for name in tensors if name.startswith("model.")))
    elif spoil == "moment":
        tensors["optimizer.0.exp_avg"] = torch.zeros(7, 7, 7)
    elif spoil == "extra":
        tensors["optimizer.100000.step"] = torch.tensor(1.0)
    else:
        plain[spoil] = [{"wrong": None}]
    with pytest.raises(ValueError, match="expected") as caught:
        stage(tiny.supernet(), State(tensors, plain))
    assert "checkpoint" in str(caught.value) or "Genotype" in str(caught.value)


# ---- Numbers that go wrong ----


def test_a_loss_that_is_not_finite_names_step_rate_and_genotype_and_the_last_good_state_stays():
    states, net = [], tiny.supernet()
    forward, seen = net.forward, []

    def broken(x, genotype, dropout=None):
        seen.append(genotype)
        return forward(x, genotype, dropout) * (float("inf") if len(seen) == 6 else 1)

    net.forward = broken
    with pytest.raises(TrainingError) as caught:
        stage(net, save=keep(states))
    assert "at step 5 (learning rate 0.0" in str(caught.value)
    assert str(caught.value).endswith(f", genotype {seen[-1].key}")
    assert [len(state.plain["curve"]) for state in states] == [1]


def test_weights_that_are_not_finite_are_never_saved():
    states, net = [], tiny.supernet()
    net.classifier.bias.register_hook(lambda grad: grad * float("nan") if len(states) == 1 else grad)
    with pytest.raises(TrainingError, match=r"nan|a weight is not finite"):
        stage(net, save=keep(states))
    assert all(bool(torch.isfinite(value).all()) for state in states for value in state.tensors.values())


def test_a_weight_lost_in_the_last_step_of_an_epoch_is_noticed_before_it_is_saved():
    states, net, steps = [], tiny.supernet(), []

    def spoil(grad):
        steps.append(1)
        return grad * float("nan") if len(steps) == DATA.feed.steps else grad

    net.classifier.bias.register_hook(spoil)
    with pytest.raises(TrainingError, match=r"a weight is not finite after step 3 .*, genotype [0-9a-f]{12}$"):
        stage(net, save=keep(states))
    assert states == []


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("fault", ["nan", "shape"])
def test_a_genotype_that_cannot_be_scored_is_reported_with_its_key(together, fault):
    net, genotypes = tiny.supernet(), [tiny.everywhere(op) for op in ("max_pool_3x3", "bin_conv_3x3", "skip_connect")]
    edge = net.get_submodule("cells.0.edges.0_0_bin_conv_3x3")
    if fault == "nan":
        torch.nn.init.constant_(edge.norm_out.weight, float("nan"))
    else:
        net.cells[0].edges["0_0_bin_conv_3x3"] = torch.nn.Conv2d(3, 3, 1)
    scorer = tiny.scorer(
        net if together else lambda x, genotype: net(x, genotype), tiny.batches(tiny.split(32)), workers=2
    )
    with pytest.raises(EvaluationError, match=f"^genotype {genotypes[1].key}: scoring failed: "):
        scorer.score(genotypes, 2)
    assert scorer.known(genotypes[1]) == 0
    assert scorer.image_evaluations == sum(scorer.batches.images(scorer.known(genotype)) for genotype in genotypes)


# ---- The frozen search ----


def find(state=None, save=None, calibration=()):
    """Search and confirm: what came out, the images it counts and the forward passes it took."""
    net = tiny.supernet()
    scorer = tiny.scorer(net, tiny.batches(tiny.split(40, seed=1)), calibration)
    if save is not None:
        scorer.store.keep(Resumption(state, save))
    passes, way = [], scorer.way

    def counted(todo):
        for answer in way.answers(todo):
            passes.append(answer)
            yield answer

    scorer.way = Way(counted, way.images_before)
    found = search(scorer, tiny.problem(), tiny.search_plan(seed=4), tiny.genotypes(3))
    front = confirm_front(found.evaluated, tiny.problem().resources(found.evaluated), scorer, 2)
    return (found, front, scorer.image_evaluations), len(passes)


@pytest.mark.parametrize("recalibrated", [False, True])
def test_a_stopped_search_takes_the_same_way_again_in_less_time(tmp_path, recalibrated):
    calibration = [tiny.batches(tiny.split(32))[0][0]] * recalibrated
    whole, states = Checkpoints(tmp_path / "whole", "key"), []
    result, passes = find(save=lambda state: (whole.save(state), states.append(state)), calibration=calibration)
    assert len(states) >= 6
    spent = []
    for count in (1, 3, len(states)):
        checkpoints = Checkpoints(tmp_path / str(count), "key")
        with pytest.raises(Stopped):
            find(save=stop_after(count, checkpoints.save), calibration=calibration)
        again, redone = find(checkpoints.newest(), lambda state: None, calibration)
        assert again == result
        spent.append(redone)
    assert passes > spent[0] > spent[1] > spent[2] == 0


def test_answers_that_no_search_gave_are_refused():
    scorer = tiny.scorer(tiny.supernet(), tiny.batches(tiny.split(40)))
    for plain in (
        {},
        {"answers": [[None, [[1, 0.5]]]]},
        {"answers": 3},
        {"answers": [[tiny.genotypes(1)[0].to_dict(), [1]]]},
    ):
        with pytest.raises(ValueError, match="expected"):
            scorer.store.keep(Resumption(State({}, plain), forget))
