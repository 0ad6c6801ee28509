"""Exported C, compiled for this machine, equals the slow reference bit for bit."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from bnas.firmware.source import KINDS, checked_name, source
from tests.bnas.firmware.host import FLAGS, SANITIZED, Program
from tests.bnas.firmware.networks import expected, random_content
from tests.bnas.packed import builders
from tests.bnas.packed.builders import same_bits

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

NETWORKS, IMAGES = 12, 3


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return [random_content(folder, seed) for seed in range(NETWORKS)]


@pytest.fixture(scope="module", params=[FLAGS, SANITIZED], ids=["plain", "sanitized"])
def program(contents, request, tmp_path_factory):
    return Program(tmp_path_factory.mktemp("program"), contents, request.param)


@pytest.mark.parametrize("which", range(NETWORKS))
def test_logits_equal_the_reference_bit_for_bit(program, contents, which):
    image = contents[which].card.image
    images = builders.pixels(IMAGES, image.channels, (image.height, image.width), which)
    with np.errstate(all="ignore"):
        wanted = expected(contents[which], images)
    assert np.isfinite(wanted).all()
    best, logits = program(which, images)
    assert same_bits(logits, wanted)
    assert best.tolist() == wanted.argmax(axis=1).tolist()


def test_the_networks_have_every_layer_and_form(contents):
    texts = [source(content, "n").files["n.c"] for content in contents]
    assert {kind for text in texts for kind in KINDS if f"{{BNAS_{kind}," in text} == set(KINDS)
    assert {re.findall(r"BNAS_NUMBER (\w+)\n.*BNAS_BYTES (\d)", text)[0] for text in texts} == {
        ("uint32_t", "0"),
        ("uint16_t", "0"),
        ("uint16_t", "1"),
    }
    rows = [list(map(int, row.split(", ")[1:])) for text in texts for row in re.findall(r"\{(BNAS_.*)\},", text)]
    assert {(row[0], row[1], row[2]) for row in rows} >= {(k, s, d) for k in (3, 5) for s in (1, 2) for d in (1, 2)}
    assert {row[5] > 1 for row in rows} == {True, False}, "groups"
    assert {row[6] > 1 for row in rows} == {True, False}, "shuffled channels"
    assert [row for row in rows if row[-3] == row[-2]], "maps that are written over what they are made from"


def test_a_trained_network_equals_the_reference_on_the_whole_test_split(trained, tmp_path):
    content, test = trained
    images = np.ascontiguousarray(np.asarray(test.images).transpose(0, 3, 1, 2))
    best, logits = Program(tmp_path, [content])(0, images)
    assert same_bits(logits, expected(content, images))
    assert (best != test.labels).mean() < 0.3


def test_the_example_prints_class_and_logits(trained, tmp_path):
    content, test = trained
    for file, text in source(content, "digits").files.items():
        (tmp_path / file).write_text(text)
    build = re.search(r"`(cc .*)`", (tmp_path / "README.md").read_text())
    assert build is not None
    subprocess.run(build[1].split(), cwd=tmp_path, check=True)
    image = np.asarray(test.images[:1])
    done = subprocess.run([tmp_path / "digits"], input=image.tobytes(), capture_output=True, check=True)
    name, *logits = done.stdout.decode().rsplit(maxsplit=10)
    wanted = expected(content, image.transpose(0, 3, 1, 2))[0]
    assert name == content.card.classes[wanted.argmax()]
    assert [np.float32(logit) for logit in logits] == wanted.tolist()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_header_is_one_of_c_plus_plus_too(trained, tmp_path):
    content, _ = trained
    files = source(content, "digits").files
    (tmp_path / "digits.h").write_text(files["digits.h"])
    (tmp_path / "use.cpp").write_text(
        '#include "digits.h"\nint answer(const uint8_t *image, void *scratch, float *logits) {\n'
        "  return bnas_digits_predict(image, scratch, logits);\n}\n"
    )
    command = ["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-c", "use.cpp"]
    subprocess.run(command, cwd=tmp_path, check=True)
    symbols = subprocess.run(["nm", "use.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert " U bnas_digits_predict" in symbols


def test_the_code_includes_stdint_alone_and_has_no_state_and_no_function_but_its_own(trained, tmp_path):
    content, _ = trained
    files = source(content, "digits").files
    assert all(text.isascii() for text in files.values())
    included = {name for file in ("digits.c", "digits.h", "bnas_runtime.h") for name in includes(files[file])}
    assert included == {"<stdint.h>", '"digits.h"', '"bnas_runtime.h"'}
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    subprocess.run(["gcc", *FLAGS, "-c", "digits.c"], cwd=tmp_path, check=True)
    rows = subprocess.run(["nm", "digits.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    symbols = [row.split()[-2:] for row in rows.splitlines()]
    assert {name for kind, name in symbols if kind in "TU"} <= {"bnas_digits_predict", "memset", "memcpy"}
    assert not {kind for kind, _ in symbols} & set("dDbBC"), "data that may be written"


def includes(text):
    return re.findall(r"#include (\S+)", text)


def test_constants_are_counted_as_the_compiler_lays_them_out(trained, tmp_path):
    content, _ = trained
    made = source(content, "digits")
    for file, text in made.files.items():
        (tmp_path / file).write_text(text)
    subprocess.run(["gcc", *FLAGS, "-c", "digits.c"], cwd=tmp_path, check=True)
    rows = subprocess.run(["nm", "-S", "digits.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    sizes = {row.split()[3]: int(row.split()[1], 16) for row in rows.splitlines() if len(row.split()) == 4}
    tables = ("layers", "thresholds", "weights", "numbers", "bytes", "scale_shift")
    assert sum(sizes[table] for table in tables) == made.constants


def test_class_names_of_any_letters_stand_in_strings(trained, tmp_path):
    content, _ = trained
    names = ('a"b', "c\\", "??/", "*/", "\x1b[2J", "é", "\n", "\x017", "//", "/*")
    card = replace(content.card, classes=names, title="*/ /* ??/ // \\")
    files = source(replace(content, card=card), "n").files
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    (tmp_path / "names.c").write_text(
        '#include <stdio.h>\n#include "n.h"\nint main(void) {\n'
        "  static const char *const names[] = bnas_n_CLASS_NAMES;\n"
        '  for (int k = 0; k < bnas_n_CLASSES; ++k) printf("%s|", names[k]);\n  return 0;\n}\n'
    )
    subprocess.run(["gcc", *FLAGS, "names.c", "n.c", "-o", "names"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "names"], check=True, capture_output=True).stdout.decode()
    assert said == "".join(f"{name}|" for name in names)


@pytest.mark.parametrize("name", ["front-1", "1st", "", "ü", "a b", "../x", "main", "bnas_runtime", "x" * 64])
def test_a_name_that_is_no_identifier_is_refused(name):
    with pytest.raises(ValueError, match="name: expected a C identifier"):
        checked_name(name)
