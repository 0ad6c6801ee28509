"""The packed file: what goes in comes out, and nothing else is let in."""

from __future__ import annotations

import hashlib
import os
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas import packed
from bnas.packed import PackedError, read
from bnas.packed.card_text import DICTIONARY
from bnas.packed.fold import fold
from bnas.packed.parameters import joined, split
from bnas.space.network_config import NetworkConfig
from tests.bnas.packed import builders, hostile
from tests.bnas.packed.builders import same_bits

GOOD = builders.content()
GOOD_8 = builders.content(replace(builders.CONFIG, shipped="int8"))
GOOD_1 = Path(__file__).with_name("format1.bnn").read_bytes()
"""A file as the first format's code wrote it, of the network in `GOOD`."""
HEAD = 42
HEADER = HEAD + int.from_bytes(GOOD[6:10], "little")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("packed") / "network.bnn"


def refusal(path) -> str:
    """The message with which the file is refused; checks what all refusals have in common."""
    with pytest.raises(PackedError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) < len(str(path)) + 500
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return message.removeprefix(f"{path}: ")


# ---------------------------------------------------------------- round trip


def test_a_file_gives_back_what_was_saved(path):
    model = builders.network()
    card = builders.card(model)
    packed.save(model, path, card)
    found = read(path)
    bits, floats = joined(fold(model, card.steps()))
    assert found.card == card
    assert same_bits(found.bits, bits)
    assert same_bits(found.floats, floats)
    assert found.file_bytes == path.stat().st_size
    assert found.payload_bytes + found.header_bytes == found.file_bytes
    assert found.payload_bytes == bits.nbytes + floats.nbytes
    assert found.version == 2
    assert not [other for other in path.parent.iterdir() if other != path]


def test_a_file_of_the_first_format_is_the_same_network(path):
    path.write_bytes(GOOD_1)
    first, x = packed.load(path, 1), builders.pixels(5)
    path.write_bytes(GOOD)
    second = packed.load(path, 1)
    assert (first.content.version, second.content.version) == (1, 2)
    assert first.card == second.card
    assert first.content.payload_bytes == second.content.payload_bytes
    assert same_bits(first.content.bits, second.content.bits)
    # The first was made on another processor, which rounds statistics otherwise in the last digit.
    np.testing.assert_allclose(first.content.floats, second.content.floats, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(first(x), second(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("content", [GOOD, GOOD_8], ids=["float32", "int8"])
def test_the_header_is_a_seventh_of_the_first_formats(path, content):
    path.write_bytes(GOOD_1)
    first = read(path)
    path.write_bytes(content)
    assert read(path).header_bytes < first.header_bytes / 6


def test_the_dictionary_of_cards_is_part_of_the_format():
    """Changed, it would make every file unreadable that is out there: that needs a version 3."""
    assert hashlib.sha256(DICTIONARY).hexdigest().startswith("a3a80fcf032075cb")


@settings(max_examples=15, deadline=None)
@given(nodes=st.integers(1, 3), channels=st.integers(1, 5), cells=st.integers(3, 5), seed=st.integers(0, 2**31))
def test_parameters_survive_being_joined_and_split(nodes, channels, cells, seed):
    steps = builders.steps_of(NetworkConfig(2, 3, channels, cells), nodes, (7, 5), seed)
    rng = np.random.default_rng(seed)
    values = [builders.parameters(rng, step) for step in steps]
    found = split(steps, *joined(values))
    for one, other in zip(values, found, strict=True):
        assert type(one) is type(other)
        for a, b in zip(one or (), other or (), strict=True):
            assert a.shape == b.shape
            assert same_bits(a, b)


def test_the_same_network_makes_the_same_bytes():
    contents = {packed.packed(model, builders.card(model)) for model in (builders.network() for _ in range(3))}
    assert len(contents) == 1


def test_the_hash_notices_every_part(path):
    hashes = set()
    for content in (
        GOOD,
        builders.content(seed=1),
        hostile.with_float(GOOD, 0.5),
        hostile.changed(GOOD, "title", "Plants"),
        hostile.changed(GOOD, "classes", ["dog", "cat", "newt"]),
        hostile.with_tensors(GOOD, lambda parts: parts._replace(bits=parts.bits ^ np.uint8(1))),
    ):
        path.write_bytes(content)
        hashes.add(read(path).hash)
    assert len(hashes) == 6


@pytest.mark.parametrize("content", [GOOD, GOOD_8, GOOD_1], ids=["float32", "int8", "format 1"])
def test_a_good_file_rebuilt_is_read(path, content):
    """The hostile files below are built in the same way: it is not the building that is refused."""
    path.write_bytes(hostile.built(hostile.parts(content)))
    found = read(path)
    path.write_bytes(content)
    assert found.hash == read(path).hash


def test_a_card_of_another_network_is_not_saved(path):
    path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"^card: expected the network's configuration and genotype"):
        packed.save(builders.network(seed=1), path, builders.card(builders.network(seed=0)))
    assert not path.exists()


def test_a_failed_save_leaves_the_old_file_and_no_other(path):
    path.write_bytes(GOOD)
    broken = builders.network()
    broken.classifier.bias.data[0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        packed.save(broken, path, builders.card(broken))
    assert path.read_bytes() == GOOD
    assert list(path.parent.iterdir()) == [path]


def test_a_network_from_a_file_does_not_need_the_file(path):
    path.write_bytes(GOOD)
    network, x = packed.load(path, 1), builders.pixels(3)
    expected = network(x)
    path.write_bytes(b"")
    assert same_bits(network(x), expected)


# ---------------------------------------------------------------- refusals


HOSTILE = [
    pytest.param(good, *case[1:], id=f"{version}: {case[0]}")
    for version, good, cases in (
        ("1", GOOD_1, hostile.CASES),
        ("2", GOOD, hostile.CASES_2),
        ("int8", GOOD_8, hostile.CASES_2),
    )
    for case in cases
]


@pytest.mark.parametrize(("good", "make", "words"), HOSTILE)
def test_a_file_that_is_no_packed_network_is_refused_in_one_line_at_once(path, good, make, words):
    path.write_bytes(make(good))
    tracemalloc.start()
    start = time.process_time()
    try:
        assert words in refusal(path)
        assert time.process_time() - start < 5
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()


def test_what_is_no_file_is_refused(path):
    path.unlink(missing_ok=True)
    assert "expected a readable file" in refusal(path)
    assert "found" in refusal(path.parent)
    assert "expected a readable file" in refusal(path / "below" / "it")


formats = st.sampled_from([GOOD, GOOD_8, GOOD_1])


@settings(max_examples=100, deadline=None)
@given(formats, st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(path, content, share):
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


def flipped(position, mask, content=GOOD):
    changed = bytearray(content)
    changed[position] ^= mask
    return bytes(changed)


masks = st.integers(1, 255)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(HEADER, len(GOOD) - 1), mask=masks)
def test_a_changed_byte_in_the_numbers_is_refused(path, position, mask):
    path.write_bytes(flipped(position, mask))
    assert "content hash" in refusal(path) or "finite" in refusal(path)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, HEAD - 1), mask=masks)
def test_a_changed_byte_in_the_head_is_refused(path, position, mask):
    path.write_bytes(flipped(position, mask))
    refusal(path)


@settings(max_examples=500, deadline=None)
@given(content=formats, share=st.floats(0, 1, exclude_max=True), mask=masks)
def test_a_changed_byte_is_refused_or_means_the_same(path, content, share, mask):
    path.write_bytes(content)
    expected = read(path)
    path.write_bytes(flipped(int(share * len(content)), mask, content))
    try:
        found = read(path)
    except PackedError:
        found = None
    if found is None:
        refusal(path)
    else:
        assert found.card == expected.card
        assert same_bits(found.bits, expected.bits)
        assert same_bits(found.floats, expected.floats)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(path, content):
    path.write_bytes(content)
    refusal(path)


def test_a_pipe_or_a_folder_is_refused_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.bnn")
    for path in (tmp_path / "pipe.bnn", tmp_path):
        with pytest.raises(PackedError, match="expected a packed network, found no regular file"):
            read(path)
