"""The front that the frozen search hands over: all of it scored on the whole split."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.data.batches import MiniBatches
from bnas.data.split import Normalise, Split
from bnas.search.frozen_search import confirm_front
from tests.bnas import tiny


class Scripted:
    """In place of a supernet: wrong on exactly the images that a table names; images carry their number."""

    def __init__(self, wrong):
        self.wrong = wrong

    def __call__(self, x, genotype):
        numbers = x[:, 0, 0, 0].round().long()
        answers = (numbers + self.wrong[genotype][numbers].long()) % tiny.CLASSES
        return torch.nn.functional.one_hot(answers, tiny.CLASSES).float()


class InOrder(MiniBatches):
    """Mini-batches in the order of the split, so that a script can say what comes first."""

    def __init__(self, split: Split, batch_size: int, *rest) -> None:
        super().__init__(split, batch_size, *rest)
        self._rows = np.array_split(np.arange(len(split)), len(self))


def scripted(tables, per_batch):
    """A scorer for which genotype i is wrong on the images of `tables[i]`, `per_batch` in a mini-batch."""
    everyone = tiny.genotypes(len(tables))
    net = Scripted({g: torch.tensor(row, dtype=torch.bool) for g, row in zip(everyone, tables, strict=True)})
    as_they_are = Normalise((0.0,), (1 / 255,), torch.device("cpu"))
    return everyone, tiny.scorer(net, InOrder(tiny.numbered(len(tables[0])), per_batch, as_they_are, 0))


def first_wrong(count, length=12):
    return [i < count for i in range(length)]


def first_right(count, length=12):
    return [i >= count for i in range(length)]


def reference_front(points):
    """Indices that nothing beats in one objective without losing in the other."""

    def beaten(p):
        return any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)

    return {i for i, p in enumerate(points) if not beaten(p)}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 4))
def test_confirmed_front_is_the_nondominated_set_of_fully_scored_members(data, batches):
    count = data.draw(st.integers(1, 9))
    row = st.lists(st.booleans(), min_size=12, max_size=12)
    everyone, scorer = scripted([data.draw(row) for _ in range(count)], per_batch=3)
    sizes = np.array([data.draw(st.integers(1, 4)) / 4 for _ in range(count)])
    front = confirm_front(everyone, sizes, scorer, batches)
    assert {scorer.known(genotype) for genotype in everyone} <= {batches, 4}
    points = [(scorer.error(g, scorer.known(g)), size) for g, size in zip(everyone, sizes.tolist(), strict=True)]
    assert {everyone.index(genotype) for genotype in front} == reference_front(points)
    assert len(front) == len(set(front)) >= 1
    assert all(scorer.known(genotype) == 4 for genotype in front)
    assert [sizes[everyone.index(genotype)] for genotype in front] == sorted(
        sizes[everyone.index(genotype)] for genotype in front
    )


def test_a_flattering_partial_score_is_corrected_and_lets_the_hidden_ones_in():
    everyone, scorer = scripted([first_right(3), first_wrong(2), first_wrong(1)], per_batch=3)
    # By the first mini-batch, errors of 0, 2/3 and 1/3; in full, of 9/12, 2/12 and 1/12.
    assert confirm_front(everyone, np.array([0.2, 0.2, 0.3]), scorer, 1) == everyone[1:]
    assert [scorer.error(genotype, 4) for genotype in everyone] == [9 / 12, 2 / 12, 1 / 12]


def test_correction_goes_on_until_nobody_new_comes_in():
    # The first three look faultless so far; each, scored in full, uncovers the next larger one.
    tables = [*(first_right(count) for count in (9, 8, 6)), first_wrong(1)]
    everyone, scorer = scripted(tables, per_batch=6)
    assert confirm_front(everyone, np.array([0.1, 0.2, 0.3, 0.4]), scorer, 1) == [everyone[0], everyone[3]]
    assert [scorer.known(genotype) for genotype in everyone] == [2, 2, 2, 2]


def test_the_hopeless_are_not_scored_further():
    everyone, scorer = scripted([first_wrong(0), first_wrong(12)], per_batch=3)
    assert confirm_front(everyone, np.array([0.2, 0.3]), scorer, 1) == everyone[:1]
    assert [scorer.known(genotype) for genotype in everyone] == [4, 1]


def test_all_of_equal_objectives_stay_in_order_of_size_and_key():
    everyone, scorer = scripted([first_wrong(3), first_wrong(3), first_wrong(1), first_wrong(3)], per_batch=3)
    front = confirm_front(everyone, np.array([0.2, 0.2, 0.5, 0.2]), scorer, 1)
    equals = sorted((everyone[0], everyone[1], everyone[3]), key=lambda genotype: genotype.key)
    assert front == [*equals, everyone[2]]


def test_a_fully_scored_front_costs_nothing():
    everyone, scorer = scripted([first_wrong(k) for k in (0, 3, 6)], per_batch=3)
    scorer.score(everyone, 4)
    spent = scorer.image_evaluations
    confirm_front(everyone, np.array([0.3, 0.2, 0.1]), scorer, 4)
    assert scorer.image_evaluations == spent
