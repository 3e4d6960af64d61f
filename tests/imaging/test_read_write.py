"""Reading and writing keep what a picture carries (R22)."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from ucip_adapt.errors import DataError, UnknownNameError
from ucip_adapt.imaging import FORMATS, Picture, encode_picture, read_picture


def test_each_kind_keeps_its_channels_depth_and_size(good):
    for name, (data, mode, size, note) in good.items():
        picture = read_picture(data)
        assert (picture.mode, picture.size) == (mode, size), name
        assert bool(picture.notes) == bool(note), (name, picture.notes)
        assert note in " ".join(picture.notes), name


def test_pixels_are_pillows_where_pillow_is_right(good):
    for name in ("rgb", "grey", "rgba", "palette", "palette+alpha", "webp", "avif"):
        picture = read_picture(good[name][0])
        wanted = np.array(Image.open(io.BytesIO(good[name][0])).convert(picture.mode))
        planes = picture.colour if picture.colour.shape[2] == 3 else picture.colour[..., 0]
        np.testing.assert_array_equal(planes, wanted[..., :3] if wanted.ndim == 3 else wanted)


def test_sixteen_bits_survive_a_round_trip(good):
    for name in ("16-bit grey", "16-bit rgb", "16-bit rgba"):
        picture = read_picture(good[name][0])
        assert picture.colour.max() > 60000, name
        again = read_picture(encode_picture(picture))
        np.testing.assert_array_equal(again.colour, picture.colour)
        if picture.alpha is not None:
            np.testing.assert_array_equal(again.alpha, picture.alpha)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation):
    pixels = np.arange(11 * 13 * 3, dtype=np.uint16).reshape(11, 13, 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    picture = read_picture(buffer.getvalue())
    with Image.open(buffer) as image:
        np.testing.assert_array_equal(picture.colour, np.array(ImageOps.exif_transpose(image)))
    with Image.open(io.BytesIO(encode_picture(picture))) as written:
        assert written.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("file_format", FORMATS)
def test_profile_and_exif_are_written(good, file_format):
    profile = read_picture(good["profile"][0]).icc_profile
    exif = read_picture(good["turned"][0]).exif
    picture = Picture(np.full((8, 9, 3), 77, np.uint8), None, profile, exif)
    with Image.open(io.BytesIO(encode_picture(picture, file_format))) as written:
        assert written.info["icc_profile"] == profile
        assert written.getexif()[0x010F] == "maker"


def test_sixteen_bit_png_keeps_profile_and_exif(good):
    profile = read_picture(good["profile"][0]).icc_profile
    exif = read_picture(good["turned"][0]).exif
    again = read_picture(
        encode_picture(Picture(np.full((8, 9, 3), 777, np.uint16), None, profile, exif))
    )
    assert again.icc_profile == profile
    with Image.open(io.BytesIO(encode_picture(again))) as written:
        assert written.getexif()[0x010F] == "maker"


def test_what_cannot_be_read_is_said(bad):
    for data, words in bad.values():
        with pytest.raises(DataError, match=words):
            read_picture(data)


def test_formats_refuse_what_they_cannot_hold():
    clear = Picture(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="jpeg holds no transparency; these do: png, webp, tiff"):
        encode_picture(clear, "jpeg")
    with pytest.raises(DataError, match="webp holds no 16 bits per channel; use png"):
        encode_picture(Picture(np.zeros((4, 4, 3), np.uint16)), "webp")
    with pytest.raises(UnknownNameError, match="did you mean 'png'"):
        encode_picture(clear, "pgn")


@pytest.mark.parametrize("hidden", [0, 1])
def test_a_transparent_level_of_one_bit_and_of_sixteen(hidden):
    buffer = io.BytesIO()
    levels = np.array([[0, 1], [1, 0]], np.uint16)
    deep = Image.fromarray(1000 + 5000 * levels)
    deep.save(buffer, "PNG", transparency=1000 + 5000 * hidden)
    picture = read_picture(buffer.getvalue())
    assert picture.mode == "LA;16"
    np.testing.assert_array_equal(picture.colour[..., 0], 1000 + 5000 * levels)
    np.testing.assert_array_equal(picture.alpha, np.where(levels == hidden, 0, 65535))
    assert "transparent colour converted to an alpha channel" in picture.notes
    buffer = io.BytesIO()
    Image.fromarray(levels.astype(bool)).save(buffer, "PNG", transparency=hidden)
    picture = read_picture(buffer.getvalue())
    np.testing.assert_array_equal(picture.colour[..., 0], 255 * levels)
    np.testing.assert_array_equal(picture.alpha, np.where(levels == hidden, 0, 255))
    assert len(picture.notes) == 2


def exif_block(tag, kind, count, value):
    """An EXIF block of one entry, whose value has four bytes."""
    entry = struct.pack("<HHI", tag, kind, count) + value
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [
        exif_block(0x0100, 2, 3, b"40\0\0"),  # a width as text
        exif_block(0x013B, 11, 1, struct.pack("<f", 1)),  # an artist who is a number
        b"Exif\0\0no table of tags",
    ],
)
def test_damaged_exif_data_do_not_stop_a_picture(block, file_format):
    image = Image.linear_gradient("L").resize((13, 11)).convert("RGB")
    buffer, plain = io.BytesIO(), io.BytesIO()
    image.save(buffer, file_format, exif=block)
    image.save(plain, file_format)
    picture = read_picture(buffer.getvalue())
    assert picture.exif is None
    # Of a JPEG without a table Pillow drops them by itself.
    silent = file_format == "JPEG" and b"no table" in block
    assert picture.notes == (() if silent else ("damaged EXIF data dropped",))
    np.testing.assert_array_equal(picture.colour, read_picture(plain.getvalue()).colour)


def test_a_picture_with_damaged_exif_data_is_still_turned():
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)  # turned to the right
    entries += struct.pack("<HHIf", 0x013B, 11, 1, 1)  # an artist who is a number
    pixels = np.arange(11 * 13 * 3, dtype=np.uint16).reshape(11, 13, 3).astype(np.uint8)
    buffer = io.BytesIO()
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    Image.fromarray(pixels).save(buffer, "PNG", exif=block)
    np.testing.assert_array_equal(read_picture(buffer.getvalue()).colour, np.rot90(pixels, -1))
