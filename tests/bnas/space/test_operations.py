"""An operation is one record: all that the project knows of it derives from there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bnas.nn.operations import operation
from bnas.report.cell_drawing import operation_colour, operation_label
from bnas.space.operations import OPERATION, OPERATIONS, PARAMETER_FREE, PLAIN_CONVOLUTION, SKIPS, SPACES, Convolution
from tests.imports import ROOT

RECORD = 'Operation("a_conv_7x7_of_this_test", "conv 7×7", "#333333", single(7)),'
LAW = """
import random
import numpy as np, torch
from torch.nn import functional as F
from bnas.nn.binarize import approx_sign
from bnas.nn.cost import CostTable, cost
from bnas.nn.network import Network, NetworkConfig, Supernet
from bnas.packed.fold import fold
from bnas.space.layout import layout
from bnas.packed.network import Machine
from bnas.report.cell_drawing import cells_figure
from bnas.scoring.shared_paths import Paths
from bnas.space import Gene, Genotype, SearchSpace
from bnas.space.operations import OPERATIONS

torch.manual_seed(0)
space, config = SearchSpace(OPERATIONS["bnas"][-2:], nodes=1), NetworkConfig(1, 3, 4, 3)
op = space.ops[-1]
assert op == "a_conv_7x7_of_this_test"
nodes = ((Gene(0, op), Gene(1, op)),)
genotype = Genotype(nodes, nodes)
assert any(genotype == space.sample(random.Random(seed)) for seed in range(500))
supernet, x = Supernet(config, space), torch.randn(6, 1, 8, 8)

optimiser = torch.optim.SGD(supernet.parameters(), 0.1)
F.cross_entropy(supernet(x, genotype), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
weight = supernet.cells[0].edges["0_1_a_conv_7x7_of_this_test"].conv.weight
before = weight.detach().clone()
optimiser.step()
assert weight.shape == (4, 4, 7, 7) and not torch.equal(weight, before)

counted = CostTable(config, space, (1, 8, 8))(genotype)
assert counted == cost(Network(config, genotype), (1, 8, 8)) and counted.binary_params > 6 * 4 * 4 * 49

paths = Paths(supernet)
(plan,) = paths.plans([genotype], x)
((_, logits),) = paths.logits(plan, x)
assert torch.allclose(logits, supernet(x, genotype), atol=1e-3)

network = supernet.extract(genotype).train()
network(x)
steps = layout(config, genotype, 8, 8)
packed = Machine(steps, fold(network.eval(), steps), threads=1)(x.numpy())
assert np.allclose(packed, network(x).detach().numpy(), atol=1e-3)

drawn = [text.get_text() for axes in cells_figure(genotype, "").axes for text in axes.texts]
assert drawn.count("conv 7×7") == 4
"""


def with_a_record_more(folder: Path) -> None:
    """The package as it is, but for one record more at the end of the bnas space."""
    (folder / "bnas/space").mkdir(parents=True)
    for path in (*ROOT.glob("bnas/*"), *ROOT.glob("bnas/space/*.py")):
        if path.name not in ("space", "operations.py"):
            (folder / path.relative_to(ROOT)).symlink_to(path)
    space, rest = (ROOT / "bnas/space/operations.py").read_text().split('    ),\n    "darts": (', 1)
    (folder / "bnas/space/operations.py").write_text(f'{space}        {RECORD}\n    ),\n    "darts": ({rest}')


def test_an_operation_made_by_one_record_trains_is_costed_scored_packed_and_drawn(tmp_path):
    with_a_record_more(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", LAW],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_no_two_operations_have_the_same_name():
    records = {id(record): record.name for records in SPACES.values() for record in records}
    assert sorted(records.values()) == sorted(OPERATION)


@pytest.mark.parametrize("space", SPACES)
def test_the_tables_of_a_space_are_those_of_its_records(space):
    assert OPERATIONS[space] == tuple(record.name for record in SPACES[space])
    assert PLAIN_CONVOLUTION[space] in OPERATIONS[space]
    assert not {PLAIN_CONVOLUTION[space]} & PARAMETER_FREE
    for record in SPACES[space]:
        assert (operation_label(record.name), operation_colour(record.name)) == (record.label, record.colour)
        assert record.weighted == (record.name not in PARAMETER_FREE)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATION)
def test_only_the_first_part_of_an_operation_has_its_stride(name, stride):
    first, *rest = OPERATION[name].parts(12, stride)
    assert first.stride == stride
    assert all(part.stride == 1 for part in rest if isinstance(part, Convolution))


def test_skips_are_the_operations_without_a_copy():
    assert {"skip_connect"} == SKIPS


@pytest.mark.parametrize("name", OPERATION)
def test_an_operation_has_a_module_for_every_part(name):
    module = operation(name, 12, 2, lambda x: x, running_stats=False)
    parts = OPERATION[name].parts(12, 2)
    assert len(parts) == 1 or len(list(module.children())) == len(parts)
