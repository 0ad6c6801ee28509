import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from bnas.records.base import Record, read_stage_times
from bnas.records.dataset import DatasetDescription, ImageShape, SplitCounts, read_dataset
from bnas.records.networks import (
    NetworkTime,
    RetrainedNetwork,
    RetrainedNetworks,
    Rounded,
    read_network_times,
    read_networks,
    read_rounded,
)
from bnas.records.search import (
    Front,
    FrontMember,
    GenerationRecord,
    Generations,
    Member,
    SearchSummary,
    SpaceRange,
    read_front,
    read_generations,
    read_summary,
)
from bnas.records.training import EpochRecord, Predictions, read_epochs, read_predictions
from bnas.space.search_space import SearchSpace

GENOTYPE = SearchSpace(nodes=2).sample(random.Random(1))
DATASET = DatasetDescription(
    "digits", "Digits", ("a", "b"), ImageShape(8, 8, 1), SplitCounts(9, 5, 4), (0.1,), (0.3,), "abc"
)
EPOCH = EpochRecord(1, 2.5, 0.75, 0.001)
MEMBER = Member(GENOTYPE, 0.25, None, 1234.5)
GENERATION = GenerationRecord("stage2", 7, "alternate", (MEMBER, Member(GENOTYPE, 0.25, 0.125, 99)))
SPACE = SpaceRange(100, 9000.25, 0.5)
FRONT_MEMBER = FrontMember(GENOTYPE, 0.4, 2, 5, 1234.5, 8000, 1.5e6)
SUMMARY = SearchSummary(500, 1000, 4000, None, 0.1, 0.8)
NETWORK = RetrainedNetwork("random-1", "random", GENOTYPE, 8, 3, 1234.5, 8000, 1.5e6, 0.4, 1, 4, 12, "front-1")


ROUND_TRIPS = [
    (read_dataset, DATASET, DATASET.to_dict()),
    (read_epochs, (EPOCH, EPOCH), [EPOCH.to_dict(), EPOCH.to_dict()]),
    (read_generations, (GENERATION,), Generations((GENERATION,)).to_dict()),
    (read_front, Front(SPACE, (FRONT_MEMBER,)), Front(SPACE, (FRONT_MEMBER,)).to_dict()),
    (read_summary, SUMMARY, SUMMARY.to_dict()),
    (read_networks, (NETWORK,), RetrainedNetworks((NETWORK,)).to_dict()),
    (read_rounded, Rounded(100, 4, 10, 12), Rounded(100, 4, 10, 12).to_dict()),
    (read_rounded, None, None),
    (read_network_times, (NetworkTime("a", 2.5),), [NetworkTime("a", 2.5).to_dict()]),
    (read_stage_times, {"search_seconds": 12.25}, {"search_seconds": 12.25}),
]


@pytest.mark.parametrize(("read", "record", "plain"), ROUND_TRIPS, ids=[read.__name__ for read, *_ in ROUND_TRIPS])
def test_a_record_survives_its_file(tmp_path, read, record, plain):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(plain))
    assert read(path) == record


@pytest.mark.parametrize("record", [MEMBER, FRONT_MEMBER, NETWORK])
def test_what_is_derived_is_written_beside_the_fields(record: Record):
    plain = record.to_dict()
    assert plain["key"] == GENOTYPE.key
    assert plain["genotype"] == GENOTYPE.to_dict()
    assert list(plain)[-1] == record.DERIVED[-1]


ROUNDED = Rounded(100, 4, 10, 12)


def test_what_rounding_changed_adds_up_over_networks_and_is_said():
    assert ROUNDED + Rounded(1000, 1, 30, 29) == Rounded(1100, 5, 40, 41)
    assert (Rounded(1000, 1, 30, 29) + ROUNDED).sentence == (
        "5 of 1,100 answers to validation images, which the training saw, changed: 40 were wrong before, "
        "41 are wrong after"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"changed": 1}, "changed: expected at least the difference of 10 and 12 mistakes, found 1"),
        ({"changed": 101}, "changed: expected at most 100 images, found 101"),
        ({"wrong": 101, "changed": 95}, "wrong: expected at most 100 images, found 101"),
        ({"images": 0}, "images: expected"),
    ],
)
def test_rounding_that_contradicts_itself_is_refused(tmp_path, change, words):
    path = tmp_path / "rounded.json"
    path.write_text(json.dumps(ROUNDED.to_dict() | change))
    with pytest.raises(ValueError, match=words):
        read_rounded(path)


def test_operations_count_the_genes_of_both_cells():
    assert sum(MEMBER.operations.values()) == 2 * 2 * GENOTYPE.nodes
    assert MEMBER.to_dict()["operations"] == MEMBER.operations


def test_test_error_is_the_share_of_mistakes():
    assert NETWORK.to_dict()["test_error"] == NETWORK.wrong / NETWORK.test_images == 0.25


def _network(**changes):
    return {"networks": [NETWORK.to_dict() | changes]}


MALFORMED = {
    "no JSON": (read_networks, "[1, 2", "expected JSON"),
    "another shape": (read_networks, "[]", "expected the keys networks, found a list"),
    "no networks": (read_networks, json.dumps({"networks": []}), "networks: expected a list of at least one value"),
    "missing": (read_networks, json.dumps({}), "networks: expected a list of at least one value, found nothing"),
    "unknown entry": (read_networks, json.dumps(_network(spare=1)), "spare"),
    "text for a number": (
        read_networks,
        json.dumps(_network(wrong="1")),
        "networks[0].wrong: expected an integer of at least 0, found the text '1'",
    ),
    "true for a number": (read_networks, json.dumps(_network(wrong=True)), "networks[0].wrong"),
    "nan": (read_networks, json.dumps(_network(size_bytes=float("nan"))), "networks[0].size_bytes"),
    "negative": (read_networks, json.dumps(_network(wrong=-1)), "networks[0].wrong"),
    "more wrong than tested": (
        read_networks,
        json.dumps(_network(wrong=5)),
        "expected at most 4, found 5",
    ),
    "unknown role": (
        read_networks,
        json.dumps(_network(role="other")),
        "networks[0].role: expected one of front, random, hand, published, found the text 'other'",
    ),
    "another key": (
        read_networks,
        json.dumps(_network(key="f00")),
        f"expected {GENOTYPE.key}, found f00",
    ),
    "a list for a key": (read_networks, json.dumps(_network(key=[])), "networks[0].key: expected "),
    "a list for a share": (read_networks, json.dumps(_network(test_error=[0.25])), "found [0.25]"),
    "a key of two lines": (read_networks, json.dumps(_network(key="a\nb")), "found a b"),
    "another test error": (
        read_networks,
        json.dumps(_network(test_error=0.5)),
        "networks[0].test_error",
    ),
    "no genotype": (
        read_networks,
        json.dumps(_network(genotype={"space": "bnas"})),
        "networks[0].genotype",
    ),
    "error above 1": (read_epochs, json.dumps([EPOCH.to_dict() | {"error": 1.5}]), "[0].error"),
    "unknown stage": (
        read_generations,
        json.dumps({"generations": [GENERATION.to_dict() | {"stage": "stage3"}]}),
        "generations[0].stage",
    ),
    "upside-down range": (
        read_front,
        json.dumps({"space": SPACE.to_dict() | {"largest_bytes": 5.0}, "members": [FRONT_MEMBER.to_dict()]}),
        "largest_bytes",
    ),
    "empty front": (read_front, json.dumps({"space": SPACE.to_dict(), "members": []}), "members"),
    "summary without a count": (read_summary, json.dumps({"evaluations": 3}), "image_evaluations"),
    "negative time": (read_stage_times, json.dumps({"search_seconds": -1.0}), "search_seconds"),
    "wrong header": (read_predictions, "a,b,c\n0,1,1\n", "index,label,prediction"),
    "empty file": (read_predictions, "", "index,label,prediction"),
    "two numbers in a row": (
        read_predictions,
        "index,label,prediction\n0,1\n",
        "three whole numbers",
    ),
    "no numbers": (read_predictions, "index,label,prediction\n0,1,x\n", "three whole numbers"),
    "a row is missing": (read_predictions, "index,label,prediction\n0,1,1\n2,1,1\n", "counting up"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_refused_in_one_line(tmp_path, case):
    read, text, expected = MALFORMED[case]
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"file\.json") as refusal:
        read(path)
    message = str(refusal.value)
    assert "\n" not in message
    assert expected in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "build",
    [
        lambda: Member(GENOTYPE, 1.1, None, 10.0),
        lambda: Member(GENOTYPE, np.nan, None, 10.0),
        lambda: Member("genotype", 0.1, None, 10.0),  # type: ignore[arg-type]
        lambda: SpaceRange(10.0, 10.0, 0.9),
        lambda: FrontMember(GENOTYPE, 0.1, 11, 10, 5.0, 5, 5.0),
        lambda: GenerationRecord("stage3", 1, "auxiliary", ()),  # type: ignore[arg-type]
        lambda: Predictions(np.arange(3), np.arange(4)),
    ],
)
def test_a_record_refuses_bad_values_when_it_is_built(build):
    with pytest.raises(ValueError, match=r"."):
        build()


def test_records_are_frozen():
    with pytest.raises((AttributeError, ValidationError)):
        NETWORK.wrong = 0  # type: ignore[misc]


def test_predictions_survive_their_file(tmp_path):
    answers = Predictions(np.array([3, 1, 2]), np.array([3, 2, 2]))
    path = tmp_path / "predictions.csv"
    path.write_text(answers.to_csv())
    assert path.read_text() == "index,label,prediction\n0,3,3\n1,1,2\n2,2,2\n"
    assert read_predictions(path).correct.tolist() == [True, False, True]


def test_importing_results_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys, bnas.records.networks, bnas.records.search;"
        "sys.exit(bool({'torch', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
