"""TIFF, whose tags Pillow calls EXIF, and pictures that are deeper than Pillow says."""

import io
import pickle
import struct

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import ExifTags, Image, ImageOps

from ucip_adapt.errors import DataError
from ucip_adapt.imaging import FORMATS, Picture, encode_picture, read_picture
from ucip_adapt.upscaler import load

CAMERA = {36867: "2020:01:02 03:04:05", 33434: (1, 100)}
PLACE = {1: "N", 2: (1.0, 2.0, 3.0)}
DEEP = np.random.default_rng(5).integers(0, 2**16, (11, 13, 3), np.uint16)
PIXELS = (DEEP >> 8).astype(np.uint8)


def saved(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif_of_a_camera(**more):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "maker"
    exif[ExifTags.IFD.Exif], exif[ExifTags.IFD.GPSInfo] = CAMERA, PLACE
    for name, value in more.items():
        exif[ExifTags.Base[name]] = value
    return exif


def check(data, size, *, camera):
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.size == size
        exif = image.getexif()
        assert exif[ExifTags.Base.Make] == "maker"
        if camera:
            assert dict(exif.get_ifd(ExifTags.IFD.Exif)) == CAMERA
            assert dict(exif.get_ifd(ExifTags.IFD.GPSInfo)) == PLACE
        return np.array(image)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_tags_of_a_tiff_do_not_describe_the_result(compression, file_format):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "maker"
    source = saved(Image.fromarray(PIXELS), "TIFF", compression=compression, exif=exif)
    picture = read_picture(source)
    assert dict(Image.open(io.BytesIO(source)).getexif()).keys() > {256, 257, 258, 273}
    larger = Picture(picture.colour.repeat(4, 0).repeat(4, 1), None, None, picture.exif)
    pixels = check(encode_picture(larger, file_format), (52, 44), camera=False)
    if file_format != "jpeg":
        np.testing.assert_array_equal(pixels, larger.colour)
    again = Image.Exif()
    again.load(picture.exif)
    assert dict(again) == {ExifTags.Base.Make: "maker"}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("source_format", ["JPEG", "TIFF"])
def test_camera_and_place_are_kept(file_format, source_format):
    more = {"ImageWidth": 13} if source_format == "JPEG" else {}
    exif = exif_of_a_camera(**more)
    picture = read_picture(saved(Image.fromarray(PIXELS), source_format, exif=exif.tobytes()))
    larger = Picture(picture.colour.repeat(4, 0).repeat(4, 1), None, None, picture.exif)
    check(encode_picture(larger, file_format), (52, 44), camera=True)


def with_orientation(data, orientation):
    """The only table of a little-endian TIFF, moved to the end with one entry more."""
    assert data[:4] == b"II*\0"
    [start] = struct.unpack_from("<I", data, 4)
    [count] = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * i :][:12] for i in range(count)]
    entries.append(struct.pack("<HHIHH", 274, 3, 1, orientation, 0))
    entries.sort(key=lambda entry: struct.unpack_from("<H", entry)[0])
    table = struct.pack("<H", count + 1) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + table


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["8-bit", "8-bit packed", "16-bit grey", "16-bit colour"])
def test_a_turned_tiff_is_turned_once(orientation, kind):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if kind == "16-bit colour":
        source = with_orientation(bytes(imagecodecs.tiff_encode(DEEP)), orientation)
    else:
        pixels = DEEP[..., 0] if kind == "16-bit grey" else PIXELS
        packed = {"compression": "tiff_lzw"} if kind == "8-bit packed" else {}
        source = saved(Image.fromarray(pixels), "TIFF", exif=exif, **packed)
    upright = Image.fromarray(PIXELS)
    upright.getexif()[ExifTags.Base.Orientation] = orientation
    wanted = np.array(ImageOps.exif_transpose(upright))
    found = read_picture(source).colour
    found = found if found.dtype == np.uint8 else (found >> 8).astype(np.uint8)
    np.testing.assert_array_equal(found, wanted[..., : found.shape[2]])


def test_a_tiff_of_one_channel_after_the_other_keeps_its_depth():
    planes = np.moveaxis(DEEP, -1, 0)
    data = imagecodecs.tiff_encode(planes, photometric="rgb", planarconfig="separate")
    picture = read_picture(bytes(data))
    np.testing.assert_array_equal(picture.colour, DEEP)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_0_is_white_the_picture_is_no_negative(dtype):
    grey = DEEP[..., 0] if dtype == np.uint16 else PIXELS[..., 0]
    data = bytes(imagecodecs.tiff_encode(grey, photometric="miniswhite"))
    np.testing.assert_array_equal(read_picture(data).colour[..., 0], np.iinfo(dtype).max - grey)


def test_depth_that_is_lost_is_said():
    picture = read_picture(b"P6\n13 11\n65535\n" + DEEP.astype(">u2").tobytes())
    assert picture.notes == ("more than 8 bits per channel of PPM cut down to 8",)
    assert np.abs(picture.colour.astype(int) - (DEEP >> 8)).max() <= 1
    assert read_picture(b"P6\n13 11\n255\n" + PIXELS.tobytes()).notes == ()
    with pytest.raises(DataError, match="32 bits"):
        read_picture(bytes(imagecodecs.tiff_encode(DEEP.astype(np.float32)[..., 0])))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("codecformat", ["jp2", "j2k"])
def test_deep_jpeg_2000_keeps_its_depth(bits, codecformat):
    stored = DEEP >> (16 - bits)
    stored = stored.astype(np.uint8) if bits == 8 else stored
    data = imagecodecs.jpeg2k_encode(
        stored, bitspersample=bits, codecformat=codecformat, level=0, reversible=True
    )
    picture = read_picture(bytes(data))
    assert picture.notes == ()
    if bits == 8:
        np.testing.assert_array_equal(picture.colour, stored)
    else:
        assert picture.colour.dtype == np.uint16
        wanted = stored * (65535 / (2**bits - 1))
        np.testing.assert_allclose(picture.colour, wanted, rtol=0, atol=0.51)


def test_inks_of_16_bits_are_no_transparency():
    inks = np.random.default_rng(2).integers(0, 2**16, (11, 13, 4), np.uint16)
    data = bytes(imagecodecs.tiff_encode(inks, photometric="separated"))
    picture = read_picture(data)
    assert picture.mode == "RGB"
    assert "CMYK converted to RGB" in picture.notes


# Pillow does not open 16-bit grey with alpha.
@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 2), (np.uint8, 4), (np.uint16, 4)])
def test_colours_that_were_multiplied_by_alpha_are_divided(dtype, channels):
    unit = np.iinfo(dtype).max // 255
    planes = np.full((6, 7, channels), 100 * unit, dtype)
    planes[..., -1] = 128 * unit
    planes[:3] = 0  # transparent
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        planes,
        extrasamples=["assocalpha"],
        photometric="rgb" if channels == 4 else "minisblack",
        planarconfig="contig",
    )
    picture = read_picture(buffer.getvalue())
    assert picture.colour.dtype == dtype
    assert (picture.alpha == planes[..., -1]).all()
    assert (picture.colour[:3] == 0).all()
    wanted = 100 / 128 * 255 * unit
    assert np.abs(picture.colour[3:].astype(float) - wanted).max() <= max(unit / 255, 1)


def tiff_of_12_bits(levels, photometric):
    """Grey, two levels in three bytes: a TIFF that Pillow cannot write."""
    pairs = levels.reshape(-1, 2).astype(np.uint32)
    packed = b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs)
    height, width = levels.shape
    head = 8 + 2 + 12 * 8 + 4
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: photometric, 273: head, 278: height}
    tags[279] = len(packed)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed


def test_grey_of_12_bits_fills_the_range_of_16():
    levels = np.concatenate([[0, 4095, 1, 4094, 2048, 2047], DEEP[..., 0].ravel()[:114] >> 4])
    levels = levels.reshape(10, 12)
    data = tiff_of_12_bits(levels, photometric=1)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), levels)
    picture = read_picture(data)
    assert (picture.mode, picture.notes) == ("L;16", ())
    np.testing.assert_allclose(picture.colour[..., 0], levels * (65535 / 4095), rtol=0, atol=0.51)
    assert picture.colour.max() == 65535


@pytest.mark.parametrize("kind", ["12 bits", "0 is white"])
def test_an_opened_tiff_is_enlarged_as_its_file_is(kind):
    grey = DEEP[:10, :12, 0].copy()
    if kind == "12 bits":
        data = tiff_of_12_bits(grey >> 4, photometric=1)
    else:
        data = bytes(imagecodecs.tiff_encode(grey, photometric="miniswhite"))
    model = load()
    enlarged = model.upscale(Image.open(io.BytesIO(data)))
    wanted = model.upscale_file(data).colour[..., 0]
    assert enlarged.mode == "I;16"
    np.testing.assert_array_equal(np.array(enlarged), wanted)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_an_opened_tiff_that_is_stored_lying_is_made_upright(mode, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored = DEEP[..., 0] if mode == "I;16" else np.array(Image.fromarray(PIXELS).convert(mode))
    Image.fromarray(stored).save(path := tmp_path / "image.tif", exif=exif)
    model = load()
    with Image.open(path) as image:
        enlarged = model.upscale(image)
        assert image.filename == str(path)
    wanted = model.upscale_file(path)
    planes = wanted.colour if wanted.alpha is None else np.dstack([wanted.colour, wanted.alpha])
    np.testing.assert_array_equal(np.atleast_3d(np.array(enlarged)), planes)


def test_a_copy_of_an_opened_tiff_has_no_tags():
    """As one has that went to another process."""
    data = saved(Image.fromarray(DEEP[..., 0]), "TIFF")
    model = load()
    copied = pickle.loads(pickle.dumps(Image.open(io.BytesIO(data))))  # noqa: S301 - our own
    wanted = np.array(model.upscale(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(np.array(model.upscale(copied)), wanted)


@pytest.mark.parametrize("largest", [65535, 4095, 1023, 300])
def test_grey_pgm_of_16_bits_is_read(largest):
    levels = (DEEP[..., 0].astype(np.uint32) * largest // 65535).astype(">u2")
    levels[0, :2] = 0, largest
    picture = read_picture(b"P5\n13 11\n%d\n" % largest + levels.tobytes())
    assert (picture.mode, picture.notes) == ("L;16", ())
    wanted = levels * (65535 / largest)
    np.testing.assert_allclose(picture.colour[..., 0], wanted, rtol=0, atol=1)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_depth_that_avif_loses_is_said(bits):
    stored = DEEP >> (16 - bits)
    data = bytes(
        imagecodecs.avif_encode(
            stored.astype(np.uint8) if bits == 8 else stored, bitspersample=bits, level=100
        )
    )
    assert imagecodecs.avif_decode(data).dtype == (np.uint8 if bits == 8 else np.uint16)
    picture = read_picture(data)
    lost = ("more than 8 bits per channel of AVIF cut down to 8",)
    assert picture.notes == (() if bits == 8 else lost)
    assert np.abs(picture.colour.astype(int) - (DEEP >> 8)).max() <= 4


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_depth_that_heic_loses_is_said(bits, monkeypatch):
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    kind, pixels = ("RGB", PIXELS) if bits == 8 else ("RGB;16", DEEP)
    buffer = io.BytesIO()
    pillow_heif.from_bytes(kind, (13, 11), pixels.tobytes()).save(buffer, quality=90)
    assert pillow_heif.open_heif(buffer).info["bit_depth"] == bits
    lost = ("more than 8 bits per channel of HEIC cut down to 8",)
    assert read_picture(buffer.getvalue()).notes == (() if bits == 8 else lost)
