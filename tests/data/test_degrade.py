"""Degradation: the paper's order, nothing made twice, and every mistake named."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ucip_adapt.codecs import CODECS, Availability
from ucip_adapt.codecs.pillow import WEBP
from ucip_adapt.data import (
    ArrayCache,
    PairedCrops,
    Setting,
    bicubic_down4,
    degrade,
    degrade_images,
    modcrop,
    parse_settings,
    read_rgb,
)
from ucip_adapt.data.degrade import compress_lr, require_codec
from ucip_adapt.errors import CodecError, ConfigError, DataError, UnknownNameError


class Counting:
    """Count the calls of functions, in a test that owns `monkeypatch`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        self.monkeypatch = monkeypatch

    def watch(self, owner: object, name: str) -> None:
        real = getattr(owner, name)

        def counted(*args: object, **options: object) -> object:
            self.calls[name] += 1
            return real(*args, **options)

        self.monkeypatch.setattr(owner, name, counted)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Counts decoding, reducing and WebP coding."""
    counting = Counting(monkeypatch)
    counting.watch(degrade, "read_rgb")
    counting.watch(degrade, "bicubic_down4")
    counting.watch(type(WEBP), "roundtrip")
    return counting


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_the_whole_reduced_image_is_compressed(cache, photo_files, codec: str) -> None:
    [path] = photo_files(1, height=99, width=113)
    setting = parse_settings(codec)[0]
    [image] = degrade_images([path], [setting], cache, edge="edge")
    truth = modcrop(read_rgb(path))
    whole = CODECS[codec].roundtrip(bicubic_down4(truth, edge="edge"), setting.quality).pixels
    np.testing.assert_array_equal(np.asarray(image.gt), truth)
    np.testing.assert_array_equal(np.asarray(image.lq[setting]), whole)
    assert (image.name, truth.shape, whole.shape) == ("photo0", (96, 112, 3), (24, 28, 3))


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_a_compressed_crop_is_another_degradation(cache, photo_files, codec: str) -> None:
    """Training crops are cut from the compressed image, not compressed themselves."""
    setting = parse_settings(codec)[0]
    images = degrade_images(photo_files(1), [setting], cache)
    whole = np.asarray(images[0].lq[setting])
    reduced = bicubic_down4(np.asarray(images[0].gt))
    other = CODECS[codec].roundtrip(reduced[3:19, 5:21], setting.quality).pixels
    assert not np.array_equal(other, whole[3:19, 5:21])

    windows = np.lib.stride_tricks.sliding_window_view(whole, (16, 16), axis=(0, 1))
    windows = windows.reshape(-1, 3, 16, 16)
    crops = PairedCrops(images, patch_size=16, seed=0)
    for index in range(8):
        crop = (crops[index]["lq"] * 255).round().byte().numpy()
        flips = [crop, crop[:, ::-1], crop[:, :, ::-1], crop[:, ::-1, ::-1]]
        assert any((windows == flip).all(axis=(1, 2, 3)).any() for flip in flips)


def test_nothing_is_decoded_or_compressed_twice(cache, photo_files, counting: Counting) -> None:
    paths, settings = photo_files(3), parse_settings("webp", (10, 40))
    degrade_images(paths, settings, cache)
    assert counting.calls == {"read_rgb": 3, "bicubic_down4": 3, "roundtrip": 6}

    counting.calls.clear()
    crops = PairedCrops(degrade_images(paths, settings, cache), patch_size=8, seed=0)
    for index in range(20):
        crops[index]
    assert not counting.calls

    degrade_images(paths, parse_settings("webp", (10, 20, 40)), cache)
    assert counting.calls == {"bicubic_down4": 3, "roundtrip": 3}  # only what is new


def test_the_cache_knows_contents_rule_and_options(
    cache, photo_files, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, settings = photo_files(2), parse_settings("webp", (20,))
    first, second = (np.asarray(i.lq[settings[0]]) for i in degrade_images(paths, settings, cache))
    assert not np.array_equal(first, second)

    counting.calls.clear()
    [edge] = degrade_images(paths[:1], settings, cache, edge="edge")
    assert counting.calls == {"bicubic_down4": 1, "roundtrip": 1}
    assert not np.array_equal(np.asarray(edge.lq[settings[0]]), first)

    paths[1].replace(paths[0])  # the same name with other contents
    [moved] = degrade_images(paths[:1], settings, cache)
    np.testing.assert_array_equal(np.asarray(moved.lq[settings[0]]), second)

    quick = dataclasses.replace(WEBP, options=(("method", 0), ("lossless", False)))
    monkeypatch.setitem(CODECS, "webp", quick)
    [other] = degrade_images(paths[:1], settings, cache)
    assert not np.array_equal(np.asarray(other.lq[settings[0]]), second)


def test_threads_do_not_change_the_order(cache, photo_files) -> None:
    paths, settings = photo_files(6, 40, 40), parse_settings("jpeg", (10,))
    names = [image.name for image in degrade_images(paths, settings, cache, workers=4)]
    assert names == [path.stem for path in paths]


def test_compressing_a_reduced_image_is_cached(cache, photo, counting: Counting) -> None:
    lr = photo[:40, :60]
    for _ in range(2):
        np.testing.assert_array_equal(
            compress_lr(lr, Setting("webp", 30), cache), WEBP.roundtrip(lr, 30).pixels
        )
    assert counting.calls["roundtrip"] == 3  # two of them above
    # The same bytes in another shape are another image.
    assert compress_lr(lr.reshape(60, 40, 3), Setting("webp", 30), cache).shape == (60, 40, 3)


def test_a_small_image_is_named_with_the_flag_that_wants_more(cache, photo_files) -> None:
    paths = photo_files(2, height=60, width=80)
    message = (
        r"photo0\.png is too small: 80 x 60 pixels .* of 20 x 15, and crops of 16 .*patch_size"
    )
    with pytest.raises(DataError, match=message):
        degrade_images(paths, parse_settings("webp"), cache, min_side=16)


@pytest.mark.parametrize("size", [(3, 9), (9, 1)])
def test_an_image_of_a_few_pixels_is_named(cache, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "dot.png")
    message = rf"dot\.png is too small: {size[0]} x {size[1]} pixels, at least 4 x 4"
    with pytest.raises(DataError, match=message):
        degrade_images([tmp_path / "dot.png"], parse_settings("webp"), cache)


def test_an_unreadable_image_is_named(cache, photo_files) -> None:
    paths = photo_files(3)
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot read image .*photo1\.png"):
        degrade_images(paths, parse_settings("webp"), cache)


def test_settings_are_a_codecs_own_or_the_ones_named() -> None:
    assert parse_settings("webp") == [Setting("webp", q) for q in (10, 20, 30, 40)]
    assert parse_settings("jpeg", (75,)) == [Setting("jpeg", 75)]
    with pytest.raises(ConfigError, match="webp takes quality 0 to 100, not 101"):
        parse_settings("webp", (10, 101))
    with pytest.raises(ConfigError, match="is named twice"):
        parse_settings("webp", (10, 20, 10))
    with pytest.raises(UnknownNameError, match="codec 'wepb'; did you mean 'webp'"):
        parse_settings("wepb")


def test_a_codec_that_is_not_there_says_what_to_do(
    cache: ArrayCache, photo_files, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Availability(ok=False, reason="no encoder", install="pip install it")
    monkeypatch.setattr(type(WEBP), "available", lambda self: missing)
    message = r"codec webp is not available: no encoder\. pip install it"
    with pytest.raises(CodecError, match=message):
        degrade_images(photo_files(1), [Setting("webp", 10)], cache)
    assert not cache.root.exists()
    with pytest.raises(UnknownNameError, match=r"unknown codec 'mh'; .* Known: "):
        require_codec("mh")
