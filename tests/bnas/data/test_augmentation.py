"""Random crops and colours; torchvision's, where it has the same, are the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from bnas.data.augmentation import Augmentation, crop_boxes, jittered, resized_crops


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, height=12, width=16, channels=3):
    return torch.randint(0, 256, (n, height, width, channels), generator=rng()).to(torch.uint8)


@pytest.mark.parametrize("column", range(4))
def test_colours_change_as_torchvision_changes_them(column):
    x = images(20).float() / 255
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(20, 1)
    factors[:, column] = torch.linspace(0.0, 2.0, 20) if column < 3 else torch.linspace(-0.5, 0.5, 20)
    adjust = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )[column]
    found = jittered(x, factors)
    for image, factor, result in zip(x, factors[:, column].tolist(), found, strict=True):
        expected = adjust(image.permute(2, 0, 1), factor).permute(1, 2, 0)
        torch.testing.assert_close(result, expected, atol=2e-4, rtol=0)


def test_grey_images_keep_one_channel_when_their_colours_change():
    x = images(9, channels=1)
    found = Augmentation(0, False, color_jitter=0.5)(x, rng())
    assert found.shape == x.shape
    assert not torch.equal(found, x)


def test_jitter_stays_within_its_strength():
    grey = torch.full((500, 2, 2, 1), 100, dtype=torch.uint8)
    found = Augmentation(0, False, color_jitter=0.4)(grey, rng()).float()
    assert found.min() >= 60
    assert found.max() <= 140
    assert found.min() < 65
    assert found.max() > 135


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 40), (375, 500), (20, 100), (100, 20)])
def test_crops_are_distributed_as_torchvisions(height, width):
    n = 1500
    boxes = crop_boxes(n, height, width, rng())
    top, left, h, w = boxes.unbind(1)
    assert (h > 0).all()
    assert (w > 0).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = torch.zeros(1, height, width)
        drawn = [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    expected = torch.tensor(drawn)
    for found, other in ((boxes, expected), (boxes[:, 2:].prod(1)[:, None], expected[:, 2:].prod(1)[:, None])):
        difference = (found.double().mean(0) - other.double().mean(0)).abs()
        error = (found.double().var(0) / n + other.double().var(0) / n).sqrt()
        assert (difference <= 4.5 * error + 1e-9).all()


def test_a_crop_of_the_whole_changes_nothing_and_one_of_a_quarter_doubles_it():
    x = images(3)
    whole = torch.tensor([[0, 0, 12, 16]] * 3)
    assert torch.equal(resized_crops(x, whole), x)
    flat = torch.zeros(1, 12, 16, 3, dtype=torch.uint8)
    flat[:, 2:8, 4:12] = 200
    found = resized_crops(flat, torch.tensor([[2, 4, 6, 8]]))
    assert (found[:, 1:-1, 1:-1] == 200).all()


def test_a_crop_is_what_pillow_scales_it_to():
    x = images(4)
    smooth = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2).float(), scale_factor=4, mode="bicubic")
    x = smooth.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    boxes = torch.tensor([[5, 7, 20, 30], [0, 0, 48, 64], [30, 10, 9, 9], [1, 2, 40, 50]])
    found = resized_crops(x, boxes)
    from PIL import Image

    for image, box, result in zip(x, boxes.tolist(), found, strict=True):
        top, left, h, w = box
        expected = Image.fromarray(image.numpy()).resize(
            (64, 48), Image.Resampling.BILINEAR, (left, top, left + w, top + h)
        )
        difference = np.abs(result.numpy()[4:-4, 4:-4].astype(int) - np.asarray(expected)[4:-4, 4:-4])
        assert difference.mean() < 2


def test_what_is_off_draws_nothing_and_what_is_on_follows_its_generator():
    x = images(30)
    off, generator = Augmentation(0, False), rng()
    assert torch.equal(off(x, generator), x)
    assert torch.equal(generator.get_state(), rng().get_state())
    on = Augmentation(1, True, 3, True, 0.3)
    first, again, other = (on(x, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in on(x[:1].expand(30, -1, -1, -1), rng())}) == 30


def test_a_quarter_turn_of_hue_is_a_quarter_of_the_circle():
    red = torch.tensor([1.0, 0.0, 0.0]).expand(1, 1, 1, 3)
    green = jittered(red, torch.tensor([[1, 1, 1, 1 / 3]]))
    torch.testing.assert_close(green.flatten(), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    assert math.isclose(jittered(red, torch.tensor([[1, 1, 1, 0.5]])).flatten()[0].item(), 0, abs_tol=1e-6)
