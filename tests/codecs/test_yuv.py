"""The colour path of the video codecs, against loops, stated figures and true streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ucip_adapt.codecs.yuv import Planes, padded_size, planes_of, to_planes, to_rgb
from ucip_adapt.data import read_rgb
from ucip_adapt.errors import CodecError


def psnr_db(preds: np.ndarray, target: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((preds.astype(float) - target) ** 2)))


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("size", [(18, 16), (5, 23), (1, 1)], ids=str)
def test_planes_are_what_a_slow_loop_gives(bits: int, size: tuple[int, int]) -> None:
    height, width = size
    rgb = np.random.default_rng(bits).integers(0, 256, (height, width, 3), dtype=np.uint8)
    planes = to_planes(rgb, bits=bits)
    tall, wide = max(16, height + height % 2), max(16, width + width % 2)
    scale = 2 ** (bits - 8)

    def yuv(row: int, column: int) -> tuple[float, float, float]:
        red, green, blue = map(float, rgb[min(row, height - 1), min(column, width - 1)])
        y = 0.299 * red + 0.587 * green + 0.114 * blue
        return y, (blue - y) / 1.772 + 128, (red - y) / 1.402 + 128

    assert planes.y.shape == (tall, wide)
    assert planes.y.dtype == (np.uint8 if bits == 8 else np.uint16)
    for row in range(tall):
        for column in range(wide):
            assert planes.y[row, column] == round(scale * yuv(row, column)[0])
    for row in range(tall // 2):
        for column in range(wide // 2):
            block = [yuv(2 * row + i, 2 * column + j) for i in (0, 1) for j in (0, 1)]
            for plane, place in ((planes.cb, 1), (planes.cr, 2)):
                mean = sum(values[place] for values in block) / 4
                # 128 * scale + 1/2 is a tie that the last bit of a sum decides.
                assert abs(plane[row, column] - min(scale * mean, 2**bits - 1)) <= 0.5 + 1e-9


@pytest.mark.parametrize("bits", [8, 10])
def test_a_view_of_a_picture_has_the_planes_of_its_copy(bits: int) -> None:
    """Ties of rounding fall with the order of additions, and that must not be the memory's."""
    # A few among 120,000 samples are ties that the order decides.
    rgb = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for view in (np.asfortranarray(rgb), rgb.transpose(1, 0, 2), rgb[::-1, ::-1]):
        expected, found = (
            to_planes(np.array(view, order="C"), bits=bits),
            to_planes(view, bits=bits),
        )
        for one, other in ((found.y, expected.y), (found.cb, expected.cb), (found.cr, expected.cr)):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("bits", [8, 10])
def test_pixels_are_what_a_slow_loop_gives(bits: int) -> None:
    random = np.random.default_rng(bits)
    y = random.integers(0, 2**bits, (16, 20))
    cb, cr = random.integers(0, 2**bits, (2, 8, 10))
    rgb = to_rgb(Planes(y, cb, cr, bits), 15, 19)
    scale = 2 ** (bits - 8)

    def chroma(plane: np.ndarray, row: int, column: int) -> float:
        """Bilinear: sample k sits at 2 k + 1/2."""
        total = 0.0
        for i in range(-1, 9):
            for j in range(-1, 11):
                weight = max(0, 1 - abs(row - 2 * i - 0.5) / 2)
                weight *= max(0, 1 - abs(column - 2 * j - 0.5) / 2)
                total += weight * plane[min(max(i, 0), 7), min(max(j, 0), 9)] / scale
        return total - 128

    for row, column in [(0, 0), (0, 7), (14, 18), (9, 0), (6, 11), (7, 12)]:
        blue, red = chroma(cb, row, column), chroma(cr, row, column)
        luma = y[row, column] / scale
        levels = (
            luma + 1.402 * red,
            luma - 0.344136286 * blue - 0.714136286 * red,
            luma + 1.772 * blue,
        )
        expected = [min(max(round(level), 0), 255) for level in levels]
        assert rgb[row, column].tolist() == expected


def test_the_inverse_matrix_undoes_the_matrix() -> None:
    """Flat colours have no chroma detail to lose: only the rounding is left."""
    colours = np.array(
        [[r, g, b] for r in (0, 97, 255) for g in (0, 130, 255) for b in (0, 61, 255)]
    )
    for colour in colours.astype(np.uint8):
        flat = np.broadcast_to(colour, (16, 18, 3))
        assert np.abs(to_rgb(to_planes(flat, bits=8), 16, 18).astype(int) - flat).max() <= 1
        np.testing.assert_array_equal(to_rgb(to_planes(flat, bits=10), 16, 18), flat)


def test_sides_are_padded_to_even_ones_of_at_least_16() -> None:
    sizes = [(1, 1), (15, 17), (16, 16), (17, 240), (57, 86)]
    assert [padded_size(*size) for size in sizes] == [
        (16, 16),
        (16, 18),
        (16, 16),
        (18, 240),
        (58, 86),
    ]


def test_samples_are_stored_plane_by_plane_low_byte_first() -> None:
    ramp = np.arange(16 * 18 * 3, dtype=np.uint8).reshape(16, 18, 3)
    for bits, width in ((8, 1), (10, 2)):
        planes = to_planes(ramp, bits=bits)
        data = planes.tobytes()
        assert len(data) == width * 16 * 18 * 3 // 2
        read = np.frombuffer(data, np.uint8 if bits == 8 else "<u2")
        np.testing.assert_array_equal(read[: 16 * 18], planes.y.ravel())
        np.testing.assert_array_equal(read[16 * 18 : -8 * 9], planes.cb.ravel())
        np.testing.assert_array_equal(read[-8 * 9 :], planes.cr.ravel())
    stacked = to_planes(ramp, bits=8).stacked()
    assert stacked.shape == (24, 18)
    assert stacked.tobytes() == to_planes(ramp, bits=8).tobytes()


def test_lines_of_a_frame_are_read_without_their_padding() -> None:
    """FFmpeg aligns lines: those of an 18 pixel wide picture take 32 or 64 bytes."""
    av = pytest.importorskip("av")
    planes = to_planes(np.random.default_rng(0).integers(0, 256, (22, 18, 3), np.uint8), bits=8)
    frame = av.VideoFrame.from_ndarray(planes.stacked(), format="yuv420p")
    assert frame.planes[0].line_size > 18
    for found, expected in zip(planes_of(frame), planes, strict=True):
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(CodecError, match="decoded to rgb24; 4:2:0 of 8 or 10 bits was expected"):
        planes_of(av.VideoFrame(16, 16, "rgb24"))


@pytest.mark.parametrize(
    ("name", "bits", "rgb_db", "luma_db"),
    [
        ("Set5", 8, 36.13, 56.8),
        ("Set5", 10, 36.19, 60.3),
        ("BSD100", 8, 39.87, 57.2),
        ("BSD100", 10, 39.99, 61.2),
    ],
)
def test_the_path_alone_loses_what_the_notes_of_the_streams_say(
    data_root: Path, name: str, bits: int, rgb_db: float, luma_db: float
) -> None:
    weights = np.array([0.299, 0.587, 0.114])
    rgb, luma = [], []
    for path in sorted((data_root / name / "LRbicx4").glob("*.png")):
        lr = read_rgb(path)
        back = to_rgb(to_planes(lr, bits=bits), *lr.shape[:2])
        rgb.append(psnr_db(back, lr))
        luma.append(psnr_db(back @ weights, lr @ weights))
    assert np.mean(rgb) == pytest.approx(rgb_db, abs=0.006)
    assert np.mean(luma) == pytest.approx(luma_db, abs=0.06)
