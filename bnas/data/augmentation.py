"""Random changes of training images, a mini-batch at a time, with draws of its own for every image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

AREA = (0.08, 1.0)
"""Shares of a picture that a random crop may have (Szegedy et al., 2015)."""

RATIO = (3 / 4, 4 / 3)
"""Width over height of a random crop."""

TRIES = 10
"""Crops drawn until one fits; after that, the middle is taken."""

EVERYTHING = slice(None)
"""All of a mini-batch."""


@dataclass(frozen=True)
class Augmentation:
    """Changes that leave the class of a training image alone, in this order.

    `random_resized_crop`: a crop of random area and shape at a random place, scaled to the image's size. `shift`: moved
    by up to so many pixels along both axes, uniformly, the border filled with zeros. `flip`: mirrored left to right
    with probability 1/2. `color_jitter`: brightness, contrast and saturation by a factor up to so much from 1, hue by
    up to half as much of the way around the circle. `cutout`: a square of so many pixels a side around a uniformly
    drawn pixel, cut off at the border, is set to the mean colour (DeVries & Taylor, 2017, arXiv:1708.04552).
    What is off draws nothing. Images may be a `part` of a mini-batch of `total`, for all of which is drawn, so that an
    image's draws do not depend on how a mini-batch is divided.
    """

    shift: int
    flip: bool
    cutout: int = 0
    random_resized_crop: bool = False
    color_jitter: float = 0.0

    def __call__(self, images: Tensor, generator: torch.Generator, part: slice = EVERYTHING, total: int = 0) -> Tensor:
        """uint8 `[N, H, W, C]` → the same shape, each image changed by draws of its own; `cut_out` does `cutout`."""
        if self.random_resized_crop:
            boxes = crop_boxes(total or len(images), images.shape[1], images.shape[2], generator)
            images = resized_crops(images, boxes[part])
        return self.recolour(self.move(images, generator, part, total), generator, part, total)

    def move(self, images: Tensor, generator: torch.Generator, part: slice = EVERYTHING, total: int = 0) -> Tensor:
        """Images uint8 `[N, H, W, C]` shifted and mirrored."""
        n, h, w, c = images.shape
        if self.shift:
            s = self.shift
            padded = images.new_zeros(n, h + 2 * s, w + 2 * s, c)
            padded[:, s : s + h, s : s + w] = images
            dy, dx = torch.randint(0, 2 * s + 1, (2, total or n, 1), generator=generator)[:, part]
            rows, columns = torch.arange(h) + dy, torch.arange(w) + dx
            images = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        if self.flip:
            mirrored = torch.rand(total or n, generator=generator)[part] < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(2), images)
        return images

    def recolour(self, images: Tensor, generator: torch.Generator, part: slice = EVERYTHING, total: int = 0) -> Tensor:
        """Images uint8 `[N, H, W, C]` with jittered colours."""
        if not self.color_jitter:
            return images
        s = self.color_jitter
        low = torch.tensor([max(0.0, 1 - s)] * 3 + [-s / 2])
        high = torch.tensor([1 + s] * 3 + [s / 2])
        factors = low + (high - low) * torch.rand(total or len(images), 4, generator=generator)[part]
        return (jittered(images.float() / 255, factors) * 255).round().to(torch.uint8)

    def cut_out(self, inputs: Tensor, generator: torch.Generator, part: slice = EVERYTHING, total: int = 0) -> Tensor:
        """Normalised inputs `[N, C, H, W]`, of which 0 is the mean colour, with a square of zeros in each, in place."""
        if not self.cutout:
            return inputs
        n, _, h, w = inputs.shape
        centres = [torch.randint(0, side, (total or n, 1), generator=generator)[part] for side in (h, w)]
        first = [centre - self.cutout // 2 for centre in centres]
        rows, columns = (
            (torch.arange(side) >= start) & (torch.arange(side) < start + self.cutout)
            for side, start in zip((h, w), first, strict=True)
        )
        hidden = (rows[:, :, None] & columns[:, None, :])[:, None]
        return inputs.masked_fill_(hidden.to(inputs.device), 0.0)


def crop_boxes(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """`n` crops of a picture of this size, int64 `[n, 4]`: top, left, height, width.

    Area and shape are drawn as `AREA` and `RATIO` say, the latter evenly in its logarithm; a crop that does not fit is
    drawn again, at most `TRIES` times, and is the largest of an allowed shape in the middle after that. This is the
    distribution of torchvision's RandomResizedCrop.
    """
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * torch.rand(n, TRIES, generator=generator))
    low, high = (math.log(ratio) for ratio in RATIO)
    ratio = (low + (high - low) * torch.rand(n, TRIES, generator=generator)).exp()
    place = torch.rand(2, n, generator=generator)
    h, w = (area / ratio).sqrt().round().long(), (area * ratio).sqrt().round().long()
    fits = (h > 0) & (h <= height) & (w > 0) & (w <= width)
    first = fits.int().argmax(1, keepdim=True)
    h, w = h.gather(1, first)[:, 0], w.gather(1, first)[:, 0]
    top, left = (place[0] * (height - h + 1)).long(), (place[1] * (width - w + 1)).long()
    whole = torch.tensor([min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))])
    middle = torch.cat([(torch.tensor([height, width]) - whole) // 2, whole])
    return torch.where(fits.any(1)[:, None], torch.stack([top, left, h, w], 1), middle)


def resized_crops(images: Tensor, boxes: Tensor) -> Tensor:
    """uint8 `[N, H, W, C]` → crops `[N, 4]` (top, left, height, width) of them, scaled back to H×W, bilinear."""
    _, height, width, _ = images.shape
    top, left, h, w = boxes.float()[:, :, None].unbind(1)
    rows = (top + h * ((torch.arange(height) + 0.5) / height)) * 2 / height - 1
    columns = (left + w * ((torch.arange(width) + 0.5) / width)) * 2 / width - 1
    grid = torch.stack([columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], 3)
    crops = F.grid_sample(images.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
    return crops.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def jittered(images: Tensor, factors: Tensor) -> Tensor:
    """Values in [0, 1] `[N, H, W, C]` with other brightness, contrast, saturation and hue, by factors `[N, 4]`.

    The first three blend an image with black, with the mean of its grey and with its grey; the last turns the hue by so
    much of the circle. As torchvision's, in fixed order [ours]; images of one channel have the first two only.
    """
    brightness, contrast, saturation, hue = factors[:, :, None, None].unbind(1)
    # A plane for each colour: many times faster than colours that alternate, which no vector instruction takes.
    planes = images.permute(3, 0, 1, 2).contiguous() * brightness
    planes.clamp_(0, 1)
    middle = _grey(planes).mean((1, 2), keepdim=True)
    planes.mul_(contrast).add_(middle * (1 - contrast)).clamp_(0, 1)
    if len(planes) == 3:
        grey = _grey(planes)
        planes.mul_(saturation).add_(grey * (1 - saturation)).clamp_(0, 1)
        planes = _turned(planes, hue)
    return torch.empty_like(images).copy_(planes.permute(1, 2, 3, 0))


def _grey(planes: Tensor) -> Tensor:
    """Luma `[N, H, W]` of planes `[C, N, H, W]`."""
    if len(planes) == 1:
        return planes[0]
    red, green, blue = planes
    luma: Tensor = (red * 0.2989).add_(green * 0.587).add_(blue * 0.114)
    return luma


def _turned(planes: Tensor, turn: Tensor) -> Tensor:
    """RGB → HSV, hue plus `turn`, and back; https://en.wikipedia.org/wiki/HSL_and_HSV#Formal_derivation."""
    red, green, blue = planes
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    safe = chroma + (chroma == 0)
    # Sums of products with 0 and 1: torch.where takes several times as long where neighbours differ.
    is_red = (value == red).float()
    is_green = (value == green).float() * (1 - is_red)
    sixths = (green - blue).div_(safe).mul_(is_red)
    sixths += (blue - red).div_(safe).add_(2).mul_(is_green)
    sixths += (red - green).div_(safe).add_(4).mul_(1 - is_red - is_green)
    sixths += 6 * turn
    for plane, n in zip(planes, (5, 3, 1), strict=True):
        k = (n + sixths).remainder_(6)
        torch.sub(value, torch.minimum(k, 4 - k).clamp_(0, 1).mul_(chroma), out=plane)
    return planes
