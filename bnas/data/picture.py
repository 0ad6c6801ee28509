"""Image files to network inputs, without torch: the one way in which a picture becomes pixels of a data set.

Pictures are uint8 `[N, H, W, C]` everywhere; `normalise` makes them float32 `[N, C, H, W]`, the only transposition.
`bnas.data.split.Normalise` does the same to tensors; a test holds them equal.
"""

from __future__ import annotations

import io
import re
import stat
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

MODES = {1: "L", 3: "RGB"}
"""Channels → Pillow's mode."""

TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""

TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the picture upright."""

METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""Where Pillow keeps what it reads an orientation from."""

AVIF_EXIF = rb"(infe.{8})Exif"
"""The entry of an AVIF file that says where its EXIF lies."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

FORMATS = (
    *("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "PSD"),
    *("ICO", "ICNS", "PCX", "DCX", "SGI", "SUN", "QOI", "DDS", "XBM", "XPM", "MSP", "TGA"),
)
"""What is read, whatever a file is called; JPEG is MPO, too. Pillow would give EPS, which is a program, to Ghostscript.

TGA stands last, for it has no first bytes of its own.
"""

MOST_BYTES = 2**31
"""Of a picture's file: 178,956,970 pixels of four 16-bit channels are 1.4 GB. Pillow holds WebP and AVIF whole."""

KINDS = {
    rb"\Z": "an empty file",
    rb"%!|\xc5\xd0\xd3\xc6|%PDF": "PostScript or PDF: convert it to JPEG or PNG",
    rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF": "a Windows metafile: convert it to JPEG or PNG",
    rb".{4}ftyp(hei|hev|mif1|msf1)": "HEIC, which Pillow does not read: convert it to JPEG or PNG",
    rb".{4}ftyp(qt|mp4|iso|M4V|3g|avc1)|.{4}(moov|mdat|wide)|RIFF.{4}AVI |\x1a\x45\xdf\xa3|\0\0\1[\xb3\xba]": "a video",
    rb"\s*<[!?a-zA-Z]": "HTML or XML",
}
"""First bytes of what telephones, cameras and browsers put beside pictures → what it is."""

T = TypeVar("T")


class ImageError(ValueError):
    """A file that is no picture that can be used; the message names it."""


class Header(NamedTuple):
    """What the first bytes of a picture say: whether it has no colours, and its size as it is seen, upright."""

    grey: bool
    height: int
    width: int


def read_header(path: Path) -> Header:
    """The header of a picture, without its pixels. Raises ImageError as `read_image`."""
    with _refused_as_picture(path):
        return _used(path, _header)


def _header(picture: Image.Image) -> Header:
    grey = _is_grey(picture)
    if picture.format == "PNG" and not picture.info.keys() & {"exif", "Raw profile type exif"}:
        picture.load()  # they may stand behind the pixels
    tags = getattr(picture, "tag_v2", {})  # a TIFF's; Pillow itself swaps the sides of some that are turned
    width = tags.get(ExifTags.Base.ImageWidth, picture.width)
    height = tags.get(ExifTags.Base.ImageLength, picture.height)
    return Header(grey, width, height) if _orientation(picture) in TURNED else Header(grey, height, width)


def _is_grey(picture: Image.Image) -> bool:
    if picture.mode != "P":
        return Image.getmodebase(picture.mode) == "L" or _rawmode(picture).startswith("LA")
    colours = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _rawmode(picture: Image.Image) -> str:
    """How the pixels of a PNG that is not loaded yet lie in its file ("" for other formats)."""
    tiles = getattr(picture, "tile", None) if picture.format == "PNG" else None
    return str(tiles[0][3]) if tiles else ""


def read_image(path: Path, height: int, width: int, channels: int, resize: int | None = None) -> NDArray[np.uint8]:
    """The picture as uint8 `[height, width, channels]`: turned upright, made grey or RGB, scaled, centre-cropped.

    The scale is the smallest at which both sides are long enough (bilinear with anti-aliasing; a picture of the right
    size is not touched), then the middle is cut out. With `resize`, more than the shorter of height and width, the
    picture is first scaled and cropped for that much longer sides, and the middle of that is cut out. Transparency is
    laid on black. Raises ImageError for a file that Pillow cannot read whole, or that would unpack to absurdly many
    pixels.
    """
    with opened_image(path, channels) as picture:
        return cropped(picture, height, width, resize)


@contextmanager
def opened_image(path: Path, channels: int) -> Iterator[Image.Image]:
    """A picture, upright and in 1 or 3 channels, for as long as it is used; whatever then fails is an ImageError."""
    if channels not in MODES:
        raise ImageError(f"{path}: expected a network for 1 or 3 channels, found {channels}")
    with _refused_as_picture(path):
        yield _used(path, lambda picture: _upright(picture, channels))


def _upright(picture: Image.Image, channels: int) -> Image.Image:
    _scale_transparency(picture)
    kind = picture.format
    method: Image.Transpose | None = None
    if kind == "TIFF":
        _orientation(picture)  # Pillow turns it as it loads it, by what this leaves
        picture = _deep_grey(picture)
    else:
        picture.load()  # first: what fails here must not pass for damaged metadata
        method = TRANSPOSITIONS.get(_orientation(picture))
    # Transposed and converted only if it has to be: two copies take as long as decoding a photograph.
    return converted(picture if method is None else picture.transpose(method), channels, kind)


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation; 1, as if untagged, where metadata are damaged. Pillow sees no more of them then."""
    try:
        exif = picture.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, 1)
        for tag in set(exif) - {ExifTags.Base.Orientation}:
            del exif[tag]
    except Exception:  # Pillow raises whatever it comes across
        orientation = 1
    for key in METADATA:
        picture.info.pop(key, None)
    return orientation if isinstance(orientation, int) else 1


def _deep_grey(tiff: Image.Image) -> Image.Image:
    """A TIFF, loaded; its grey of more than 8 bits, which Pillow leaves as it lies in the file, from 0 to 65,535."""
    tiff.load()
    if tiff.mode != "I;16":
        return tiff
    tags = tiff.tag_v2  # type: ignore[attr-defined]
    values = np.asarray(tiff) << (16 - tags[ExifTags.Base.BitsPerSample][0])
    zero_is_white = tags.get(ExifTags.Base.PhotometricInterpretation, 0) == 0
    return Image.fromarray(~values if zero_is_white else values)


def _scale_transparency(picture: Image.Image) -> None:
    """Pillow scales a PNG's pixels to 8 bits, but not the grey or colour that is transparent."""
    transparent, rawmode = picture.info.get("transparency"), _rawmode(picture)
    if rawmode in ("L;2", "L;4") and isinstance(transparent, int):
        picture.info["transparency"] = transparent * (85 if rawmode == "L;2" else 17)
    elif rawmode == "RGB;16B" and isinstance(transparent, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in transparent)


def _used(path: Path, use: Callable[[Image.Image], T]) -> T:
    """What `use` makes of the picture in a file or, where that fails, of the picture without damaged metadata."""
    state = path.stat()
    if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):  # to open a pipe could take for ever
        raise ImageError("expected a regular file, found a pipe, socket or device")
    if state.st_size > MOST_BYTES:
        raise UnidentifiedImageError
    try:
        return _use(path, use)
    except Exception:
        start = _first_bytes(path)
        if start.startswith(PNG_SIGNATURE):
            content = _essential(path.read_bytes())
        elif start[4:12] in (b"ftypavif", b"ftypavis"):
            content = re.sub(AVIF_EXIF, rb"\1free", path.read_bytes(), flags=re.DOTALL)
        else:
            raise
        return _use(io.BytesIO(content), use)


def _use(file: Path | BinaryIO, use: Callable[[Image.Image], T]) -> T:
    with Image.open(file, formats=FORMATS) as picture:
        _leave_thumbnail(picture)
        return use(picture)


def _leave_thumbnail(picture: Image.Image) -> None:
    """Go to the first page of a TIFF that is not marked as a smaller copy of another."""
    try:
        while getattr(picture, "tag_v2", {}).get(ExifTags.Base.NewSubfileType, 0) & 1:
            picture.seek(picture.tell() + 1)
    except EOFError:
        raise ImageError("expected a picture, found its thumbnail alone, as in a raw file: convert it") from None


def _essential(png: bytes) -> bytes:
    """A PNG's critical chunks, and whole ones with its transparency and EXIF: what its pixels are read by."""
    kept, start = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while start + 12 <= len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4])
        kind, content, checksum = png[start + 4 : start + 8], png[start + 4 : end - 4], png[end - 4 : end]
        whole = zlib.crc32(content) == int.from_bytes(checksum)
        if kind[:1].isupper() or (kind in (b"tRNS", b"eXIf") and whole):
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Nothing that Pillow remarks is shown. For the thread that starts others: filters belong to the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _refused_as_picture(path: Path) -> Iterator[None]:
    """Whatever Pillow raises at a file becomes an ImageError that names it."""
    try:
        if threading.current_thread() is threading.main_thread():
            with without_warnings():
                yield
        else:
            yield
    except UnidentifiedImageError:
        raise ImageError(f"{path}: expected an image that Pillow reads, found {_kind(path)}") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{path}: expected at most {most} pixels, found more") from None
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except OSError as error:
        expected = "a file that can be read" if error.errno else "a whole image"
        raise ImageError(f"{path}: expected {expected}, found {error.strerror or error}") from None
    except Exception as error:  # Pillow's decoders raise whatever they come across in a damaged file
        raise ImageError(f"{path}: expected a whole image, found {type(error).__name__}: {error}") from None


def _kind(path: Path) -> str:
    """What a file is that is no picture, as far as its first bytes tell."""
    start = _first_bytes(path)
    names = (kind for pattern, kind in KINDS.items() if re.match(pattern, start, re.DOTALL))
    large = path.stat().st_size > MOST_BYTES
    return next(names, f"more than {MOST_BYTES} bytes" if large else "something else")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def converted(picture: Image.Image, channels: int, kind: str | None = None) -> Image.Image:
    """A picture in the mode of 1 or 3 channels; `kind` is the format of its file. Raises ImageError if that fails."""
    # Pillow would cut what is wider than a byte off at 255. Of PNG and PPM it is known to be 16 bits.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM")):
        values, transparent = np.asarray(picture), picture.info.get("transparency")
        if isinstance(transparent, int):
            values = np.where(values == transparent, 0, values)
        picture = Image.fromarray((values >> 8).astype(np.uint8))
    elif picture.has_transparency_data and picture.mode != "I":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture.convert("RGBA"))
    if picture.mode in ("I", "F"):
        raise ImageError(f"expected values of 8 or 16 bits, found 32 (mode {picture.mode})")
    if picture.mode == MODES[channels]:
        return picture
    try:
        return picture.convert(MODES[channels])
    except ValueError as error:
        raise ImageError(f"expected colours that Pillow converts, found mode {picture.mode} ({error})") from None


def cropped(picture: Image.Image, height: int, width: int, resize: int | None = None) -> NDArray[np.uint8]:
    """A grey or RGB picture scaled and centre-cropped as `read_image` says, uint8 `[height, width, C]`."""
    more = [0, 0] if resize is None else [round(side * resize / min(height, width)) - side for side in (height, width)]
    size = (width + more[1], height + more[0])
    if picture.size != size:
        picture = ImageOps.fit(picture, size, Image.Resampling.BILINEAR)
    whole = np.asarray(picture, dtype=np.uint8).reshape(size[1], size[0], -1)
    top, left = more[0] // 2, more[1] // 2
    return whole[top : top + height, left : left + width]


def scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What a pixel of 0 to 255 is multiplied by and what is then added, float32 `[C]` each: see `normalise`."""
    scale = np.array([1 / (255 * s) for s in std], np.float32)
    shift = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32)
    return scale, shift


def normalise(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """uint8 `[N, H, W, C]` → float32 `[N, C, H, W]`: `(x / 255 − mean) / std` per channel."""
    scale, shift = scale_and_shift(mean, std)
    normalised = images.astype(np.float32) * scale + shift
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
