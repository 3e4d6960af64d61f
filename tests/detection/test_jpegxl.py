"""JPEG XL's headers, against what libjxl decodes."""

from __future__ import annotations

import numpy as np
import pytest

from ucip_adapt.detection.bits import MalformedError
from ucip_adapt.detection.jpegxl import header_of, is_jpegxl, is_xyb

imagecodecs = pytest.importorskip("imagecodecs")

# Heights of each field that a size may be in; widths by each of the seven ratios, and by none.
HEIGHTS = (1, 7, 8, 30, 250, 256, 257, 520)
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
SIZES = {(h, w) for h in HEIGHTS for w in (1, 200, *(h * a // b for a, b in RATIOS)) if w}


@pytest.mark.parametrize("boxes", [False, True])
def test_the_size_is_that_of_the_decoded_pixels(boxes: bool) -> None:
    assert len(SIZES) > 50
    for height, width in sorted({*SIZES, (9000, 3), (3, 9000)}):
        pixels = np.zeros((height, width, 3), np.uint8)
        data = bytes(imagecodecs.jpegxl_encode(pixels, effort=1, usecontainer=boxes))
        found = header_of(data)
        assert (found.height, found.width) == (height, width)
        assert not found.is_animated
        assert is_jpegxl(data)


def test_a_film_is_told_from_a_still_picture() -> None:
    film = bytes(imagecodecs.jpegxl_encode(np.zeros((3, 30, 50, 3), np.uint8)))
    assert imagecodecs.jpegxl_decode(film).shape[0] == 3
    found = header_of(film)
    assert (found.height, found.width, found.is_animated) == (30, 50, True)


def test_a_codestream_in_parts_is_put_together() -> None:
    pixels = np.full((300, 200, 3), 90, np.uint8)
    bare = bytes(imagecodecs.jpegxl_encode(pixels, distance=1.0))
    head = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "
    parts = [bare[:3], bare[3:4], bare[4:6], bare[6:]]
    boxes = [
        (number | (0x8000_0000 if number == len(parts) - 1 else 0)).to_bytes(4, "big") + part
        for number, part in enumerate(parts)
    ]
    whole = head + b"".join((8 + len(box)).to_bytes(4, "big") + b"jxlp" + box for box in boxes)
    assert imagecodecs.jpegxl_decode(whole).shape == pixels.shape
    found = header_of(whole)
    assert (found.height, found.width) == (300, 200)
    assert is_xyb(whole)
    # The last box may leave its size open.
    last = 8 + len(boxes[-1])
    opened = whole[:-last] + bytes(4) + whole[-last + 4 :]
    assert imagecodecs.jpegxl_decode(opened).shape == pixels.shape
    assert header_of(opened) == found


def test_what_has_no_header_is_malformed() -> None:
    bare = bytes(imagecodecs.jpegxl_encode(np.zeros((300, 200, 3), np.uint8)))
    boxed = bytes(imagecodecs.jpegxl_encode(np.zeros((300, 200, 3), np.uint8), usecontainer=True))
    for data in (b"", bare[:2], bare[:4], boxed[:12], boxed[:40], boxed[:12] + bytes(40)):
        with pytest.raises(MalformedError):
            header_of(data)
