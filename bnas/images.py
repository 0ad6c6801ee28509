"""Image files to network inputs, without torch: the one way in which a picture becomes pixels of a data set.

`bnas.data.Normalise` does the same to tensors as `normalise` here; a test holds them equal.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MODES = {1: "L", 3: "RGB"}
"""Channels → Pillow's mode."""


class ImageError(ValueError):
    """A file that is no picture that can be used; the message names it."""


def read_image(path: Path, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """The picture as uint8 `[height, width, channels]`: turned upright, made grey or RGB, scaled, centre-cropped.

    The scale is the smallest at which both sides are long enough (bilinear with anti-aliasing; a picture of the right
    size is not touched), then the middle is cut out. Transparency is laid on black. Raises ImageError for a file that
    Pillow cannot read whole, or that would unpack to absurdly many pixels.
    """
    if channels not in MODES:
        raise ImageError(f"{path}: expected a network for 1 or 3 channels, found {channels}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                opened.load()
                return fitted(ImageOps.exif_transpose(opened), height, width, channels, opened.format)
    except UnidentifiedImageError:
        raise ImageError(f"{path}: expected an image that Pillow reads, found something else") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{path}: expected at most {Image.MAX_IMAGE_PIXELS} pixels, found more") from None
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except OSError as error:
        raise ImageError(f"{path}: expected a whole image, found {error}") from None
    except Exception as error:  # Pillow's decoders raise whatever they come across in a damaged file
        raise ImageError(f"{path}: expected a whole image, found {type(error).__name__}: {error}") from None


def fitted(picture: Image.Image, height: int, width: int, channels: int, kind: str | None = None) -> NDArray[np.uint8]:
    """A picture as `read_image` returns it; `kind` is the format of its file. Raises ImageError if it has no pixels."""
    if picture.has_transparency_data and picture.mode not in ("I", "I;16", "I;16B"):
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture.convert("RGBA"))
    # Pillow would cut what is wider than a byte off at 255. Of PNG and PPM it is known to be 16 bits.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM")):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ImageError(f"expected values of 8 or 16 bits, found 32 (mode {picture.mode})")
    try:
        picture = picture.convert(MODES[channels])
    except ValueError as error:
        raise ImageError(f"expected colours that Pillow converts, found mode {picture.mode} ({error})") from None
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture, dtype=np.uint8).reshape(height, width, channels)


def normalise(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """uint8 `[N, H, W, C]` → float32 `[N, C, H, W]`: `(x / 255 − mean) / std` per channel."""
    scale = np.array([1 / (255 * s) for s in std], np.float32)
    shift = np.array([-m / s for m, s in zip(mean, std, strict=True)], np.float32)
    found = images.astype(np.float32) * scale + shift
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2))
