import itertools
import random
from dataclasses import replace

import pytest

from bnas.packed import latency
from bnas.packed.latency import check, measure, network_seconds
from bnas.records.latencies import CellLatencies, EdgeLatency, LatencyTable, latency_table
from bnas.search.problem import ResourceTable, SearchProblem
from bnas.search.selection import select
from bnas.space.edge_sums import everywhere, used
from bnas.space.search_space import SearchSpace
from tests.bnas import tiny

SPACE = SearchSpace(("skip_connect", "max_pool_3x3", "bin_conv_3x3"), nodes=2)
COSTS = tiny.costs(SPACE)


def test_a_table_of_one_number_is_that_number_of_the_whole_cost():
    for genotype in tiny.genotypes(20, space=SPACE):
        assert COSTS.size(genotype) == COSTS(genotype).size_bytes
        assert COSTS.ops(genotype) == COSTS(genotype).ops
        assert COSTS.ram(genotype) == COSTS(genotype).ram_bytes


def test_range_of_operations_equals_brute_force():
    space = SearchSpace(("skip_connect", "bin_conv_3x3"), nodes=1)
    costs = tiny.costs(space)
    cells = [everywhere(op, space).normal for op in space.ops]
    mixed = tiny.genotypes(12, space=space)
    everyone = [replace(mixed[0], normal=a, reduction=b) for a, b in itertools.product(cells, repeat=2)] + mixed
    found = [costs(genotype).ops for genotype in everyone]
    assert costs.ops.range() == pytest.approx((min(found), max(found)))


def test_a_genotype_of_another_space_is_refused():
    with pytest.raises(ValueError, match="expected 2 nodes, found 1"):
        COSTS.ops(tiny.genotypes(1, space=SearchSpace(SPACE.ops, 1))[0])


def test_everywhere_has_every_stride_that_edges_of_the_space_can_have():
    seen = {at for genotype in tiny.genotypes(60, space=SPACE) for at in used(genotype, True)}
    assert seen == {at for op in SPACE.ops for at in used(everywhere(op, SPACE), True)}


def test_latencies_add_up_over_the_edges():
    rng = random.Random(0)
    cells = tuple(
        CellLatencies(
            kind, tuple(EdgeLatency(s, op, rng.random()) for s in ((1, 2) if kind else (1,)) for op in SPACE.ops)
        )
        for kind in (False, True, True)
    )
    table = latency_table(LatencyTable(3.0, cells), SPACE)
    for genotype in tiny.genotypes(10, space=SPACE):
        expected = 3.0
        for cell in cells:
            nodes = genotype.reduction if cell.reduction else genotype.normal
            for gene in (gene for node in nodes for gene in node):
                stride = 2 if cell.reduction and gene.source in (0, 1) else 1
                expected += next(e.seconds for e in cell.edges if (e.stride, e.op) == (stride, gene.op))
        assert table(genotype) == pytest.approx(expected)


def test_a_table_without_an_edge_of_the_space_is_refused():
    cells = (CellLatencies(True, (EdgeLatency(2, "skip_connect", 1.0),)),)
    with pytest.raises(ValueError, match=r"latency table: expected an edge of stride 1 with skip_connect, found none"):
        latency_table(LatencyTable(0.0, cells), SPACE)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_measured_table_has_every_edge_and_identities_are_free(nodes):
    _, height, width = tiny.SHAPE
    space = SearchSpace(SPACE.ops, nodes)
    found = measure(tiny.CONFIG, space, height, width, seconds=0.0)
    assert [cell.reduction for cell in found.cells] == [i in tiny.CONFIG.reductions for i in range(tiny.CONFIG.cells)]
    table = latency_table(found, space)
    assert all(e.seconds == 0 for cell in found.cells for e in cell.edges if (e.stride, e.op) == (1, "skip_connect"))
    assert all(e.seconds > 0 for cell in found.cells for e in cell.edges if e.op == "bin_conv_3x3")
    low, high = table.range()
    assert 0 <= low < high
    assert network_seconds(tiny.CONFIG, everywhere("bin_conv_3x3", space), height, width, 0.0) > 0


def test_a_tables_correlation_is_that_of_its_sums_with_whole_networks(monkeypatch):
    _, height, width = tiny.SHAPE
    rng = random.Random(1)
    cells = tuple(
        CellLatencies(
            i in tiny.CONFIG.reductions, tuple(EdgeLatency(s, op, rng.random()) for s in (1, 2) for op in SPACE.ops)
        )
        for i in range(tiny.CONFIG.cells)
    )
    table = LatencyTable(1.0, cells)
    sums = latency_table(table, SPACE)

    def correlation(seconds):
        monkeypatch.setattr(latency, "network_seconds", lambda config, genotype, *_: seconds(genotype))
        return check(table, tiny.CONFIG, SPACE, height, width, 8)

    assert correlation(lambda genotype: 2 * sums(genotype) + 5) == pytest.approx(1)
    assert correlation(lambda genotype: -sums(genotype)) == pytest.approx(-1)
    assert abs(correlation(lambda genotype: rng.random())) < 0.999
    assert correlation(lambda genotype: 1.0) is None


@pytest.mark.parametrize("resource", ["size", "ops", "ram"])
def test_second_objective_is_the_resource_over_its_fixed_bound(resource):
    table: ResourceTable = getattr(COSTS, resource)
    problem = SearchProblem(SPACE, COSTS, table, 1.25, "uniform")
    everyone = tiny.genotypes(9, space=SPACE)
    most = max(table.range())
    assert problem.resources(everyone) == pytest.approx([table(g) / (1.25 * most) for g in everyone])
    largest = everywhere("bin_conv_3x3", SPACE)
    assert problem.resources([largest]).tolist() <= [1 / 1.25]


def test_of_equal_errors_those_survive_that_take_the_least_memory():
    problem = SearchProblem(SPACE, COSTS, COSTS.ram, 1.25, "uniform")
    everyone = tiny.genotypes(20, space=SPACE)
    chosen = select(problem.objectives(everyone, [0.5] * 20), 8, "nsga2", random.Random(0))
    memory = [COSTS(genotype).ram_bytes for genotype in everyone]
    assert sorted(memory[i] for i in chosen) == sorted(memory)[:8]
    assert len(set(memory)) > 3


def test_indicators_stay_on_the_size_whatever_the_resource():
    by_ops = SearchProblem(SPACE, COSTS, COSTS.ops, 1.25, "size_stratified")
    by_size = replace(by_ops, resource=COSTS.size)
    assert by_ops.range(0.9) == by_size.range(0.9)
    assert by_ops.sampler(random.Random(1), 5) == by_size.sampler(random.Random(1), 5)
