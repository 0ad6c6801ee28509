import hashlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas.data.batches import Augmentation, DataError, MiniBatches, TrainingFeed
from bnas.data.datasets import LOADERS
from bnas.data.labelled_images import LabelledImages, Request
from bnas.data.npy import content_hash
from bnas.data.prepare import ChannelStatistics
from bnas.data.split import Normalise, Split
from bnas.data.split_rows import stratified_split

CPU = torch.device("cpu")
# With mean 0 and standard deviation 1/255 the network sees the grey values themselves.
PLAIN = Normalise((0.0,), (1 / 255,), CPU)
UNCHANGED = Augmentation(0, False)
FRACTIONS = {"validation": 0.16, "test": 0.2}


def channel_statistics(images):
    found = ChannelStatistics(images.shape[-1])
    for start in range(0, len(images), 1024):
        found.add(images[start : start + 1024])
    return found.result()


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def mnist5k():
    return LOADERS["mnist5k"](Request(Path("no/such/folder"), 0, 0, 0, 1))


# ---------------------------------------------------------------- loading


def test_mnist5k_holds_500_images_of_each_digit(mnist5k):
    assert mnist5k.images.shape == (5000, 28, 28, 1)
    assert mnist5k.images.dtype == np.uint8
    assert mnist5k.labels.dtype == np.int64
    assert mnist5k.classes == tuple("0123456789")
    assert np.bincount(mnist5k.labels).tolist() == [500] * 10


def test_mnist5k_images_are_digits_and_not_noise(mnist5k):
    assert mnist5k.images.min() == 0
    assert mnist5k.images.max() == 255
    means = np.stack([mnist5k.images[mnist5k.labels == digit].mean(axis=0).ravel() for digit in range(10)])
    pixels = mnist5k.images.reshape(5000, -1).astype(float)
    distances = (means**2).sum(axis=1) - 2 * pixels @ means.T
    assert (distances.argmin(axis=1) == mnist5k.labels).mean() > 0.75


@pytest.mark.parametrize(
    ("images", "labels", "found"),
    [
        (np.zeros((2, 3, 3), np.uint8), [0, 1], r"uint8 \[2, 3, 3\]"),
        (np.zeros((2, 3, 3, 1), np.float32), [0, 1], r"float32 \[2, 3, 3, 1\]"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, 1, 1], "3 labels"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, 2], "labels from 0 to 1, found 2"),
        (np.zeros((2, 3, 3, 1), np.uint8), [0, -1], "labels from 0 to 1, found -1"),
    ],
)
def test_images_that_are_not_labelled_uint8_images_are_refused(images, labels, found):
    with pytest.raises(DataError, match=f"^Cats: expected .*{found}"):
        LabelledImages("Cats", ("a", "b"), images, np.array(labels))


# ---------------------------------------------------------------- splitting


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(20, 60), min_size=1, max_size=6),
    st.floats(0.05, 0.4),
    st.floats(0.05, 0.4),
    st.integers(0, 2**32),
)
def test_split_is_a_partition_in_which_every_class_keeps_its_share(counts, validation, test, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    fractions = {"validation": validation, "test": test}
    parts = stratified_split(labels, fractions, seed)
    assert set(parts) == {"train", "validation", "test"}
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(labels)))
    shares = {**fractions, "train": 1 - validation - test}
    for name, rows in parts.items():
        assert rows.tolist() == sorted(rows.tolist())
        found = np.bincount(labels[rows], minlength=len(counts))
        for count, images in zip(found, counts, strict=True):
            assert abs(count - shares[name] * images) <= 1


def equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


def test_split_follows_its_seed():
    labels = np.arange(300) % 3
    first, again, other = (stratified_split(labels, FRACTIONS, seed) for seed in (1, 1, 2))
    assert equal(first, again)
    for name in first:
        assert not np.array_equal(first[name], other[name])


def test_split_takes_images_from_all_over_each_class():
    rows = stratified_split(np.zeros(1000, np.int64), {"test": 0.2}, 0)["test"]
    assert all(30 <= count <= 50 for count in np.histogram(rows, bins=5, range=(0, 1000))[0])


def test_a_split_of_fewer_images_per_class_takes_no_more_than_those():
    labels = np.repeat([0, 1, 2], [100, 40, 60])
    parts = stratified_split(labels, FRACTIONS, 0, images_per_class=50)
    rows = np.concatenate(list(parts.values()))
    assert len(set(rows.tolist())) == len(rows)
    assert np.bincount(labels[rows]).tolist() == [50, 40, 50]
    assert np.bincount(labels[parts["test"]]).tolist() == [10, 8, 10]
    assert np.bincount(labels[parts["validation"]]).tolist() == [8, 6, 8]
    assert rows[labels[rows] == 0].max() >= 50  # a sample of the class, not its head
    assert equal(stratified_split(labels, FRACTIONS, 0), stratified_split(labels, FRACTIONS, 0, images_per_class=100))


@pytest.mark.parametrize(
    ("count", "fractions", "named"),
    [
        (2, FRACTIONS, "1 (2: none for validation)"),
        (1, FRACTIONS, "1 (1: none for validation and test)"),
        (1, {"test": 0.9}, "1 (1: none for train)"),
        (20, {"test": 0.99}, "0 (50: none for train), 1 (20: none for train)"),
    ],
)
def test_all_classes_too_small_for_every_split_are_refused_at_once(count, fractions, named):
    labels = np.array([0] * 50 + [1] * count)
    with pytest.raises(DataError, match=re.escape(f" found too few of {named}: add images, or leave")):
        stratified_split(labels, fractions, 0)


def test_no_test_image_is_trained_on_or_scores_architectures(mnist5k):
    parts = stratified_split(mnist5k.labels, FRACTIONS, 0)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 3200, "validation": 800, "test": 1000}
    content = {
        name: {hashlib.sha256(image.tobytes()).digest() for image in mnist5k.images[rows]}
        for name, rows in parts.items()
    }
    for a, b in itertools.combinations(content, 2):
        assert not content[a] & content[b]
    for name, rows in parts.items():
        assert len(set(np.bincount(mnist5k.labels[rows]))) == 1, name


# ---------------------------------------------------------------- statistics and hashes


@pytest.mark.parametrize(("count", "channels"), [(3, 1), (1024, 2), (2500, 3)])
def test_channel_statistics_equal_those_of_all_images_at_once(count, channels):
    images = np.random.default_rng(0).integers(0, 256, (count, 5, 4, channels)).astype(np.uint8)
    images[..., 0] //= 3
    mean, deviation = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(deviation, (images / 255).std(axis=(0, 1, 2)), atol=1e-6)
    assert all(isinstance(value, float) for value in (*mean, *deviation))


def test_a_channel_of_one_colour_is_refused_whatever_the_colour():
    images = np.random.default_rng(0).integers(0, 256, (50, 5, 4, 2)).astype(np.uint8)
    for colour in range(256):
        images[..., 1] = colour
        with pytest.raises(DataError, match="channel 1: expected images that differ, found one colour"):
            channel_statistics(images)


def test_no_mini_batch_holds_a_single_image():
    for count in range(2, 12):
        for size in range(2, count + 1):
            assert all(len(y) >= 2 for _, y in cut(count, size))


def test_content_hash_notices_a_byte_a_shape_a_type_and_the_order():
    a = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    b = np.arange(5, dtype=np.int64)
    changed = a.copy()
    changed[1, 2, 3] ^= 1
    variants = [
        [a, b],
        [b, a],
        [a],
        [changed, b],
        [a.reshape(3, 2, 4), b],
        [a.view(np.int8), b],
        [a, b.astype(np.int32)],
        [a, b[:-1]],
    ]
    hashes = [content_hash(arrays) for arrays in variants]
    assert len(set(hashes)) == len(variants)
    assert all(len(text) == 64 and int(text, 16) >= 0 for text in hashes)


def test_content_hash_depends_on_nothing_but_content():
    a = np.random.default_rng(0).integers(0, 256, (9000, 3)).astype(np.uint8)
    turned = np.asfortranarray(a)
    assert content_hash([a]) == content_hash([turned]) == content_hash([a.copy()])
    for row in (0, 4095, 4096, 8999):
        changed = a.copy()
        changed[row, 0] ^= 1
        assert content_hash([changed]) != content_hash([a])


# ---------------------------------------------------------------- prepared splits


IMAGES = np.arange(4 * 9).reshape(4, 3, 3, 1).astype(np.uint8)


def write(folder, images=IMAGES, labels=(0, 1, 2, 0)):
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", np.asarray(labels))


def test_a_prepared_split_is_memory_mapped(tmp_path):
    write(tmp_path, labels=np.array([0, 1, 2, 0], np.int32))
    split = Split.open(tmp_path)
    assert isinstance(split.images, np.memmap)
    assert not split.images.flags.writeable
    assert len(split) == 4
    assert split.images[3].ravel().tolist() == list(range(27, 36))
    assert split.labels.tolist() == [0, 1, 2, 0]
    assert split.labels.dtype == np.int64


def truncate(name, size):
    def change(folder):
        data = (folder / name).read_bytes()
        assert len(data) > size
        (folder / name).write_bytes(data[:size])

    return change


BROKEN = {
    "no folder": lambda folder: [path.unlink() for path in folder.iterdir()] and folder.rmdir(),
    "no images": lambda folder: (folder / "images.npy").unlink(),
    "no labels": lambda folder: (folder / "labels.npy").unlink(),
    "images cut short": truncate("images.npy", 140),
    "labels cut short": truncate("labels.npy", 140),
    "images' header cut short": truncate("images.npy", 40),
    "labels' header cut short": truncate("labels.npy", 40),
    "empty images": truncate("images.npy", 0),
    "empty labels": truncate("labels.npy", 0),
    "text": lambda folder: (folder / "images.npy").write_text("three\nlines\nof text"),
    "objects": lambda folder: write(folder, labels=np.array([None] * 4)),
    "float images": lambda folder: write(folder, np.zeros((4, 3, 3, 1), np.float32)),
    "images without channels": lambda folder: write(folder, np.zeros((4, 3, 3), np.uint8)),
    "fewer labels": lambda folder: write(folder, labels=np.zeros(3, np.int64)),
    "labels in a column": lambda folder: write(folder, labels=np.zeros((4, 1), np.int64)),
    "fractional labels": lambda folder: write(folder, labels=np.array([0, 0.5, 1.5, 2])),
    "labels in words": lambda folder: write(folder, labels=np.array(["a", "b", "c", "d"])),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_prepared_split_is_refused_in_one_line_that_names_the_folder(fault, tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    write(folder)
    BROKEN[fault](folder)
    with pytest.raises(DataError) as error:
        Split.open(folder)
    message = str(error.value)
    assert message.startswith(f"{folder}: expected ")
    assert "\n" not in message


def test_joined_splits_hold_both_with_their_labels():
    a, b = numbered(3), numbered(2, first=100)
    joined = a.joined(b)
    assert joined.images[:].ravel().tolist() == [0, 1, 2, 100, 101]
    assert joined.images[np.array([4, 0, 3])].ravel().tolist() == [101, 0, 100]
    assert joined.images[3].ravel().tolist() == [100]
    assert joined.labels.tolist() == [*a.labels, *b.labels]
    assert len(joined) == 5


# ---------------------------------------------------------------- normalisation


def test_normalised_images_are_shares_of_255_less_mean_over_deviation():
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.25, 1.5)
    images = torch.randint(0, 256, (4, 5, 6, 3), generator=rng()).to(torch.uint8)
    given_images = images.clone()
    x = Normalise(mean, std, CPU)(images)
    expected = (images.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(x, expected.permute(0, 3, 1, 2).float(), rtol=1e-5, atol=1e-6)
    assert x.shape == (4, 3, 5, 6)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, given_images)


def test_normalised_by_their_own_statistics_images_have_mean_zero_and_deviation_one():
    images = np.random.default_rng(0).integers(0, 200, (40, 9, 9, 2)).astype(np.uint8)
    mean, std = channel_statistics(images)
    x = Normalise(tuple(mean), tuple(std), CPU)(torch.from_numpy(images))
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(dim=(0, 2, 3), unbiased=False), torch.ones(2), atol=1e-4, rtol=0)


# ---------------------------------------------------------------- augmentation


def shifted(image, dy, dx):
    """`image` `[H, W, C]` moved down by dy and right by dx, the rest zero."""
    height, width, _ = image.shape
    result = torch.zeros_like(image)
    for row, column in itertools.product(range(height), range(width)):
        if 0 <= row - dy < height and 0 <= column - dx < width:
            result[row, column] = image[row - dy, column - dx]
    return result


def distinct_pixels(height, width, channels):
    """One image [H, W, C] of pairwise different values above 0."""
    values = torch.arange(1, height * width * channels + 1)
    assert len(values) < 256
    return values.reshape(height, width, channels).to(torch.uint8)


@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_images_are_exact_shifts_or_mirrored_shifts_and_all_of_them_occur(shift, flip, channels):
    image = distinct_pixels(4, 6, channels)
    offsets = itertools.product(range(-shift, shift + 1), repeat=2)
    moved = [shifted(image, dy, dx) for dy, dx in offsets]
    allowed = moved + [other.flip(1) for other in moved] if flip else moved
    lookup = {other.numpy().tobytes(): i for i, other in enumerate(allowed)}
    assert len(lookup) == len(allowed)

    n = 60 * len(allowed)
    images = image.expand(n, -1, -1, -1)
    result = Augmentation(shift, flip)(images, rng())
    assert result.shape == images.shape
    assert result.dtype == torch.uint8
    # Equal images in one call come out differently: the draws are per image; each offset 60 times on average.
    counts = np.bincount([lookup[other.numpy().tobytes()] for other in result], minlength=len(allowed))
    assert counts.min() > 30
    assert counts.max() < 100
    assert torch.equal(image, distinct_pixels(4, 6, channels))


def test_each_image_is_augmented_from_itself():
    images = torch.stack([distinct_pixels(4, 5, 1) + 20 * i for i in range(8)])
    result = Augmentation(1, True)(images, rng())
    for i, image in enumerate(result):
        kept = image[image > 0]
        assert set(kept.tolist()) <= set(images[i].flatten().tolist())


def test_a_flip_mirrors_left_and_right_half_of_the_time():
    image = distinct_pixels(3, 4, 2)
    result = Augmentation(0, True)(image.expand(1000, -1, -1, -1), rng())
    same = (result == image).flatten(1).all(1)
    mirrored = (result == image[:, [3, 2, 1, 0]]).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert 430 < same.sum() < 570


def test_no_augmentation_changes_nothing():
    images = torch.randint(0, 256, (5, 4, 3, 2), generator=rng()).to(torch.uint8)
    assert torch.equal(UNCHANGED(images, rng()), images)


@pytest.mark.parametrize("side", [1, 3, 4, 6])
def test_cutout_hides_a_square_around_any_pixel_cut_off_at_the_border(side):
    n, height, width = 4000, 6, 8
    inputs = torch.ones(n, 2, height, width).contiguous(memory_format=torch.channels_last)
    result = Augmentation(0, False, side).cut_out(inputs, rng())
    assert result.is_contiguous(memory_format=torch.channels_last)
    squares = []
    for y, x in itertools.product(range(height), range(width)):
        square = np.ones((2, height, width), np.float32)
        top, left = y - side // 2, x - side // 2
        square[:, max(0, top) : top + side, max(0, left) : left + side] = 0
        squares.append(square.tobytes())
    counts = dict.fromkeys(squares, 0)
    for image in result:
        counts[image.contiguous().numpy().tobytes()] += 1  # KeyError: no square of that size and place
    for square, found in counts.items():
        expected = n * squares.count(square) / len(squares)
        assert abs(found - expected) < 5 * expected**0.5


def test_no_cutout_draws_nothing_and_changes_nothing():
    inputs, generator = torch.rand(3, 1, 4, 4), rng()
    assert UNCHANGED.cut_out(inputs, generator) is inputs
    assert torch.equal(generator.get_state(), rng().get_state())


def test_what_is_cut_out_of_training_images_has_their_mean_colour():
    images = torch.randint(0, 256, (64, 8, 8, 3), generator=rng()).to(torch.uint8)
    normalise = Normalise((0.201, 0.5, 0.7), (0.2, 0.25, 0.3), CPU)
    training = TrainingFeed(Split(images.numpy(), np.zeros(64, np.int64)), 64, normalise, Augmentation(0, False, 4))
    ((x, _),) = training.epoch(rng())
    hidden = x == 0
    assert torch.equal(hidden.all(1), hidden.any(1)), "all channels of a pixel together"
    assert (hidden.all(1).sum((1, 2)) >= 4).all()
    order = torch.randperm(64, generator=rng())
    torch.testing.assert_close(x[~hidden], normalise(images[order.sort().values])[~hidden])


def test_augmentation_follows_its_generator_and_nothing_else():
    images = torch.randint(0, 256, (50, 6, 6, 1), generator=rng()).to(torch.uint8)
    given_images, state = images.clone(), torch.get_rng_state()
    first, again, other = (Augmentation(2, True)(images, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, given_images)
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- mini-batches


def numbered(count, first=0):
    """Split of one-pixel images whose value is their number; the label follows from it."""
    values = np.arange(first, first + count)
    assert values.max(initial=0) < 256
    return Split(values.astype(np.uint8).reshape(-1, 1, 1, 1), values % 7)


def numbers(batch):
    """The image numbers of a mini-batch, having checked that shapes fit and labels travelled along."""
    x, y = batch
    assert x.shape == (len(y), 1, 1, 1)
    assert y.dtype == torch.int64
    values = x.flatten().round().long().tolist()
    assert y.tolist() == [value % 7 for value in values]
    return values


def feed(count, batch_size):
    return TrainingFeed(numbered(count), batch_size, PLAIN, UNCHANGED)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.data(), st.integers(0, 2**32))
def test_an_epoch_uses_each_image_at_most_once_and_drops_the_remainder(count, data, seed):
    batch_size = data.draw(st.integers(1, count))
    training = feed(count, batch_size)
    batches = [numbers(batch) for batch in training.epoch(rng(seed))]
    assert len(batches) == training.steps == count // batch_size
    assert all(len(batch) == batch_size for batch in batches)
    seen = list(itertools.chain(*batches))
    assert len(set(seen)) == len(seen)


def test_rows_are_chosen_apart_from_loading_them():
    training, generator, same = feed(50, 16), rng(), rng()
    batches = [numbers(training.load(rows, generator)) for rows in training.rows(generator)]
    assert batches == [numbers(batch) for batch in training.epoch(same)]


def test_epochs_differ_and_follow_their_generator():
    training, generator = feed(50, 16), rng()
    first, second = ([numbers(batch) for batch in training.epoch(generator)] for _ in range(2))
    assert first != second
    assert [set(batch) for batch in first] != [set(batch) for batch in second]
    again = rng()
    assert [[numbers(batch) for batch in training.epoch(again)] for _ in range(2)] == [first, second]


def test_a_dropped_remainder_waits_for_another_epoch():
    training, generator = feed(50, 16), rng()
    epochs = [set().union(*map(numbers, training.epoch(generator))) for _ in range(8)]
    assert {len(epoch) for epoch in epochs} == {48}
    assert set().union(*epochs) == set(range(50))


def test_training_images_are_augmented_anew_in_every_epoch_and_normalised():
    image = distinct_pixels(4, 4, 1)
    split = Split(image.expand(32, -1, -1, -1).numpy().copy(), np.zeros(32, np.int64))
    training = TrainingFeed(split, 32, PLAIN, Augmentation(1, False))
    allowed = {shifted(image, dy, dx).numpy().tobytes() for dy, dx in itertools.product((-1, 0, 1), repeat=2)}
    generator, epochs = rng(), []
    for _ in range(2):
        ((x, _),) = training.epoch(generator)
        assert x.is_contiguous(memory_format=torch.channels_last)
        epochs.append([pixels.permute(1, 2, 0).round().to(torch.uint8).numpy().tobytes() for pixels in x])
        assert set(epochs[-1]) <= allowed
        assert len(set(epochs[-1])) > 1
    assert epochs[0] != epochs[1]


def test_a_training_batch_larger_than_the_split_is_refused_by_the_name_of_its_parameter():
    feed(16, 16)
    with pytest.raises(DataError, match=r"^batch_size: expected at most the 16 images .* found 17$"):
        feed(16, 17)


def cut(count, batch_size, seed=0):
    return MiniBatches(numbered(count), batch_size, PLAIN, seed)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.data(), st.integers(0, 2**32))
def test_mini_batches_are_a_partition_into_nearly_equal_parts(count, data, seed):
    batch_size = data.draw(st.integers(1, count))
    batches = cut(count, batch_size, seed)
    parts = [numbers(batch) for batch in batches]
    assert len(parts) == len(batches) == max(1, min(-(-count // batch_size), count // 2))
    assert sorted(itertools.chain(*parts)) == list(range(count))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert max(lengths) <= max(batch_size, 3)
    assert [batches.images(k) for k in range(len(batches) + 1)] == [0, *itertools.accumulate(lengths)]


def test_mini_batches_mix_the_classes_of_a_split_sorted_by_class():
    labels = np.repeat(np.arange(10), 100)
    split = Split(np.zeros((1000, 1, 1, 1), np.uint8), labels)
    for _, y in MiniBatches(split, 100, PLAIN, 0):
        found = torch.bincount(y, minlength=10)
        assert found.min() > 0
        assert found.max() < 25


def test_mini_batches_are_cut_once_by_their_seed():
    first, again, other = (cut(150, 40, seed) for seed in (1, 1, 2))
    parts = [numbers(batch) for batch in first]
    assert [numbers(batch) for batch in again] == parts
    assert [numbers(batch) for batch in first] == parts
    assert [numbers(batch) for batch in other] != parts


def test_mini_batches_are_not_augmented_but_normalised():
    split = Split(np.full((4, 2, 2, 1), 51, np.uint8), np.zeros(4, np.int64))
    ((x, _),) = MiniBatches(split, 4, Normalise((0.1,), (0.5,), CPU), 0)
    torch.testing.assert_close(x, torch.full((4, 1, 2, 2), 0.2))


def test_a_mini_batch_larger_than_the_split_is_refused_by_the_name_of_its_parameter():
    cut(16, 16)
    with pytest.raises(DataError, match=r"^batch_size: expected at most the 16 .* found 17$"):
        cut(16, 17)
