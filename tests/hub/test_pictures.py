"""The before-and-after picture shows one place of every image, and the truth chooses it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ucip_adapt.data.benchmarks import EvalImage
from ucip_adapt.errors import DataError
from ucip_adapt.hub.pictures import busiest_crop, comparison_picture


@pytest.fixture
def image():
    truth = np.full((64, 96, 3), 90, np.uint8)
    truth[16:48, 48:80] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    return EvalImage("noise", truth, truth[::4, ::4].copy())


def test_the_busiest_place_is_found(image):
    assert busiest_crop(image.gt, 32) == (16, 48)
    assert busiest_crop(image.gt, 64)[0] == 0


def test_every_panel_is_the_same_place(image, tmp_path):
    methods = {
        "dark": lambda lq: lq.repeat(4, 0).repeat(4, 1) // 2,
        "bright": lambda lq: 255 - lq.repeat(4, 0).repeat(4, 1) // 2,
    }
    path = tmp_path / "picture.png"
    comparison_picture(path, image, image.lr, methods, title="input", size=32)
    with Image.open(path) as opened:
        sheet = np.asarray(opened)
    assert sheet.shape == (64 + 34, 4 * 64 + 3 * 4, 3)
    nearest = image.lr.repeat(4, 0).repeat(4, 1)
    panels = [nearest, nearest // 2, 255 - nearest // 2, image.gt]
    for place, panel in enumerate(panels):
        shown = sheet[:64, 68 * place : 68 * place + 64]
        expected = panel[16:48, 48:80].repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(shown, expected)
    captions = sheet[64:, :, :]
    for place in range(4):
        caption = captions[:, 68 * place : 68 * place + 64]
        assert (caption < 128).any(), "something is written below"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(image, tmp_path):
    with pytest.raises(DataError, match=r"cannot write image .*nowhere/picture\.png"):
        comparison_picture(tmp_path / "nowhere" / "picture.png", image, image.lr, {}, title="x")


def test_small_images_give_small_pictures(image, tmp_path):
    comparison_picture(tmp_path / "a.png", image, image.lr, {}, title="x")
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.size == (2 * 128 + 4, 128 + 34)
