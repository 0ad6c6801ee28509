"""Files that are no packed network of this version, or not whole, and the words they are refused with.

`CASES` is the table for files of format 1, `CASES_2` that for format 2: a name, what makes the bytes out of a good
file, and what the refusal says. Where an inner check is to be reached, the file is built with a hash that fits.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from bnas.packed.card_text import DICTIONARY
from bnas.space.genotype import Genotype
from bnas.space.layout import layout
from bnas.space.network_config import NetworkConfig
from bnas.space.operations import OPERATIONS

Plain = dict[str, Any]

HEAD = struct.Struct("<4sHI32s")


class Parts(NamedTuple):
    """What a file is made of: the card's plain value, both tensors, and the metadata beside card and hash.

    A file of format 2 has `weights`, too: the bytes behind its other numbers.
    """

    card: Plain
    bits: NDArray[Any]
    floats: NDArray[Any]
    metadata: Mapping[str, str]
    weights: bytes | None = None


def parts(content: bytes) -> Parts:
    """The inverse of `built`, for a good file; reads the format itself, without the code under test."""
    if content.startswith(b"bnas"):
        return parts_2(content)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    metadata = header["__metadata__"]

    def tensor(name: str, kind: str) -> NDArray[Any]:
        first, last = header[name]["data_offsets"]
        return np.frombuffer(content[end + first : end + last], kind)

    beside = {name: metadata[name] for name in ("format", "version")}
    return Parts(json.loads(metadata["card"]), tensor("bits", "u1"), tensor("floats", "<f4"), beside)


def parts_2(content: bytes) -> Parts:
    """`parts` of a file of format 2."""
    _, version, length, _ = HEAD.unpack(content[: HEAD.size])
    end = HEAD.size + length
    card = json.loads(zlib.decompressobj(-15, DICTIONARY).decompress(content[HEAD.size : end]))
    config = NetworkConfig(**card["config"])
    steps = layout(config, Genotype.from_dict(card["network"]["genotype"]), 8, 8)
    bits, last = -(-sum(step.bits for step in steps) // 8), steps[-1]
    numbers, weights = content[end + bits :], last.floats - config.classes if config.shipped == "int8" else 0
    kind = "<f4" if config.shipped == "float32" else "<f2"
    floats = np.frombuffer(numbers[: len(numbers) - weights], kind)
    tensors = np.frombuffer(content[end : end + bits], "u1"), floats
    return Parts(card, *tensors, {"version": str(version)}, numbers[len(numbers) - weights :])


def raw_deflated(text: bytes) -> bytes:
    """Text as a card of format 2 is stored."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
    return packer.compress(text) + packer.flush()


def built_2(found: Parts, text: str, card: bytes | None = None) -> bytes:
    """`built` for format 2; `card` are the bytes that stand for the text."""
    numbers = found.bits.tobytes() + found.floats.tobytes() + (found.weights or b"")
    card = raw_deflated(text.encode()) if card is None else card
    digest = hashlib.sha256(text.encode() + numbers).digest()
    return HEAD.pack(b"bnas", int(found.metadata["version"]), len(card), digest) + card + numbers


def with_card_bytes(content: bytes, card: bytes) -> bytes:
    """The file of format 2 with other bytes in the place of its card."""
    found = parts(content)
    return built_2(found, json.dumps(found.card), card)


def built(found: Parts, text: str | None = None, extra: Mapping[str, NDArray[Any]] | None = None) -> bytes:
    """A file with a hash that fits; `text` stands for the card's JSON, `extra` are more tensors."""
    if found.weights is not None:
        return built_2(found, json.dumps(found.card, separators=(",", ":")) if text is None else text)
    text = json.dumps(found.card) if text is None else text
    digest = hashlib.sha256(text.encode() + found.bits.tobytes() + found.floats.tobytes()).hexdigest()
    return save(
        {"bits": found.bits, "floats": found.floats, **(extra or {})},
        {**found.metadata, "card": text, "hash": digest},
    )


def changed(content: bytes, path: str, value: Any) -> bytes:
    """The file with another value at `path` of its card (`network.cells`); both cells' nodes at `network.genotype`."""
    return both(content, {path: value})


def both(content: bytes, values: Mapping[str, Any]) -> bytes:
    """Several changes of the card."""
    found = parts(content)
    for path, value in values.items():
        *above, last = path.split(".")
        entry = found.card
        for name in above:
            entry = entry[name]
        entry[last] = value
    return built(found)


def without(content: bytes, path: str) -> bytes:
    """The file without an entry of its card."""
    found = parts(content)
    *above, last = path.split(".")
    entry = found.card
    for name in above:
        entry = entry[name]
    del entry[last]
    return built(found)


def with_text(content: bytes, text: str) -> bytes:
    """The file with another text for its card."""
    return built(parts(content), text)


def with_metadata(content: bytes, **values: str) -> bytes:
    """The file with other metadata."""
    found = parts(content)
    return built(found._replace(metadata={**found.metadata, **values}))


def with_tensors(content: bytes, change: Callable[[Parts], Parts]) -> bytes:
    """The file with other tensors."""
    return built(change(parts(content)))


def with_float(content: bytes, value: float) -> bytes:
    """The file with one number replaced."""
    found = parts(content)
    floats = found.floats.copy()
    floats[7] = value
    return built(found._replace(floats=floats))


def with_operation(content: bytes, name: str) -> bytes:
    """The file with another operation in its genotype."""
    genotype = parts(content).card["network"]["genotype"]
    genotype["normal"][0][0][0] = name
    known = name in OPERATIONS[genotype["space"]]
    key = Genotype.from_dict(genotype).key if known else "0" * 12
    derived = {"network.key": key} if "key" in parts(content).card["network"] else {}
    return both(content, {"network.genotype": genotype, **derived})


def with_another_operation(content: bytes) -> bytes:
    """The file with an operation in its genotype whose weights have another shape."""
    here = parts(content).card["network"]["genotype"]["normal"][0][0][0]
    return with_operation(content, next(op for op in ("bin_conv_5x5", "bin_conv_3x3") if op != here))


def with_nodes(content: bytes, count: int, cells: int) -> bytes:
    """The file with so many nodes in each of so many cells."""
    nodes = [[["skip_connect", 0], ["skip_connect", 1]]] * count
    genotype = {"space": "bnas", "normal": nodes, "reduction": nodes}
    return both(content, {"network.genotype": genotype, "network.cells": cells, "config.cells": cells})


def rounded(changed: int) -> Plain:
    """What rounding is said to have changed."""
    return {"images": 8, "changed": changed, "wrong_before": 1, "wrong": 2}


def header_only(header: bytes) -> bytes:
    """A safetensors file with that header and nothing behind it."""
    return len(header).to_bytes(8, "little") + header


def a_zip(content: bytes) -> bytes:
    """An archive such as `torch.save` writes, with the file inside."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return buffer.getvalue()


def a_bomb(content: bytes) -> bytes:
    """A pickle that ends whoever unpickles it."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, ("raise SystemExit('unpickled')",)

    return pickle.dumps(Bomb())


def foreign(content: bytes) -> bytes:
    """Another program's safetensors file."""
    return save({"weight": np.zeros((2, 2), np.float32)}, {"format": "pt"})


def another_order(content: bytes) -> bytes:
    """The good file's header with both tensors at the same place."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["bits"]["data_offsets"] = [0, header["bits"]["shape"][0]]
    return header_only(json.dumps(header).encode()) + content[end:]


CASES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    # No safetensors at all.
    ("empty", lambda c: b"", "broken file"),
    ("one byte", lambda c: c[:1], "broken file"),
    ("only the header's length", lambda c: c[:8], "broken file"),
    ("text", lambda c: b"this is not a network\n" * 99, "broken file"),
    ("zeros", lambda c: bytes(4096), "broken file"),
    ("pickle", a_bomb, "broken file"),
    ("zip", a_zip, "broken file"),
    ("header of 2^62 bytes", lambda c: (2**62).to_bytes(8, "little") + c[8:], "broken file"),
    ("header of 2^64 - 1 bytes", lambda c: b"\xff" * 8 + c[8:], "broken file"),
    ("header longer than the file", lambda c: (len(c) + 1).to_bytes(8, "little") + c[8:], "broken file"),
    ("header that is no JSON", lambda c: header_only(b"{" * 64), "broken file"),
    ("deeply nested header", lambda c: header_only(b'{"a":' * 50000 + b"1" + b"}" * 50000), "broken file"),
    ("bytes behind the end", lambda c: c + b"\0", "broken file"),
    ("tensors at the same place", another_order, "broken file"),
    # Another format or version.
    ("foreign safetensors", foreign, "found another safetensors file"),
    ("no metadata", lambda c: save({"bits": np.zeros(1, np.uint8)}), "found another safetensors file"),
    ("another format", lambda c: with_metadata(c, format="larq"), "found another safetensors file"),
    ("newer version", lambda c: with_metadata(c, version="3"), "found 3; a newer bnas wrote it"),
    ("absurdly long version", lambda c: with_metadata(c, version="9" * 10**6), "expected version 1"),
    # Tensors that do not fit.
    ("one byte more", lambda c: with_tensors(c, lambda p: p._replace(bits=np.append(p.bits, p.bits[:1]))), "bits U8"),
    ("one float less", lambda c: with_tensors(c, lambda p: p._replace(floats=p.floats[:-1])), "floats F32"),
    ("bits in two dimensions", lambda c: with_tensors(c, lambda p: p._replace(bits=p.bits[None])), "bits U8"),
    ("bits as int8", lambda c: with_tensors(c, lambda p: p._replace(bits=p.bits.view("i1"))), "bits I8"),
    ("floats as int32", lambda c: with_tensors(c, lambda p: p._replace(floats=p.floats.view("i4"))), "floats I32"),
    ("floats as float16", lambda c: with_tensors(c, lambda p: p._replace(floats=p.floats.astype("f2"))), "floats F16"),
    ("floats as float64", lambda c: with_tensors(c, lambda p: p._replace(floats=p.floats.astype("f8"))), "floats F64"),
    ("a tensor too many", lambda c: built(parts(c), extra={"more": np.zeros(1, np.uint8)}), "more U8 [1]"),
    ("many tensors", lambda c: built(parts(c), extra={f"t{i}": np.zeros(1, "u1") for i in range(999)}), "tensors"),
    # Numbers that no network has.
    ("nan", lambda c: with_float(c, np.nan), "found nan or infinity"),
    ("infinity", lambda c: with_float(c, -np.inf), "found nan or infinity"),
    # Cards that are none.
    ("no card", lambda c: with_text(c, ""), "card: "),
    ("a card that is no JSON", lambda c: with_text(c, "{'network': 1}"), "card: "),
    ("a list for a card", lambda c: with_text(c, "[1, 2]"), "card: "),
    ("a number for a card", lambda c: with_text(c, "3"), "card: "),
    ("an empty card", lambda c: with_text(c, "{}"), "card: "),
    ("endless nesting in lists", lambda c: with_text(c, "[" * 200_000), "card: "),
    ("endless nesting in objects", lambda c: with_text(c, '{"network":' * 20_000 + "1" + "}" * 20_000), "card: "),
    (
        "endless nesting inside",
        lambda c: with_text(c, '{"network":{"genotype":' + "[" * 990 + "]" * 990 + "}}"),
        "card: ",
    ),
    ("a number of 10,000 digits", lambda c: with_text(c, "9" * 10_000), "card: "),
    ("text for a number", lambda c: changed(c, "network.wrong", "1"), "network.wrong"),
    ("true for a number", lambda c: changed(c, "network.epochs", True), "network.epochs"),
    ("a fraction of a pixel", lambda c: changed(c, "image.height", 8.5), "image.height"),
    ("text for cells", lambda c: changed(c, "config.cells", "3"), "config.cells"),
    ("null for a title", lambda c: changed(c, "title", None), "title"),
    (
        "a number for a class",
        lambda c: changed(c, "classes", ["cat", 2, "newt"]),
        "classes[1]: expected a text, found 2",
    ),
    ("nan in the card", lambda c: changed(c, "network.ops", float("nan")), "network.ops"),
    ("an infinite mean", lambda c: changed(c, "mean", [float("inf")]), "mean"),
    (
        "no image",
        lambda c: without(c, "image"),
        "image: expected the keys height, width",
    ),
    (
        "no genotype",
        lambda c: without(c, "network.genotype"),
        "genotype: expected keys with values",
    ),
    ("no channels in the configuration", lambda c: without(c, "config.channels"), "config.channels"),
    ("an unknown sign", lambda c: changed(c, "config.sign", "tanh"), "found 'tanh'"),
    ("stem stride 3", lambda c: changed(c, "config.stem_stride", 3), "found 3"),
    ("a deviation of zero", lambda c: changed(c, "std", [0.0]), "std[0]: expected a number above 0, found 0.0"),
    # Cards that contradict themselves, or the tensors.
    ("a class too many", lambda c: changed(c, "classes", ["a", "b", "c", "d"]), "classes: expected 3"),
    ("a class for two", lambda c: both(c, {"classes": ["a"], "config.classes": 1}), "classes"),
    ("another class count", lambda c: changed(c, "config.classes", 4), "classes: expected 4"),
    ("another channel count", lambda c: changed(c, "network.channels", 5), "network.channels: expected 4"),
    ("another cell count", lambda c: changed(c, "network.cells", 4), "network.cells: expected 3"),
    ("colour for a grey network", lambda c: changed(c, "image.channels", 3), "image.channels: expected 1"),
    ("two means", lambda c: changed(c, "mean", [0.5, 0.5]), "mean: expected 1"),
    ("two deviations", lambda c: changed(c, "std", [0.5, 0.5]), "std: expected 1"),
    ("more wrong than tested", lambda c: changed(c, "network.wrong", 41), "expected at most 40, found 41"),
    ("an unknown operation", lambda c: with_operation(c, "conv_9x9"), "found 'conv_9x9'"),
    ("an operation of code", lambda c: with_operation(c, "__import__('os')"), "expected an operation"),
    ("another operation", with_another_operation, "expected the tensors"),
    (
        "a source from nowhere",
        lambda c: changed(c, "network.genotype.normal", [[["skip_connect", 0]] * 2] * 2),
        "source",
    ),
    ("no nodes", lambda c: both(c, {"network.genotype.normal": [], "network.genotype.reduction": []}), "node"),
    # Cards that promise more than any machine holds.
    ("10^9 cells", lambda c: both(c, {"network.cells": 10**9, "config.cells": 10**9}), "config.cells: expected cells"),
    ("10^30 cells", lambda c: both(c, {"network.cells": 10**30, "config.cells": 10**30}), "card: "),
    (
        "a terapixel",
        lambda c: both(c, {"image.height": 10**6, "image.width": 10**6}),
        "image: expected maps of at most",
    ),
    (
        "10^7 channels",
        lambda c: both(c, {"network.channels": 10**7, "config.channels": 10**7}),
        "expected sums of at most",
    ),
    (
        "10^7 channels of one pixel",
        lambda c: both(c, {"network.channels": 10**7, "config.channels": 10**7, "image.height": 1, "image.width": 1}),
        "expected",
    ),
    ("10^9 classes", lambda c: changed(c, "config.classes", 10**9), "classes: expected 1000000000"),
    ("100 nodes in each of 1000 cells", lambda c: with_nodes(c, 100, 1000), "card: "),
]

WORDS_2 = {"expected the tensors": "bytes of bits"}
"""What a refusal of format 1 says → what one of format 2 does."""

CASES_2: list[tuple[str, Callable[[bytes], bytes], str]] = [
    *((name, make, WORDS_2.get(words, words)) for name, make, words in CASES[[c[0] for c in CASES].index("nan") :]),
    # No whole file of this format.
    ("the first letters of the head", lambda c: c[:4], "broken file"),
    ("most of the head", lambda c: c[:41], "broken file"),
    ("only the head", lambda c: c[:42], "broken file"),
    ("a card longer than the file", lambda c: c[:6] + b"\xff" * 4 + c[10:], "broken file"),
    ("bytes behind the end", lambda c: c + b"\0", "bytes of bits"),
    ("a byte less", lambda c: c[:-1], "bytes of bits"),
    ("version 0", lambda c: with_metadata(c, version="0"), "expected version 2"),
    ("format 1 in another dress", lambda c: with_metadata(c, version="1"), "expected version 2"),
    ("newer version", lambda c: with_metadata(c, version="3"), "found 3; a newer bnas wrote it"),
    # Cards that are not deflated text.
    ("a card of zeros", lambda c: with_card_bytes(c, bytes(200)), "card: expected a deflated text"),
    ("a card of no bytes", lambda c: with_card_bytes(c, b""), "card: expected a deflated text"),
    ("a card as it is", lambda c: with_card_bytes(c, b'{"network":{}}' * 9), "card: expected a deflated text"),
    ("a card with more behind it", lambda c: with_card_bytes(c, raw_deflated(b"{}") + b"x"), "found another length"),
    ("a card that fills the memory", lambda c: with_card_bytes(c, raw_deflated(b" " * 2**26)), "found another length"),
    ("a card of no letters", lambda c: with_card_bytes(c, raw_deflated(b"\xff\xfe")), "card: "),
    # Numbers as another format than the card says.
    ("another number format", lambda c: changed(c, "config.shipped", "float16"), "bytes of bits"),
    ("an unknown number format", lambda c: changed(c, "config.shipped", "int4"), "found 'int4'"),
    ("no number format", lambda c: without(c, "config.shipped"), "expected the keys of a card"),
    ("more changed than seen", lambda c: changed(c, "network.rounded", rounded(9)), "changed: expected at most 8"),
    ("a mistake from nowhere", lambda c: changed(c, "network.rounded", rounded(0)), "expected at least the difference"),
]
