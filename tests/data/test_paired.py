"""Training crops: aligned, evenly drawn, and a function of seed and number alone."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ucip_adapt.data import DegradedImage, PairedCrops, Setting, degrade_images, parse_settings
from ucip_adapt.data.paired import to_tensor
from ucip_adapt.errors import ConfigError, DataError

SETTINGS = (Setting("jpeg", 10), Setting("webp", 20), Setting("webp", 40))


def position_image(height: int, width: int, number: int = 0) -> DegradedImage:
    """Pixels that say where they are: row and column of the LQ pixel, and the place inside it.

    The third LQ channel tells image and setting.
    """
    rows, columns = np.mgrid[:height, :width]
    inside = np.mgrid[: 4 * height, : 4 * width] % 4
    gt = np.stack(
        [
            rows.repeat(4, 0).repeat(4, 1),
            columns.repeat(4, 0).repeat(4, 1),
            4 * inside[0] + inside[1],
        ],
        axis=2,
    )
    lq = {
        setting: np.stack([rows, columns, np.full_like(rows, 10 * number + turn)], axis=2)
        for turn, setting in enumerate(SETTINGS)
    }
    return DegradedImage(
        f"image{number}",
        gt.astype(np.uint8),
        {setting: pixels.astype(np.uint8) for setting, pixels in lq.items()},
    )


def levels(image: torch.Tensor) -> np.ndarray:
    """Back to ``H x W x 3`` integers."""
    return (image * 255).round().int().numpy().transpose(1, 2, 0)


def drawn_setting(index: int) -> int:
    """Every second crop is JPEG; the WebP ones take the two qualities in turns."""
    return 0 if index % 2 == 0 else 1 + index // 2 % 2


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(torch.as_tensor(one[key]), torch.as_tensor(two[key])) for key in one
    )


def test_compressed_crop_and_truth_show_the_same_place_the_same_way_round() -> None:
    image = position_image(23, 31)
    crops = PairedCrops([image], patch_size=8, seed=3)
    flips, tops, lefts = Counter(), Counter(), Counter()
    for index in range(600):
        sample = crops[index]
        lq, gt = levels(sample["lq"]), levels(sample["gt"])
        assert (lq.shape, gt.shape) == ((8, 8, 3), (32, 32, 3))
        rows, columns = lq[:, 0, 0], lq[0, :, 1]
        top, left = rows.min(), columns.min()
        down = 1 if rows[0] < rows[-1] else -1
        right = 1 if columns[0] < columns[-1] else -1
        flips[down, right] += 1
        tops[top] += 1
        lefts[left] += 1
        place = np.s_[top : top + 8, left : left + 8]
        whole = image.lq[SETTINGS[drawn_setting(index)]]
        np.testing.assert_array_equal(lq, whole[place][::down, ::right])
        place = np.s_[4 * top : 4 * top + 32, 4 * left : 4 * left + 32]
        np.testing.assert_array_equal(gt, image.gt[place][::down, ::right])
    # Every flip about equally often (150 each), every place from the first to the last.
    assert all(110 < flips[down, right] < 190 for down in (1, -1) for right in (1, -1))
    assert (set(tops), set(lefts)) == (set(range(16)), set(range(24)))


def test_a_crop_may_be_the_whole_image() -> None:
    sample = PairedCrops([position_image(8, 8)], patch_size=8, seed=0)[5]
    assert np.sort(levels(sample["lq"])[:, 0, 0]).tolist() == list(range(8))


def test_every_image_once_per_epoch_in_changing_order() -> None:
    images = [position_image(8, 8, number) for number in range(7)]
    crops = PairedCrops(images, patch_size=4, seed=0)
    orders = []
    for epoch in range(6):
        seen = [
            int(levels(crops[index]["lq"])[0, 0, 2]) // 10
            for index in range(7 * epoch, 7 * epoch + 7)
        ]
        assert sorted(seen) == list(range(7))
        orders.append(tuple(seen))
    assert len(set(orders)) == 6


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        # JPEG has one quality, WebP two: evenly by slot, then evenly within it.
        (None, {0: 300, 1: 150, 2: 150}),
        ([0, 0, 1], {0: 150, 1: 150, 2: 300}),
        ([0, 1, 2], {0: 200, 1: 200, 2: 200}),
        ([0, 0, 0], {0: 200, 1: 200, 2: 200}),
    ],
)
def test_slots_are_drawn_equally_often_and_for_every_image(slots, expected) -> None:
    images = [position_image(8, 8, number) for number in range(6)]
    crops = PairedCrops(images, patch_size=4, seed=0, slots=slots)
    samples = [crops[index] for index in range(600)]
    drawn = [int(levels(sample["lq"])[0, 0, 2]) for sample in samples]
    assert Counter(value % 10 for value in drawn) == expected
    # Settings and images are numbers of small common factors: without a new order per epoch some
    # images would never see some settings.
    assert set(drawn) == {10 * image + setting for image in range(6) for setting in range(3)}
    numbers = slots or [0, 1, 1]
    assert [s["slot"] for s in samples] == [numbers[value % 10] for value in drawn]
    assert [s["index"] for s in samples] == list(range(600))


@pytest.mark.parametrize("slots", [[0, 1], [0, 2, 2], [1, 1, 1], [-1, 0, 1]])
def test_slots_that_do_not_fit_the_settings(slots) -> None:
    with pytest.raises(ConfigError, match=r"slots .*: need a number from 0 for each of 3 settings"):
        PairedCrops([position_image(8, 8)], patch_size=4, seed=0, slots=slots)


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    images = [position_image(23, 31, number) for number in range(5)]
    numbers = [0, 1, 4, 5, 23, 10**9]
    first = PairedCrops(images, patch_size=8, seed=1)
    forwards = {number: first[number] for number in numbers}
    second = PairedCrops(images, patch_size=8, seed=1)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the legacy state must not matter
    for number in reversed(numbers):
        assert same(second[number], forwards[number])
    other = PairedCrops(images, patch_size=8, seed=2)
    assert sum(same(other[number], forwards[number]) for number in numbers) < 2


def test_spawned_workers_give_the_same_samples_and_receive_no_pixels(cache, photo_files) -> None:
    """Spawned workers start from a pickle; two of them, as on macOS and Windows."""
    images = degrade_images(photo_files(3, 256, 300), parse_settings("webp", (10, 40)), cache)
    crops = PairedCrops(images, patch_size=16, seed=5)
    pixels = sum(np.asarray(image.gt).nbytes for image in images)
    assert len(pickle.dumps(crops)) < 5_000 < pixels / 100

    order = [[3, 0], [11, 7], [2, 1000]]
    alone = list(DataLoader(crops, batch_sampler=order))
    workers = DataLoader(crops, batch_sampler=order, num_workers=2, multiprocessing_context="spawn")
    spawned = list(workers)
    assert len(spawned) == len(order)
    assert all(same(one, two) for one, two in zip(alone, spawned, strict=True))
    assert alone[0]["index"].tolist() == [3, 0]
    assert same({"gt": alone[2]["gt"][1]}, {"gt": crops[1000]["gt"]})


def test_pixels_become_floats_from_0_to_1() -> None:
    rgb = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = to_tensor(rgb)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    expected = torch.arange(256, dtype=torch.float32).reshape(16, 16) / 255
    assert torch.equal(tensor, expected.expand(3, 16, 16))


def test_what_cannot_be_cropped_is_refused_at_the_start() -> None:
    good = position_image(8, 12)
    with pytest.raises(DataError, match="no training images"):
        PairedCrops([], patch_size=4, seed=0)
    with pytest.raises(ConfigError, match="patch_size=1: need at least 2 pixels"):
        PairedCrops([good], patch_size=1, seed=0)
    with pytest.raises(DataError, match="image0 is smaller than a crop of 9 LQ pixels"):
        PairedCrops([good], patch_size=9, seed=0)
    with pytest.raises(DataError, match="no codec settings"):
        PairedCrops([DegradedImage("bare", good.gt, {})], patch_size=4, seed=0)
    less = DegradedImage("less", good.gt, {SETTINGS[0]: good.lq[SETTINGS[0]]})
    with pytest.raises(DataError, match=r"less has the settings jpeg:10; the first .*webp:40"):
        PairedCrops([good, less], patch_size=4, seed=0)
    askew = {setting: pixels[:7] for setting, pixels in good.lq.items()}
    with pytest.raises(DataError, match=r"askew at jpeg:10: truth \(32, 48\) is not four times"):
        PairedCrops([DegradedImage("askew", good.gt, askew)], patch_size=4, seed=0)


def test_a_digest_of_names_pixels_and_order():
    def crops(*images):
        made = [
            DegradedImage(name, gt, {Setting("webp", 10): gt[::4, ::4].copy()})
            for name, gt in images
        ]
        return PairedCrops(made, patch_size=4, seed=0)

    black, spot = np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48, 3), np.uint8)
    spot[16, 47, 2] = 1
    found = [
        crops(*images).images_sha256()
        for images in (
            [("a", black), ("b", spot)],
            [("a", spot), ("b", black)],
            [("b", spot), ("a", black)],
            [("a", black), ("c", spot)],
            [("a", black)],
            [("a", black.reshape(48, 32, 3)), ("b", spot)],
        )
    ]
    assert len(set(found)) == len(found)
    assert found[0] == crops(("a", black[:]), ("b", spot.copy())).images_sha256()
