"""Reading images: every pixel format is read right or refused by name, and so is every bad file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from ucip_adapt.data import list_images, read_rgb
from ucip_adapt.data.images import image_names, match_by_stem, save_png
from ucip_adapt.errors import DataError

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


def png_of_16_bits(colour_type: int, channels: int) -> bytes:
    """A PNG that Pillow cannot write: 16 bits per channel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    pixels = np.full((4, 5 * channels), 40000, ">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", 5, 4, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif", ".TIFF", ".PNG"])
def test_lossless_files_give_their_pixels(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(rgb).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    read = read_rgb(path)
    np.testing.assert_array_equal(read, rgb)
    assert read.dtype == np.uint8
    assert list_images(tmp_path) == [path]


def test_grey_is_repeated_over_the_channels(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), rgb[..., :1].repeat(3, axis=2))


def test_one_bit_is_black_and_white(tmp_path: Path, rgb: np.ndarray) -> None:
    bits = rgb[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "bits.png")[..., 1], bits * np.uint8(255))


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 0, 1, 2, 3])
    image.putdata([2, 0, 1])
    image.save(tmp_path / "palette.png")
    assert read_rgb(tmp_path / "palette.png").tolist() == [[[1, 2, 3], [10, 20, 30], [200, 100, 0]]]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 0, 0)).save(tmp_path / "magenta.tif")
    assert read_rgb(tmp_path / "magenta.tif")[0, 0].tolist() == [255, 0, 255]


def test_a_camera_note_of_orientation_is_applied(tmp_path: Path, rgb: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    Image.fromarray(rgb).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "turned.png"), np.rot90(rgb, -1))


def test_opaque_alpha_is_dropped(tmp_path: Path, rgb: np.ndarray) -> None:
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "opaque.png"), rgb)


def test_transparent_pixels_are_refused(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[3, 4] = 254
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "alpha.png")
    palette = Image.fromarray(rgb).convert("P")
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    for name in ("alpha.png", "palette.png"):
        with pytest.raises(DataError, match=f"{name}: has transparent pixels; flatten"):
            read_rgb(tmp_path / name)


@pytest.mark.parametrize(
    ("colour_type", "channels"), [(GREY, 1), (COLOUR, 3), (GREY_ALPHA, 2), (COLOUR_ALPHA, 4)]
)
def test_16_bits_are_refused_rather_than_cut_down(
    tmp_path: Path, colour_type: int, channels: int
) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png_of_16_bits(colour_type, channels))
    with pytest.raises(DataError, match=r"deep\.png: 16 bits per channel; convert .* 8-bit RGB"):
        read_rgb(path)


def test_16_bits_in_planes_are_refused_too(tmp_path: Path, rgb: np.ndarray) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    planes = np.ascontiguousarray(np.moveaxis(rgb, -1, 0))
    for name, values in (("uint8", planes), ("uint16", planes.astype(np.uint16) * 257)):
        data = imagecodecs.tiff_encode(values, photometric="rgb", planarconfig="separate")
        (tmp_path / f"{name}.tif").write_bytes(data)
    with pytest.raises(DataError, match=r"uint16\.tif: 16 bits per channel"):
        read_rgb(tmp_path / "uint16.tif")
    np.testing.assert_array_equal(read_rgb(tmp_path / "uint8.tif"), rgb)


@pytest.mark.parametrize("largest", [300, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_deep_ppm_is_refused_rather_than_cut_down(
    tmp_path: Path, channels: int, largest: int
) -> None:
    path = tmp_path / "deep.png"  # the content counts, not the name
    path.write_bytes(b"P%d\n2 2\n%d\n" % (5 + channels // 3, largest) + bytes(8 * channels))
    with pytest.raises(DataError, match=r"deep\.png: .*convert the image to 8-bit RGB"):
        read_rgb(path)
    path.write_bytes(b"P%d\n2 2\n255\n" % (5 + channels // 3) + bytes(4 * channels))
    assert read_rgb(path).shape == (2, 2, 3)


@pytest.mark.parametrize(("codec", "suffix"), [("avif", ".avif"), ("jpeg2k", ".jp2")])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_depth_that_only_the_content_tells_is_refused(
    tmp_path: Path, photo: np.ndarray, codec: str, suffix: str, bits: int
) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    encode = getattr(imagecodecs, f"{codec}_encode")
    pixels = photo if bits == 8 else photo.astype(np.uint16) << (bits - 8)
    path = tmp_path / f"image{suffix}"
    path.write_bytes(encode(pixels, bitspersample=bits))
    if bits == 8:
        assert read_rgb(path).shape == photo.shape
    else:
        with pytest.raises(DataError, match=f"image\\{suffix}: {bits} bits per channel; convert"):
            read_rgb(path)


def test_the_16_bits_of_a_pixel_of_bmp_are_no_depth(tmp_path: Path) -> None:
    """Bit fields of 5, 6 and 5: a BMP that Pillow cannot write."""
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    pixels = struct.pack("<HHHH", 0xF800, 0x07E0, 0x001F, 0xFFFF)
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    offset = 14 + len(header) + len(masks)
    start = struct.pack("<2sIHHI", b"BM", offset + len(pixels), 0, 0, offset)
    (tmp_path / "565.bmp").write_bytes(start + header + masks + pixels)
    colours = read_rgb(tmp_path / "565.bmp")[::-1].reshape(4, 3)  # from the lowest line up
    assert colours.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_that_is_stored_lying_is_made_upright(
    tmp_path: Path, rgb: np.ndarray, mode: str, orientation: int
) -> None:
    """Pillow maps uncompressed ones into memory, and some of those are scrambled."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = Image.fromarray(rgb).convert(mode)
    image.save(tmp_path / "image.tif", exif=exif)
    image.convert("RGB").save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(
        read_rgb(tmp_path / "image.tif"), read_rgb(tmp_path / "image.png")
    )


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.new("F", (8, 8), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float\.tif: pixels of mode 'F'; convert"):
        read_rgb(tmp_path / "float.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_truncated_file_is_named(tmp_path: Path, photo: np.ndarray, suffix: str) -> None:
    whole = io.BytesIO()
    Image.fromarray(photo).save(whole, Image.registered_extensions()[suffix])
    path = tmp_path / f"half{suffix}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(DataError, match=f"cannot read image .*half{suffix}: ."):
        read_rgb(path)


def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, rgb: np.ndarray) -> None:
    """Pillow raises SyntaxError, for one, on a broken chunk of a PNG."""
    whole = io.BytesIO()
    Image.fromarray(rgb).save(whole, "PNG")
    path, failures = tmp_path / "damaged.png", 0
    for position in range(8, len(whole.getvalue())):
        damaged = bytearray(whole.getvalue())
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        try:
            read_rgb(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017 - reading what is left is fine as well
            failures += 1
    assert failures > 100


def test_an_empty_file_and_a_text_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("this is no image")
    with pytest.raises(DataError, match=r"cannot read image .*empty\.png: the file is empty"):
        read_rgb(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"cannot read image .*text\.png: no picture format"):
        read_rgb(tmp_path / "text.png")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read image .*gone\.png: .*No such file"):
        read_rgb(tmp_path / "gone.png")


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder '.*nowhere'"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"no images in '.*' \(looked for \.png, \.jpg"):
        list_images(tmp_path)


def test_images_are_listed_in_one_order_on_every_system(tmp_path: Path) -> None:
    names = ["B.png", "a.webp", "a/2.png", "a/10.jpg", "a b/1.tif", "z.JPEG"]
    for name in [*names, "._B.png", "a/.hidden.png", "readme.md"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert listed == sorted(names)


def test_a_name_that_is_no_text_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """Names go into checksums and reports, where it would fail after the work."""
    Path(tmp_path, "a.png").touch()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/photo-\xe9.png")).touch()
    except OSError:
        pytest.skip("this file system takes text only")
    with pytest.raises(
        DataError, match=r"the name of 'photo-\\udce9\.png' in .* is no text; rename it"
    ):
        list_images(tmp_path)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "set" / "here").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set" / "here" / "1.png").touch()
    (tmp_path / "elsewhere" / "2.png").touch()
    (tmp_path / "set" / "there").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "set")
    for name in ("also", "zz"):  # the folder's own name counts, then the first link
        (tmp_path / "set" / name).symlink_to(tmp_path / "set" / "here")
        (tmp_path / "set" / f"there{name}").symlink_to(tmp_path / "elsewhere")
    listed = [
        path.relative_to(tmp_path / "set").as_posix() for path in list_images(tmp_path / "set")
    ]
    assert listed == ["here/1.png", "there/2.png"] == image_names(tmp_path / "set")


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "1.png").touch()
    scandir = os.scandir

    def refuse(path: str):
        if str(path).rstrip("/").endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for look in (list_images, image_names):
        with pytest.raises(DataError, match=r"cannot list the images of .*Permission denied"):
            look(tmp_path)


def test_partners_are_found_by_name_without_suffix() -> None:
    first = [Path("hr/b.webp"), Path("hr/a.webp")]
    second = [Path("lr/a.png"), Path("lr/b.png"), Path("lr/c.png")]
    assert match_by_stem(first, second) == [(first[0], second[1]), (first[1], second[0])]
    with pytest.raises(DataError, match=r"1 images have no partner .*: b\.webp"):
        match_by_stem(first, second[:1])
    with pytest.raises(DataError, match=r"a\.png and .*a\.jpg have the same name"):
        match_by_stem(first, [*second, Path("lr/a.jpg")])


def test_a_picture_is_written_whole_or_not_at_all(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.png"
    save_png(path, rgb)
    np.testing.assert_array_equal(read_rgb(path), rgb)
    before = path.read_bytes()

    def full(self: Image.Image, file: Path, _format: str) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DataError, match=r"cannot write image .*out\.png: .*No space left"):
        save_png(path, rgb)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
