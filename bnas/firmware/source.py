"""A packed network as C99: its layers and numbers as constants, beside the functions that all networks share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from string import Template

import numpy as np
from numpy.typing import NDArray

from bnas.data.picture import scale_and_shift
from bnas.packed.content import PackedContent
from bnas.packed.parameters import BlockParameters, Floats, split
from bnas.packed.rounding import arrays
from bnas.packed.thresholds import thresholded
from bnas.space.layout import Block, Classifier, Pool, Stem
from bnas.space.schedule import Layer, Operation, Schedule, schedule
from bnas.space.shipped import SHIPPED
from bnas.storage.terminal import printable

RUNTIME = "bnas_runtime"
"""The header of shared functions; no network may have this name, nor that of the example."""

TAKEN = (RUNTIME, "main")

KINDS = ("PIXELS", "STEM", "BLOCK", "MAX", "AVG", "HALVE", "COPY", "ZERO", "CLASSIFY")
"""Layers of the runtime, in the order of its enumeration."""

WIDTH = 120
"""Letters of a line."""


@dataclass(frozen=True)
class Source:
    """Files by name, the bytes of scratch memory that the network works in, and the bytes of its constants."""

    files: Mapping[str, str]
    scratch: int
    constants: int


def checked_name(name: str) -> str:
    """The name, if it can be part of one in C and stand for the files; raises ValueError otherwise."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name) or name in TAKEN:
        raise ValueError(
            f"name: expected a C identifier of at most 63 letters, digits and _, but for {' and '.join(TAKEN)}, "
            f"found {printable(name)!r}"
        )
    return name


def source(content: PackedContent, name: str) -> Source:
    """The files of a network of that name. Raises ValueError for a name that is no C identifier."""
    checked_name(name)
    plan = schedule(content.card.steps())
    tables, constants = _tables(content, plan)
    values = {"name": name, "scratch": plan.bytes, "constants": constants, **_described(content), **tables}
    folder = resources.files("bnas.firmware") / "c"

    def filled(template: str) -> str:
        return Template((folder / template).read_text(encoding="utf-8")).substitute(values)

    files = {
        f"{name}.h": filled("network.h"),
        f"{name}.c": filled("network.c"),
        f"{RUNTIME}.h": (folder / f"{RUNTIME}.h").read_text(encoding="utf-8"),
        "main.c": filled("main.c"),
        "README.md": filled("README.md"),
    }
    return Source(files, plan.bytes, constants)


def cortex_m() -> dict[str, str]:
    """Further files for programs that print in QEMU's boards mps2-an385 and mps2-an386: start-up and linker script."""
    folder = resources.files("bnas.firmware") / "cortex_m"
    return {name: (folder / name).read_text(encoding="utf-8") for name in ("startup.c", "mps2.ld")}


def _described(content: PackedContent) -> dict[str, object]:
    """What the templates say of a network and its images."""
    card = content.card
    image, trained = card.image, card.network
    normalised = [f"(pixel / 255 - {mean}) / {std}" for mean, std in zip(card.mean, card.std, strict=True)]
    return {
        "title": _comment(f"{trained.name}, trained on {card.title}"),
        "genotype": trained.key,
        "hash": content.hash,
        "error": f"{100 * trained.test_error:.2f}",
        "height": image.height,
        "width": image.width,
        "channels": image.channels,
        "classes": len(card.classes),
        "class_names": ", \\\n".join(f"    {_string(each)}" for each in card.classes),
        "normalisation": ", ".join(normalised),
    }


def _tables(content: PackedContent, plan: Schedule) -> tuple[dict[str, object], int]:
    """The constants as C, and their bytes."""
    form, card = SHIPPED[content.card.config.shipped], content.card
    layers = [_layer(operation) for operation in plan.operations]
    field = 2 if max(max(row[6:]) for row in layers) < 2**16 else 4
    kinds = {row[0] for row in layers}
    limits, weights, numbers, whole = _parameters(content, plan)
    scale_shift = np.stack(scale_and_shift(card.mean, card.std), axis=1)
    values = {
        "uses": " | ".join(f"1u << BNAS_{kind}" for i, kind in enumerate(KINDS) if i in kinds),
        "field": f"uint{8 * field}_t",
        "number": f"uint{8 * form.number}_t",
        "has_bytes": int(form.scale > 0),
        "layers": "\n".join(f"    {{BNAS_{KINDS[row[0]]}, {', '.join(map(str, row[1:]))}}}," for row in layers),
        "thresholds": _words(limits.view(np.uint32)),
        "weights": _words(weights),
        "numbers": _wrapped(f"0x{value:0{2 * form.number}x}u" for value in numbers.view(f"uint{8 * form.number}")),
        "whole": _wrapped(map(str, whole)),
        "bytes": "bytes" if form.scale else "0",
        "scale_shift": _words(scale_shift.ravel().view(np.uint32)),
    }
    tables = (limits, weights, numbers, whole, scale_shift)
    # A layer begins with six bytes; its fields follow at a multiple of their own size.
    return values, sum(each.nbytes for each in tables) + len(layers) * (-(-6 // field) + 9) * field


def _parameters(
    content: PackedContent, plan: Schedule
) -> tuple[Floats, NDArray[np.uint32], NDArray[np.floating], NDArray[np.int8]]:
    """Thresholds, words of binary weights, and the numbers as stored, in the order in which the layers need them."""
    steps = content.card.steps()
    parameters = split(steps, content.bits, content.floats)
    stored, whole = arrays(content.numbers, steps, content.card.config.shipped)
    ends = np.cumsum([step.floats for step in steps])
    limits: list[Floats] = []
    bits: list[NDArray[np.bool_]] = []
    numbers: list[NDArray[np.floating]] = []
    for operation in plan.operations:
        step, values, end = operation.step, parameters[operation.index], ends[operation.index]
        # The classifier comes last, in a file as here; with whole numbers it has fewer than it has floats.
        own = stored[end - step.floats : None if isinstance(step, Classifier) else end]
        if isinstance(step, Block) and isinstance(values, BlockParameters):
            found, turned = thresholded(values, step.groups)
            limits.append(found)
            bits.append(turned.transpose(0, 2, 3, 1).ravel())
            own = own[2 * step.shape.channels :].reshape(3, -1).T.ravel()
        numbers.append(own)
    together = np.packbits(np.concatenate(bits), bitorder="little")
    words = np.pad(together, (0, -len(together) % 4)).view("<u4").astype(np.uint32)
    return np.concatenate(limits), words, np.concatenate(numbers), whole


def _layer(operation: Operation) -> tuple[int, ...]:
    """A row of `bnas_layer`."""
    step = operation.step
    return (
        KINDS.index(_kind(step)),
        getattr(step, "kernel", 0),
        getattr(step, "stride", 1),
        getattr(step, "dilation", 1),
        int(operation.add),
        int(isinstance(step, Stem) and step.relu),
        getattr(step, "groups", 1),
        operation.shuffle,
        *step.shape,
        step.out.channels,
        operation.source,
        operation.out,
        operation.spare,
    )


def _kind(step: Layer) -> str:
    match step:
        case Stem(source=0):
            return "PIXELS"
        case Stem():
            return "STEM"
        case Block():
            return "BLOCK"
        case Classifier():
            return "CLASSIFY"
        case Pool(kind="max"):
            return "MAX"
        case Pool(kind="avg"):
            return "AVG"
        case Pool(kind="none"):
            return "ZERO"
        case Pool():
            return "HALVE" if step.stride == 2 else "COPY"


def _words(values: NDArray[np.uint32]) -> str:
    return _wrapped(f"{{0x{value:08x}u}}" for value in values)


def _wrapped(values: Iterable[str]) -> str:
    lines = ["   "]
    for value in values:
        if len(lines[-1]) + len(value) + 2 > WIDTH:
            lines.append("   ")
        lines[-1] += f" {value},"
    return "\n".join(lines)


def _comment(text: str) -> str:
    """Text as it may stand in a comment of C: nothing ends it, begins another, or goes on."""
    plain = printable(text).encode("ascii", "backslashreplace").decode()
    return re.sub(r"([/*?])(?=[/*?])", r"\1 ", plain)


def _string(text: str) -> str:
    """A string of C, in UTF-8."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'
