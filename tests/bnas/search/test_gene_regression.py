import random

import numpy as np
import pytest

from bnas.search.gene_regression import PRIOR_IMAGES, Surrogate
from bnas.search.pareto import kendall_tau
from bnas.space.genotype import Gene, Genotype
from bnas.space.operations import OPERATIONS
from bnas.space.search_space import SearchSpace, sample_uniform

SPACES = [SearchSpace(nodes=3), SearchSpace(OPERATIONS["darts"], 2, "darts")]
IMAGES = 1000


def genes(genotype):
    """Every gene with the place it stands at."""
    return [
        (cell, i, gene)
        for cell, nodes in (("normal", genotype.normal), ("reduction", genotype.reduction))
        for i, node in enumerate(nodes)
        for gene in node
    ]


def additive(genotype):
    """Wrong answers out of `IMAGES`: every gene adds its own number, drawn by what it is and where."""
    return sum(random.Random(repr(gene)).randrange(40) for gene in genes(genotype))


def scored(genotypes, images=IMAGES):
    return {genotype: (additive(genotype) * images // IMAGES / images, images) for genotype in genotypes}


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_effects_that_add_up_are_found(space):
    drawn = sample_uniform(space, random.Random(0), 700)
    known, unknown = drawn[:600], drawn[600:]
    predicted = Surrogate(space).errors(scored(known), unknown)
    true = [additive(genotype) / IMAGES for genotype in unknown]
    assert kendall_tau(predicted, true) > 0.95
    np.testing.assert_allclose(predicted, true, atol=0.02)


def test_few_scores_tell_something_and_more_tell_more():
    space = SPACES[0]
    drawn = sample_uniform(space, random.Random(0), 400)
    unknown, true = drawn[300:], [additive(genotype) for genotype in drawn[300:]]
    taus = [kendall_tau(Surrogate(space).errors(scored(drawn[:count]), unknown), true) for count in (50, 100, 300)]
    assert 0.2 < taus[0] < taus[1] < taus[2]


def test_predictions_are_the_ridge_regression_on_genes():
    space = SPACES[0]
    drawn = sample_uniform(space, random.Random(1), 60)
    rng = random.Random(2)
    data = {genotype: (rng.randrange(20) / 50, rng.choice((50, 800))) for genotype in drawn[:40]}
    places = sorted({gene for genotype in drawn for gene in genes(genotype)})
    rows = np.array([[gene in genes(genotype) for gene in places] for genotype in drawn], dtype=float)
    errors, images = np.array(list(data.values())).T
    mean = (errors * images).sum() / images.sum()
    # Least squares with a row for the prior of each effect.
    weighted = np.sqrt(images)[:, None] * rows[:40]
    target = np.sqrt(images) * (errors - mean)
    matrix = np.vstack([weighted, np.sqrt(PRIOR_IMAGES) * np.eye(len(places))])
    effects, *_ = np.linalg.lstsq(matrix, np.append(target, np.zeros(len(places))), rcond=None)
    expected = np.maximum(mean + rows[40:] @ effects, 0)
    np.testing.assert_allclose(Surrogate(space).errors(data, drawn[40:]), expected, atol=1e-8)


def test_of_genes_never_seen_nothing_is_known_but_the_mean():
    seen, unseen = (Genotype(*[((Gene(0, op), Gene(1, op)),)] * 2) for op in ("bin_conv_3x3", "skip_connect"))
    predicted = Surrogate(SearchSpace(nodes=1)).errors({seen: (0.3, 100)}, [unseen])
    assert predicted.tolist() == [0.3]


def test_an_error_known_on_more_images_weighs_more():
    space = SearchSpace(nodes=1)
    node = {op: ((Gene(0, op), Gene(1, op)),) for op in ("bin_conv_3x3", "skip_connect", "max_pool_3x3")}
    asked = Genotype(node["bin_conv_3x3"], node["max_pool_3x3"])
    others = [
        Genotype(node["bin_conv_3x3"], node["skip_connect"]),
        Genotype(node["skip_connect"], node["max_pool_3x3"]),
    ]

    def predicted(first, second):
        (found,) = Surrogate(space).errors({others[0]: (0.1, first), others[1]: (0.5, second)}, [asked])
        return found

    # Errors of 0.1 and 0.5, each of a genotype that shares a cell with the one asked for.
    assert 0.1 < predicted(1000, 50) < predicted(1000, 1000) < predicted(50, 1000) < 0.5


def test_the_order_of_what_is_known_changes_no_bit():
    space = SPACES[0]
    drawn = sample_uniform(space, random.Random(0), 120)
    data = list(scored(drawn[:100], 50).items())
    first = Surrogate(space).errors(dict(data), drawn[100:])
    random.Random(0).shuffle(data)
    assert np.array_equal(first, Surrogate(space).errors(dict(data), drawn[100:]))


def test_no_error_below_zero_is_predicted():
    space = SPACES[0]
    drawn = sample_uniform(space, random.Random(0), 300)
    data = {genotype: (max(0, additive(genotype) - 230) / IMAGES, IMAGES) for genotype in drawn[:100]}
    predicted = Surrogate(space).errors(data, drawn[100:])
    assert predicted.min() == 0
    assert predicted.max() > 0


def test_of_nothing_nothing_is_predicted():
    surrogate = Surrogate(SPACES[0])
    with pytest.raises(ValueError, match="scored: expected at least one genotype, found none"):
        surrogate.errors({}, [])
    (one,) = sample_uniform(SPACES[0], random.Random(0), 1)
    assert surrogate.errors({one: (1, 10)}, []).tolist() == []
