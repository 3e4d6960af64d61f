"""What a picture's headers say is looked at before its pixels are decoded."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from ucip_adapt.errors import DataError
from ucip_adapt.imaging import read_picture
from ucip_adapt.imaging.read import TooManyPixelsError


def jpegxl(shape: tuple[int, ...], **options: object) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(np.full(shape, 90, np.uint8), **options))


def heic(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (width, height), (9, 99, 9))).save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("boxes", [False, True])
def test_jpegxl_of_too_many_pixels_is_not_decoded(
    boxes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpegxl((96, 64, 3), usecontainer=boxes)
    assert read_picture(data, max_pixels=64 * 96).size == (96, 64)

    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(imagecodecs, "jpegxl_decode", decode)
    with pytest.raises(TooManyPixelsError, match=r"^64 x 96 pixels are 6,144; the limit is 6,143$"):
        read_picture(data, max_pixels=64 * 96 - 1)


def test_heic_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(64, 96)
    assert read_picture(data, max_pixels=64 * 96).size == (96, 64)

    def load(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(pillow_heif.HeifImage, "load", load)
    with pytest.raises(TooManyPixelsError, match=r"^64 x 96 pixels are 6,144; the limit is 6,143$"):
        read_picture(data, max_pixels=64 * 96 - 1)


def test_frames_of_jpegxl_are_not_decoded_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    film = jpegxl((3, 30, 50, 3))
    assert imagecodecs.jpegxl_decode(film).shape == (3, 30, 50, 3)
    monkeypatch.setattr(imagecodecs, "jpegxl_decode", None)
    with pytest.raises(DataError, match="an animation; only still pictures"):
        read_picture(film)


@pytest.mark.parametrize("size", [(40, 20), (1, 1)])
def test_avif_whose_main_brand_is_that_of_any_still_picture(size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 99, 9)).save(buffer, "AVIF", quality=80)
    data = buffer.getvalue()
    assert data[4:12] == b"ftypavif"
    general = data[:8] + b"mif1" + data[12:]
    assert b"avif" in general[16 : int.from_bytes(general[:4], "big")]
    with Image.open(io.BytesIO(general)) as image:
        wanted = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(read_picture(general).colour, wanted)


def test_heic_whose_main_brand_is_that_of_any_still_picture() -> None:
    data = heic(40, 20)
    general = data[:8] + b"mif1" + data[12:]
    np.testing.assert_array_equal(read_picture(general).colour, read_picture(data).colour)
