"""Pictures in files to network inputs: the right pixels, or one line that names the file."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin, features

from bnas.data.picture import ImageError, converted, cropped, normalise, opened_image, read_header, read_image
from bnas.data.split import Normalise

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 30)


def fitted(picture, height, width, channels):
    return cropped(converted(picture, channels), height, width)


def noise(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("images")


def saved(folder: Path, picture: Image.Image, name: str = "picture.png", **options) -> Path:
    path = folder / name
    picture.save(path, **options)
    return path


def png(width: int, height: int, data: bytes = b"", depth: int = 8, **more: bytes) -> bytes:
    """A PNG of grey as its header says, with correct check sums; `more` are chunks before the data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    extra = b"".join(chunk(kind.encode(), content) for kind, content in more.items())
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# ---------------------------------------------------------------- normalising


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 3),
    size=st.tuples(sides, sides),
    statistics=st.lists(st.tuples(st.floats(0, 1, allow_subnormal=False), st.floats(1e-3, 1)), min_size=1, max_size=4),
    seed=seeds,
)
def test_pixels_are_normalised_as_in_testing_bit_for_bit(count, size, statistics, seed):
    mean, std = zip(*statistics, strict=True)
    given_pixels = np.random.default_rng(seed).integers(0, 256, (count, *size, len(mean)), np.uint8)
    found = normalise(given_pixels, mean, std)
    expected = Normalise(mean, std, torch.device("cpu"))(torch.from_numpy(given_pixels)).contiguous().numpy()
    assert found.shape == expected.shape == (count, len(mean), *size)
    assert found.dtype == expected.dtype == np.float32
    assert found.tobytes() == expected.tobytes()


# ---------------------------------------------------------------- size


@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, channels=st.sampled_from([1, 3]), seed=seeds)
def test_a_picture_of_the_right_size_is_not_touched(folder, height, width, channels, seed):
    expected = noise(height, width, channels, seed)
    found = read_image(saved(folder, Image.fromarray(expected)), height, width, channels)
    assert found.shape == (height, width, channels)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected.reshape(found.shape))


def coordinates(height: int, width: int) -> Image.Image:
    """A picture whose red is its row and whose green is its column, both in 255ths of the side."""
    rows, columns = np.indices((height, width))
    red, green = (255 * (rows + 0.5) / height, 255 * (columns + 0.5) / width)
    return Image.fromarray(np.stack([red, green, 0 * red], axis=2).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("height", "width"), [(40, 120), (120, 40), (41, 97), (97, 41), (30, 300), (300, 30), (64, 64), (10, 13), (5, 4)]
)
@pytest.mark.parametrize(("to_height", "to_width"), [(20, 20), (20, 10), (9, 24)])
def test_the_middle_of_a_picture_is_cut_out_at_the_smallest_scale_that_fills(height, width, to_height, to_width):
    found = fitted(coordinates(height, width), to_height, to_width, 3).astype(float) / 255
    scale = max(to_height / height, to_width / width)
    rows = (np.arange(to_height) + 0.5 - to_height / 2) / scale / height + 0.5
    columns = (np.arange(to_width) + 0.5 - to_width / 2) / scale / width + 0.5
    # At the border of the picture there is less to interpolate between: half a pixel of tolerance.
    by = {"rtol": 0, "atol": 0.5 / min(height, width) + 0.005}
    np.testing.assert_allclose(found[:, :, 0], np.broadcast_to(rows[:, None], found.shape[:2]), **by)
    np.testing.assert_allclose(found[:, :, 1], np.broadcast_to(columns, found.shape[:2]), **by)


def test_a_picture_is_made_smaller_with_anti_aliasing():
    chequered = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(fitted(Image.fromarray(chequered), 8, 8, 1).astype(int) - 127).max() <= 2


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    wanted=st.tuples(sides, sides),
    channels=st.sampled_from([1, 3]),
    grey=st.integers(0, 255),
)
def test_a_picture_of_one_grey_stays_so_at_any_size(size, wanted, channels, grey):
    picture = Image.new("L", size, grey)
    found = fitted(picture, *wanted, channels)
    assert found.shape == (*wanted, channels)
    assert (found == grey).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_one_pixel_fills_the_image(folder, channels):
    found = read_image(saved(folder, Image.new("RGB", (1, 1), (77, 77, 77))), 28, 31, channels)
    assert found.shape == (28, 31, channels)
    assert (found == 77).all()


# ---------------------------------------------------------------- colour


def test_grey_becomes_three_equal_channels(folder):
    grey = noise(6, 5, 1)
    found = read_image(saved(folder, Image.fromarray(grey)), 6, 5, 3)
    assert np.array_equal(found, np.stack([grey] * 3, axis=2))


def test_colour_becomes_its_luma(folder):
    colours = noise(6, 5, 3)
    found = read_image(saved(folder, Image.fromarray(colours)), 6, 5, 1)
    expected = colours @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(found[:, :, 0], expected, atol=1)


def on_black(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return colours * (alpha[:, :, None] / 255)


def test_transparency_is_laid_on_black(folder):
    colours, alpha = noise(6, 5, 3), noise(6, 5, 1, seed=1)
    alpha[0], alpha[1] = 0, 255
    path = saved(folder, Image.fromarray(np.dstack([colours, alpha])))
    np.testing.assert_allclose(read_image(path, 6, 5, 3), on_black(colours, alpha), atol=1)
    assert (read_image(path, 6, 5, 3)[0] == 0).all()
    assert (read_image(path, 6, 5, 1)[0] == 0).all()


def test_grey_with_transparency_is_laid_on_black(folder):
    grey, alpha = noise(6, 5, 1), noise(6, 5, 1, seed=1)
    path = saved(folder, Image.fromarray(np.dstack([grey, alpha]), "LA"))
    np.testing.assert_allclose(read_image(path, 6, 5, 1)[:, :, 0], grey * (alpha / 255), atol=1)


def test_a_palette_is_looked_up_and_its_transparent_colour_is_black(folder):
    picture = Image.new("P", (3, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.putdata([0, 1, 2])
    assert read_image(saved(folder, picture), 1, 3, 3)[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    path = saved(folder, picture, transparency=1)
    assert read_image(path, 1, 3, 3)[0].tolist() == [[10, 20, 30], [0, 0, 0], [70, 80, 90]]


def deep_files(deep: np.ndarray) -> dict[str, bytes]:
    """16-bit grey in every format that holds it."""
    height, width = deep.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    tiff = io.BytesIO()
    Image.fromarray(deep).save(tiff, "TIFF")
    return {
        "PNG": png(width, height, rows, depth=16),
        "PNG that names a transparent grey": png(width, height, rows, depth=16, tRNS=b"\0\1"),
        "TIFF": tiff.getvalue(),
        "PGM": f"P5 {width} {height} 65535\n".encode() + deep.astype(">u2").tobytes(),
    }


DEEP = np.random.default_rng(0).integers(0, 2**16, (6, 5)).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "PNG that names a transparent grey", "TIFF", "PGM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_keeps_its_high_byte(folder, kind, channels):
    path = folder / "deep"
    path.write_bytes(deep_files(DEEP)[kind])
    assert np.array_equal(read_image(path, 6, 5, channels), np.stack([DEEP >> 8] * channels, axis=2))


def tiff(rows: bytes, width: int, height: int, bits: int, photometric: int, page: int = 0) -> bytes:
    """A TIFF of grey; `page` 1 marks a thumbnail."""
    tags = {254: page, 256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 122, 278: height}
    tags[279] = len(rows)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + rows


@pytest.mark.parametrize(("photometric", "shown"), [(1, DEEP), (0, ~DEEP)])
def test_16_bit_grey_of_a_tiff_whose_zero_is_white_is_no_negative(folder, photometric, shown):
    path = folder / "deep.tif"
    path.write_bytes(tiff(DEEP.astype("<u2").tobytes(), 5, 6, 16, photometric))
    assert np.array_equal(read_image(path, 6, 5, 1)[..., 0], shown >> 8)


def test_12_bit_grey_of_a_tiff_keeps_its_high_bits(folder):
    values = DEEP[:, :4] >> 4
    bits = (values[..., None] >> np.arange(12)[::-1]) & 1
    path = folder / "deep.tif"
    path.write_bytes(tiff(np.packbits(bits.astype(np.uint8)).tobytes(), 4, 6, 12, 1))
    assert np.array_equal(read_image(path, 6, 4, 1)[..., 0], values >> 4)


def test_of_a_tiff_the_first_page_that_is_no_thumbnail_is_taken(folder):
    pages = [Image.fromarray(noise(2, 3, 1)), Image.fromarray(noise(6, 9, 1))]
    pages[0].encoderinfo = {"tiffinfo": {254: 1}}
    path = saved(folder, pages[0], "pages.tif", save_all=True, append_images=pages[1:])
    assert read_header(path) == (True, 6, 9)
    assert np.array_equal(read_image(path, 6, 9, 1)[..., 0], noise(6, 9, 1))
    path.write_bytes(tiff(bytes(4), 2, 2, 8, 1, page=1))
    assert "found its thumbnail alone, as in a raw file" in refusal(path)


def deep_png(values: np.ndarray, colour: int, depth: int = 16, transparent: bytes = b"") -> bytes:
    """A PNG of values `[H, W, C]` below 2^depth; colour 0 grey, 2 RGB, 4 grey with alpha."""
    height, width, _ = values.shape
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        bits = ((values[..., 0][..., None] >> np.arange(depth)[::-1]) & 1).reshape(height, -1)
        rows = [np.packbits(row).tobytes() for row in bits]
    more = {"tRNS": transparent} if transparent else {}
    content = png(width, height, b"".join(b"\0" + row for row in rows), depth, **more)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return content[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + content[33:]


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_with_alpha_has_no_colours_and_is_laid_on_black(folder, channels):
    values = np.random.default_rng(0).integers(0, 2**16, (6, 5, 2)).astype(np.uint16)
    path = folder / "deep.png"
    path.write_bytes(deep_png(values, 4))
    assert read_header(path) == (True, 6, 5)
    expected = (values[..., :1] >> 8) * ((values[..., 1:] >> 8) / 255)
    np.testing.assert_allclose(read_image(path, 6, 5, channels), np.repeat(expected, channels, 2), atol=1)


@pytest.mark.parametrize("depth", [1, 2, 4, 16])
def test_a_transparent_grey_is_black_at_every_depth(folder, depth):
    values = np.arange(2 ** min(depth, 4)).reshape(1, -1, 1) * (4369 if depth == 16 else 1)
    hidden = int(values[0, -1, 0])
    path = folder / "transparent.png"
    path.write_bytes(deep_png(values, 0, depth, struct.pack(">H", hidden)))
    expected = np.where(values == hidden, 0, values * 255 // (2**depth - 1))
    assert np.array_equal(read_image(path, 1, values.shape[1], 1), expected)
    assert read_header(path).grey


def test_a_transparent_colour_of_16_bits_is_black(folder):
    values = np.array([[[0x1234, 0x5678, 0x9ABC], [0xFFFF, 0x8000, 0x1111]]], np.uint16)
    path = folder / "transparent.png"
    path.write_bytes(deep_png(values, 2, transparent=values[0, 0].astype(">u2").tobytes()))
    assert read_image(path, 1, 2, 3)[0].tolist() == [[0, 0, 0], [0xFF, 0x80, 0x11]]


def test_black_and_white_is_0_and_255(folder):
    bits = np.random.default_rng(0).integers(0, 2, (6, 5)).astype(bool)
    found = read_image(saved(folder, Image.fromarray(bits)), 6, 5, 1)
    assert np.array_equal(found[:, :, 0], bits * np.uint8(255))


def test_a_moving_picture_is_its_first_frame(folder):
    frames = [Image.new("L", (4, 4), grey) for grey in (100, 200)]
    path = saved(folder, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    assert (read_image(path, 4, 4, 1) == 100).all()


TURNS = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.transpose(1, 0, 2),
    6: lambda seen: np.rot90(seen, 1),
    7: lambda seen: seen[::-1, ::-1].transpose(1, 0, 2),
    8: lambda seen: np.rot90(seen, -1),
}
"""EXIF orientation → from the picture as it is to be seen to how it lies in the file."""


@pytest.mark.parametrize("orientation", TURNS)
def test_a_picture_is_turned_upright(folder, orientation):
    upright = noise(6, 9, 3)
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(folder, stored, exif=exif.tobytes())
    assert np.array_equal(read_image(path, 6, 9, 3), upright)


EVERY_MODE = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "I;16",
    "I;16B",
]


@pytest.mark.parametrize("mode", EVERY_MODE)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_any_mode_fits_or_is_refused(mode, channels):
    try:
        found = fitted(Image.new(mode, (7, 5)), 4, 4, channels)
    except ImageError:
        return
    assert found.shape == (4, 4, channels)


# ---------------------------------------------------------------- refusals


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(24, 24, 3)).save(buffer, kind, **options)
    return buffer.getvalue()


BROKEN = {
    "empty": (b"", "expected an image that Pillow reads"),
    "text": (b"hello, I am a picture\n" * 20, "expected an image that Pillow reads"),
    "zeros": (bytes(1000), "expected an image that Pillow reads"),
    "signature only": (b"\x89PNG\r\n\x1a\n", "expected"),
    "half a PNG": (encoded("PNG")[:900], "expected a whole image"),
    "half a JPEG": (encoded("JPEG")[:900], "expected a whole image"),
    "half a GIF": (encoded("GIF")[:900], "expected a whole image"),
    "half a BMP": (encoded("BMP")[:900], "expected a whole image"),
    "half a TIFF": (encoded("TIFF")[:900], "expected"),
    "half a WebP": (encoded("WEBP", lossless=True)[:900], "expected"),
    "half a QOI": (b"qoif" + struct.pack(">IIBB", 9, 9, 3, 0) + bytes(5), "expected a whole image"),
    "3.6 gigapixels": (png(60_000, 60_000), "found more"),
    "2^62 pixels": (png(2**31 - 1, 2**31 - 1), "found more"),
    "180 megapixels": (png(18_000, 10_000), "expected at most 178956970 pixels, found more"),
    "no pixels": (png(0, 5), "expected"),
    "EPS": (encoded("EPS"), "found PostScript or PDF"),
    "PDF": (b"%PDF-1.7\n" + bytes(99), "found PostScript or PDF"),
    "a stub of science": (b"GRIB" + bytes(3) + b"\x01" + bytes(99), "found something else"),
    "damaged data": (encoded("PNG")[:100] + b"\xff" * 40 + encoded("PNG")[140:], "expected a whole image"),
}


def refusal(path: Path) -> str:
    """The message with which a file is refused: one line that names it."""
    with pytest.raises(ImageError) as caught:
        read_image(path, 8, 8, 3)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) * 2 + 300
    return message


def test_a_picture_in_a_colour_space_that_is_not_converted_is_refused(folder):
    path = saved(folder, Image.new("LAB", (5, 5)), "lab.tiff")
    with pytest.raises(ImageError, match=r"lab\.tiff: expected colours that Pillow converts, found mode LAB"):
        read_image(path, 5, 5, 1)


def test_a_picture_of_as_many_pixels_as_pillow_reads_is_read(folder):
    path = saved(folder, Image.new("1", (12_000, 9_000), 1), "108 megapixels.png")
    assert read_header(path) == (True, 9_000, 12_000)
    assert (read_image(path, 8, 8, 1) == 255).all()


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_picture_is_refused_in_one_line_that_names_it(folder, case):
    content, words = BROKEN[case]
    path = folder / "broken.png"
    path.write_bytes(content)
    assert words in refusal(path)


def test_a_file_is_no_program_whatever_it_is_called(folder, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("a program was run"))
    for name in ("picture.jpg", "picture.eps"):
        (folder / name).write_bytes(encoded("EPS"))
        assert "expected an image that Pillow reads, found PostScript or PDF" in refusal(folder / name)


@pytest.mark.parametrize(
    ("start", "found"),
    [(b"\0\0\0\x18ftypmp42", "a video"), (b"\x89PNG\r\n\x1a\n", "more than 2147483648 bytes")],
)
def test_a_file_larger_than_memory_is_known_by_its_first_bytes(folder, start, found, monkeypatch):
    path = folder / "large.jpg"
    path.write_bytes(start)
    os.truncate(path, 60 * 2**30)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("the whole file was read"))
    assert refusal(path).endswith(f"expected an image that Pillow reads, found {found}")
    with pytest.raises(ImageError, match=f"found {found}$"):
        read_header(path)
    path.unlink()


def test_a_missing_picture_and_a_folder_are_refused(folder):
    assert "expected a file that can be read" in refusal(folder / "no such.png")
    assert "found Is a directory" in refusal(folder)


def read_or_refused(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read_image(path, 8, 8, 3)
        except ImageError:
            found = None
    if found is None:
        refusal(path)
    else:
        assert found.shape == (8, 8, 3)


KINDS = {
    "PNG": {},
    "JPEG": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {},
    "ICO": {},
    "PPM": {},
}


@settings(max_examples=40, deadline=None)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    length=st.floats(0, 1),
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_picture_is_read_or_refused(folder, kind, changes, length):
    content = bytearray(encoded(kind, **KINDS[kind]))
    for place, value in changes:
        # Most that can go wrong goes wrong in the header.
        content[int(place**3 * len(content))] = value
    path = folder / f"damaged.{kind}"
    path.write_bytes(content[: round((1 - length**8) * len(content))])
    read_or_refused(path)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_a_damaged_avif_is_read_or_refused(folder):
    content = encoded("AVIF")
    path = folder / "damaged.avif"
    for position in range(min(300, len(content))):
        path.write_bytes(content[:position] + b"\xff" + content[position + 1 :])
        read_or_refused(path)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_a_network_for_other_channels_takes_no_pictures(folder, channels):
    path = saved(folder, Image.new("L", (4, 4)))
    with pytest.raises(ImageError, match=f"expected a network for 1 or 3 channels, found {channels}$"):
        read_image(path, 4, 4, channels)


# ---------------------------------------------------------------- orientation and damaged metadata


def tagged(kind: str, orientation: int, how: str = "exif") -> bytes:
    """A picture of 6×9 noise that is stored turned, in a format, with the orientation in its EXIF or XMP."""
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](noise(6, 9, 3))))
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    exif = Image.Exif()
    if how == "exif":
        exif[ExifTags.Base.Orientation] = orientation
    options: dict[str, object] = {"exif": exif.tobytes()} if how == "exif" else {"xmp": xmp}
    if kind == "PNG" and how == "xmp":
        options = {"pnginfo": PngImagePlugin.PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    if kind.startswith("TIFF"):
        options = {"exif": exif, "compression": "tiff_lzw" if kind == "TIFF LZW" else None}
        if how == "xmp":
            options["tiffinfo"] = {700: xmp}
    if kind == "WEBP":
        options["lossless"] = True
    if kind == "MPO":
        options |= {"save_all": True, "append_images": [stored]}
    buffer = io.BytesIO()
    stored.save(buffer, kind.split()[0], **{name: value for name, value in options.items() if value})
    return buffer.getvalue()


TURNING = ["PNG", "JPEG", "WEBP", "TIFF", "TIFF LZW", "MPO", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("how", ["exif", "xmp"])
@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", TURNING)
def test_header_and_pixels_agree_in_every_format_and_orientation(folder, kind, orientation, how):
    path = folder / "turned"
    path.write_bytes(tagged(kind, orientation, how))
    with opened_image(path, 3) as picture:
        assert (picture.height, picture.width) == (6, 9)
        pixels = np.asarray(picture)
    assert read_header(path) == (False, 6, 9)
    if kind in ("PNG", "WEBP", "TIFF", "TIFF LZW"):
        assert np.array_equal(pixels, noise(6, 9, 3))
    else:
        turned = [np.abs(turn(noise(6, 9, 3)).astype(int) - pixels).mean() for turn in (TURNS[1], TURNS[2], TURNS[3])]
        assert turned[0] == min(turned)


def test_an_orientation_behind_the_pixels_of_a_png_is_seen(folder):
    content = tagged("PNG", 6)
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    path = folder / "behind.png"
    path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    assert read_header(path) == (False, 6, 9)
    assert np.array_equal(read_image(path, 6, 9, 3), noise(6, 9, 3))


NO_EXIF = (
    b"no exif at all",
    b"MM\0*",
    bytes(40),
    b"\0\x08\0\x02\1\x12",
    b"MM\0*\0\0\0\x08\xff\xff\1\x12",
    b"\xff" * 30,
)


def upright(path: Path) -> tuple[tuple[bool, int, int], np.ndarray]:
    with opened_image(path, 3) as picture:
        return read_header(path), np.asarray(picture)


@pytest.mark.parametrize("garbage", NO_EXIF, ids=repr)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "MPO"])
@pytest.mark.parametrize("how", ["exif", "xmp"])
def test_a_picture_with_damaged_metadata_is_read_as_if_untagged(folder, kind, how, garbage):
    picture = Image.fromarray(noise(6, 9, 3))
    options = {"WEBP": {"lossless": True}, "MPO": {"save_all": True, "append_images": [picture]}}.get(kind, {})
    picture.save(folder / "plain", kind, **options)
    picture.save(folder / "damaged", kind, **{how: garbage}, **options)
    expected, found = upright(folder / "plain"), upright(folder / "damaged")
    assert expected[0] == found[0] == (False, 6, 9)
    assert np.array_equal(expected[1], found[1])


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_a_damaged_exif_of_an_avif_is_no_exif(folder):
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "noise"
    content = encoded("AVIF", exif=exif)
    path = folder / "damaged.avif"
    path.write_bytes(content.replace(b"MM\0*", b"????"))
    assert path.read_bytes() != content
    assert upright(path)[0] == (False, 24, 24)


def with_chunk(content: bytes, kind: bytes, data: bytes, checksum: int | None = None, behind: bool = False) -> bytes:
    """A PNG with one more chunk, before or behind its pixels."""
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
    place = len(content) - 12 if behind else 33
    return content[:place] + chunk + content[place:]


CHUNKS = {
    "EXIF that is none": (b"eXIf", b"no exif", None),
    "EXIF with another check sum": (b"eXIf", b"MM\0*\0\0\0\x08\0\0", 1),
    "text with another check sum": (b"tEXt", b"Comment\0hello", 1),
    "profile that does not unpack": (b"iCCP", b"name\0\0no zlib at all", None),
    "text that does not unpack": (b"zTXt", b"Comment\0\0no zlib at all", None),
    "text that unpacks to a gigabyte": (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26)), None),
    "EXIF in text that is not hexadecimal": (b"tEXt", b"Raw profile type exif\0\nexif\n    4\nnothex\n", None),
    "resolution cut short": (b"pHYs", b"\0\0\0", None),
    "time with another check sum": (b"tIME", bytes(7), 1),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("case", CHUNKS)
def test_a_png_with_a_damaged_chunk_beside_its_pixels_is_read(folder, case, behind):
    kind, data, checksum = CHUNKS[case]
    path = folder / "damaged.png"
    path.write_bytes(with_chunk(encoded("PNG"), kind, data, checksum, behind))
    header, pixels = upright(path)
    assert header == (False, 24, 24)
    assert np.array_equal(pixels, noise(24, 24, 3))


def test_a_whole_orientation_beside_a_damaged_chunk_is_followed(folder):
    path = folder / "damaged.png"
    path.write_bytes(with_chunk(tagged("PNG", 6), b"tEXt", b"Comment\0hello", 1))
    assert upright(path)[0] == (False, 6, 9)
    assert np.array_equal(upright(path)[1], noise(6, 9, 3))
