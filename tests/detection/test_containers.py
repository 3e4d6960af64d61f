"""Codec and quality by the file itself: against the encoders' own knobs, and on damaged files."""

import io

import numpy as np
import pytest
from PIL import Image

from ucip_adapt.codecs import get_codec
from ucip_adapt.data import load_eval_set
from ucip_adapt.detection import Detection, detect_codec
from ucip_adapt.detection.av1 import QUANTISERS as AV1_QUANTISERS
from ucip_adapt.detection.av1 import base_quantiser
from ucip_adapt.detection.bits import BitReader, MalformedError, number
from ucip_adapt.detection.heif import bits_per_channel, coded_picture
from ucip_adapt.detection.webp import QUANTISERS, quality_of


@pytest.fixture(scope="module")
def pictures():
    return [image.lr for image in load_eval_set("GB82-val", limit=3).images]


def saved(image, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(image):
    alpha = np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2]) % 251
    return np.dstack([image, alpha.astype(np.uint8)])


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_quality_is_what_the_encoder_was_asked_for(kind, pictures):
    image = pictures[0]
    for quality in (3, 10, 27, 40, 63, 80, 93):
        found = detect_codec(saved(image, kind, quality=quality))
        assert found.codec == kind.lower()
        # The table repeats itself: some neighbours are one and the same setting.
        assert abs(found.quality - quality) <= {"JPEG": 0, "WEBP": 2, "AVIF": 2}[kind]
        assert str(found.quality) in found.reason


def test_jpeg_tables_of_other_encoders_are_placed_nearby(pictures):
    tables = [[max(1, step + 1) for step in range(64)]]
    found = detect_codec(saved(pictures[0], "JPEG", qtables=tables))
    assert "nearest to" in found.reason
    assert detect_codec(b"\xff\xd8\xff\xda\x00\x02").quality is None
    progressive = saved(pictures[0], "JPEG", quality=37, progressive=True, optimize=True)
    assert detect_codec(progressive).quality == 37


def test_tables_of_webp_and_avif_are_those_of_the_encoders():
    # A flat picture has one segment, whose quantiser is exactly the quality's.
    flat = np.full((16, 16, 3), 90, np.uint8)
    for quality in range(0, 101, 5):
        webp = quality_of(saved(flat, "WEBP", quality=quality))
        assert QUANTISERS[webp] == QUANTISERS[quality]
        stream = coded_picture(saved(flat, "AVIF", quality=quality, speed=10)).data
        assert base_quantiser(stream) == AV1_QUANTISERS[quality]


def test_segments_of_webp_are_weighed(pictures):
    """A frame whose base index alone is read is far off: segments move it by up to 20."""
    errors = [
        abs(quality_of(saved(image, "WEBP", quality=quality, method=method)) - quality)
        for image in pictures
        for quality in (10, 25, 40, 70)
        for method in (0, 4, 6)
    ]
    assert max(errors) <= 3
    assert np.mean(errors) < 1


def test_a_films_first_frame_and_alpha_are_looked_through(pictures):
    still, film = with_alpha(pictures[0]), [Image.fromarray(pictures[1])]
    for options in ({}, {"save_all": True, "append_images": film}):
        lossy = saved(still, "WEBP", quality=30, **options)
        assert (detect_codec(lossy).codec, abs(detect_codec(lossy).quality - 30) <= 2) == (
            "webp",
            True,
        )
        lossless = saved(still, "WEBP", lossless=True, **options)
        assert detect_codec(lossless).reason == "lossless WebP container"
    assert abs(detect_codec(saved(still, "AVIF", quality=50)).quality - 50) <= 1


def test_av1_of_another_encoder(pictures):
    """Full headers, unlike those of still pictures, and tiles; x4 is the standard's own table."""
    av = pytest.importorskip("av")
    image = np.tile(pictures[0][:128, :128], (2, 2, 1))
    for level in (10, 30, 50):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="obu") as container:
            stream = container.add_stream("libsvtav1", rate=1)
            stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
            stream.options = {"qp": str(level), "preset": "10"}
            stream.options |= {"svtav1-params": "tile-columns=1:keyint=1:lp=1"}
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        assert base_quantiser(buffer.getvalue()) == 4 * level


def test_what_lost_nothing_has_no_codec(pictures):
    image = pictures[0]
    imagecodecs = pytest.importorskip("imagecodecs")
    jpeg = saved(image, "JPEG", quality=30)
    whole = {
        "png": saved(image, "PNG"),
        "webp": saved(image, "WEBP", lossless=True),
        "avif": saved(image, "AVIF", quality=100, subsampling="4:4:4"),
        "jpeg2000": saved(image, "JPEG2000"),
        "jpegxl": imagecodecs.jpegxl_encode(image, lossless=True),
        "jpegxl rgba": imagecodecs.jpegxl_encode(with_alpha(image), lossless=True),
        "jpegxl of a jpeg": imagecodecs.jpegxl_encode_jpeg(jpeg),
    }
    assert {name: detect_codec(bytes(data)).codec for name, data in whole.items()} == dict.fromkeys(
        whole
    )


def test_every_lossy_container_is_named(pictures):
    for name in ("jpeg", "webp", "avif", "jpeg2000", "jpegxl", "heic", "gif"):
        codec = get_codec(name)
        if not codec.available().ok:
            continue
        for quality in codec.spec.qualities:
            found = detect_codec(codec.roundtrip(pictures[0], quality).stream)
            assert (found.codec, found.confidence) == (name, 1)
            if name == "gif":
                assert found.quality == quality, "a power of two, as palettes are"
    imagecodecs = pytest.importorskip("imagecodecs")
    rgba = with_alpha(pictures[0])
    boxed = imagecodecs.jpegxl_encode(rgba, distance=4.0, usecontainer=True)
    assert detect_codec(bytes(boxed)).codec == "jpegxl"


def test_damaged_files_are_never_more_than_unknown(pictures):
    """Seeded: bytes changed, cut off, removed, repeated, and sizes set to the largest there are."""
    small = pictures[0][:40, :48]
    files = [
        saved(small, "JPEG", quality=30),
        saved(with_alpha(small), "WEBP", quality=20),
        saved(small, "WEBP", quality=20, save_all=True, append_images=[Image.fromarray(small)]),
        saved(small, "AVIF", quality=30),
        saved(small, "JPEG2000", irreversible=True),
        saved(small, "GIF"),
    ]
    for name in ("heic", "jpegxl"):
        codec = get_codec(name)
        if codec.available().ok:
            files.append(codec.roundtrip(small, codec.spec.qualities[0]).stream)
    random = np.random.default_rng(0)
    codecs = {None, "jpeg", "webp", "avif", "jpeg2000", "heic", "jpegxl", "gif"}
    unlike = 0
    for data in files:
        sound = detect_codec(data)
        for _ in range(100):
            found = detect_codec(mutated(data, random))
            assert isinstance(found, Detection)
            assert found.codec in codecs
            assert found.quality is None or 0 <= found.quality <= (
                256 if found.codec == "gif" else 100
            )
            assert found.confidence == float(found.codec is not None)
            unlike += found != sound
    assert unlike > len(files) * 10, "the mutations have to reach what is read"
    for end in range(300):
        for data in files:
            detect_codec(data[:end])


def mutated(data, random):
    changed = bytearray(data)
    # Headers are what is read, so most of the damage goes there.
    reach = min(len(data), 400)
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(0, reach))
        kind = random.integers(0, 5)
        if kind == 0:
            changed[at : at + 1] = random.bytes(1)
        elif kind == 1:
            changed[at : at + 4] = b"\xff\xff\xff\xff"
        elif kind == 2:
            changed[at : at + 4] = bytes(4)
        elif kind == 3:
            del changed[at : at + int(random.integers(1, 9))]
        else:
            changed[at:at] = changed[at : at + 16]
    return bytes(changed[: int(random.integers(len(changed) // 2, len(changed) + 1))])


def test_nothing_is_read_past_the_end():
    assert number(b"abc", 1, 2) == 0x6263
    for offset, size in ((2, 2), (3, 1), (-1, 1)):
        with pytest.raises(MalformedError, match="ends too early"):
            number(b"abc", offset, size)
    with pytest.raises(MalformedError, match="ends too early"):
        BitReader(b"a").bits(9)


def test_a_jpeg_table_that_ends_within_a_number():
    for length in range(12, 30):
        cut = b"\xff\xd8\xff\xdb" + length.to_bytes(2, "big") + b"\x10" + bytes(length - 3)
        assert detect_codec(cut).quality is None


def test_boxes_that_lead_nowhere_are_refused():
    sound = saved(np.full((16, 16, 3), 90, np.uint8), "AVIF", quality=30)
    assert coded_picture(sound).kind == b"av01"
    for name in (b"meta", b"pitm", b"iloc", b"iinf", b"av01"):
        with pytest.raises(MalformedError):
            coded_picture(sound.replace(name, b"free", 1))
    # A box that holds itself, sizes of 0 and 1, and a thousand empty boxes all come to an end.
    head = sound[: int.from_bytes(sound[:4], "big")]
    for tail in (b"\0\0\0\0meta", b"\0\0\0\1meta" + bytes(8), b"\0\0\0\x08free" * 1000):
        assert detect_codec(head + tail).codec == "avif"
        assert detect_codec(head + tail).quality is None


def test_the_depth_is_that_of_the_picture_not_of_its_alpha_or_preview():
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    deep = np.random.default_rng(0).integers(0, 2**16, (48, 64, 4), np.uint16)
    file = pillow_heif.from_bytes("RGBA;16", (64, 48), deep.tobytes())
    file.add_from_pillow(Image.new("RGB", (64, 48)))
    for primary, bits in ((0, 10), (1, 8)):
        buffer = io.BytesIO()
        file.save(buffer, quality=90, primary_index=primary)
        assert pillow_heif.open_heif(buffer).info["bit_depth"] == bits
        assert bits_per_channel(buffer.getvalue()) == bits


def test_depth_of_damaged_boxes_is_malformed_or_a_number():
    sound = saved(np.full((16, 16, 3), 90, np.uint8), "AVIF", quality=30)
    assert bits_per_channel(sound) == 8
    assert bits_per_channel(sound.replace(b"iprp", b"free", 1)) == 8
    random, outcomes = np.random.default_rng(1), set()
    for _ in range(300):
        try:
            outcomes.add(bits_per_channel(mutated(sound, random)))
        except MalformedError:
            outcomes.add(0)
    assert {0, 8} <= outcomes
    with pytest.raises(MalformedError, match="no meta box"):
        bits_per_channel(b"")
