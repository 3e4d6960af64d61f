"""What happens behind the page's buttons, without gradio."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ucip_adapt
from ucip_adapt.assets import shipped_adapter_folder, shipped_adapters
from ucip_adapt.cli import main
from ucip_adapt.codecs import get_codec, list_codecs
from ucip_adapt.data import bicubic_down4
from ucip_adapt.demo import session
from ucip_adapt.demo.files import ResultFiles
from ucip_adapt.demo.session import ORIGINAL, Session, Wish, middle, samples
from ucip_adapt.demo.words import facts_html, knob_hint, picture_line, scores_html
from ucip_adapt.detection import Detection
from ucip_adapt.errors import ConfigError, DataError, UcipError
from ucip_adapt.imaging import Picture, read_picture

SIDE = 96


def png(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def truth():
    """A corner of a sample, one pixel more than the network's scale divides."""
    with Image.open(samples()["house"]) as image:
        return np.asarray(image.convert("RGB"))[: SIDE + 1, : SIDE + 33]


@pytest.fixture(scope="module")
def page():
    return Session()


@pytest.fixture(scope="module")
def restored(page, truth):
    return page.restore(png(truth), Wish("webp", 20))


def luma_psnr(sr, gt):
    """PSNR of BT.601 luma without 4 pixels at each edge, from its definition."""
    weights = np.array([65.481, 128.553, 24.966]) / 255
    difference = (sr.astype(float) - gt.astype(float)) @ weights
    return 10 * np.log10(255**2 / np.mean(difference[4:-4, 4:-4] ** 2))


@pytest.fixture(scope="module")
def lq_file(truth):
    """Reduced and compressed by hand."""
    return png(bicubic_down4(truth[:SIDE, : SIDE + 32]), format="WEBP", quality=20, method=4)


@pytest.fixture(scope="module")
def lq(lq_file):
    with Image.open(io.BytesIO(lq_file)) as image:
        return np.asarray(image.convert("RGB"))


def test_the_page_gives_what_the_python_interface_gives(restored, truth, lq, lq_file):
    gt = truth[:SIDE, : SIDE + 32]
    model = ucip_adapt.load("webp")
    large = Image.fromarray(lq).resize((SIDE + 32, SIDE), Image.Resampling.BICUBIC)
    expected = {
        "bicubic": np.asarray(large),
        "base": ucip_adapt.load(None, base=model.base).upscale(lq),
        "adapter": model.upscale(lq),
    }
    assert [row.method for row in restored.rows] == list(expected)
    assert list(restored.versions) == ["bicubic", "base", ORIGINAL, "adapter"]
    for row in restored.rows:
        np.testing.assert_array_equal(restored.versions[row.method].colour, expected[row.method])
        assert row.psnr_db == pytest.approx(luma_psnr(expected[row.method], gt), abs=1e-4)
        assert 0.5 < row.ssim < 1
    np.testing.assert_array_equal(restored.versions[ORIGINAL].colour, gt)
    assert restored.result is restored.versions["adapter"]
    assert restored.num_bytes == len(lq_file)
    assert restored.bpp == pytest.approx(8 * len(lq_file) / lq[..., 0].size)
    assert (restored.choice.adapter, restored.base) == ("webp", model.base)


def test_without_an_adapter_the_result_is_the_base(page, truth, lq):
    alone = page.restore(png(truth), Wish("webp", 20, adapter="none"))
    assert [row.method for row in alone.rows] == ["bicubic", "base"]
    assert alone.result is alone.versions["base"]
    np.testing.assert_array_equal(alone.result.colour, ucip_adapt.load().upscale(lq))


def test_a_picture_as_it_is_comes_out_as_from_the_command_line(page, truth, tmp_path):
    pixels = np.dstack([truth[:24, :40], np.full((24, 40), 99, np.uint8)])
    data = png(pixels, format="WEBP", quality=30)
    source, target = tmp_path / "a.webp", tmp_path / "b.png"
    source.write_bytes(data)
    assert main(["upscale", str(source), "-o", str(target), "--quiet"]) == 0
    restored = page.restore(data, Wish())
    shown, result = ResultFiles(tmp_path).write(restored, "a")
    assert read_picture(target).mode == "RGBA"
    assert Path(result).read_bytes() == target.read_bytes()
    assert (restored.rows, list(shown)) == ((), ["bicubic", "adapter"])
    assert restored.choice.adapter == "webp"
    assert restored.bpp == pytest.approx(8 * len(data) / (24 * 40))
    assert f"<td>webp, quality {restored.detection.quality}</td>" in facts_html(restored)


def test_an_adapter_may_be_a_folder_unless_strangers_choose(page, truth, tmp_path):
    folder = shipped_adapter_folder("webp")
    data = png(truth[:48, :48])
    own = page.restore(data, Wish("jpeg", 30, adapter=str(folder)))
    named = page.restore(data, Wish("jpeg", 30, adapter="webp"))
    np.testing.assert_array_equal(own.result.colour, named.result.colour)
    with pytest.raises(ConfigError, match=r"unknown adapter .* Known: auto, "):
        Session(own_adapters=False).restore(data, Wish("jpeg", 30, adapter=str(folder)))
    assert page.adapters == ["auto", "none", *shipped_adapters()]


def test_every_codec_that_works_here_is_offered(page):
    assert set(page.codecs) == {spec.name for spec, state in list_codecs() if state.ok}
    assert "higher is better; the suite has 10, 20" in knob_hint(get_codec("webp").spec)
    assert knob_hint(get_codec("hm").spec).startswith("qp, 0 to 51, lower is better")


def test_grey_deep_and_transparent_pictures_can_be_damaged(page, truth):
    grey = Image.fromarray(truth[:48, :48]).convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    flat = page.restore(png(np.asarray(grey)), Wish("jpeg", 30))
    for data, note in (
        (png(deep), "16 bits became 8"),
        (png(np.dstack([np.asarray(grey)] * 3 + [deep.astype(np.uint8)])), "left out"),
    ):
        other = page.restore(data, Wish("jpeg", 30))
        np.testing.assert_array_equal(other.result.colour, flat.result.colour)
        assert note in other.notes[-1]
        assert note in facts_html(other)


def test_too_large_is_refused_or_cut(truth):
    small = Session(max_pixels=300)
    data = png(truth)
    with pytest.raises(DataError, match=r"129 x 97 pixels are more than the 4,800 that"):
        small.restore(data, Wish("webp", 20))
    with pytest.raises(DataError, match=r"129 x 97 pixels are more than the 300 that"):
        small.restore(data, Wish())
    cut = small.restore(data, Wish("webp", 20, crop=True))
    height, width = cut.lq_size
    assert 0.8 * 300 < height * width <= 300
    assert width / height == pytest.approx(129 / 97, rel=0.1)
    assert cut.notes == ("the middle, 79 x 60 of 129 x 97 pixels",)
    as_it_is = small.restore(data, Wish(crop=True))
    assert as_it_is.bpp == pytest.approx(8 * len(data) / (129 * 97))
    with pytest.raises(ConfigError, match="--max-pixels 10: at least 64"):
        Session(max_pixels=10)


@pytest.mark.parametrize(("height", "width"), [(1, 5000), (5000, 1), (300, 500), (77, 3001)])
def test_the_middle_keeps_the_grid_of_blocks(height, width):
    rows, columns = np.mgrid[:height, :width]
    picture = Picture(np.stack([rows, columns, rows], axis=2).astype(np.uint16), rows.astype("u2"))
    part = middle(picture, 4096)
    assert 0 < part.colour[..., 0].size <= 4096
    top, left = part.colour[0, 0, :2]
    assert (top % 64, left % 64) == (0, 0)
    np.testing.assert_array_equal(part.alpha, part.colour[..., 0])
    for first, size, whole in ((top, part.size[0], height), (left, part.size[1], width)):
        assert 0 <= (whole - size) / 2 - first < 64


@pytest.mark.parametrize(
    ("data", "wish", "message"),
    [
        (b"no picture", Wish(), "no picture format"),
        (b"", Wish("webp", 20), "empty"),
        (None, Wish("wepb", 20), "unknown codec 'wepb'; did you mean 'webp'"),
        (None, Wish("command:rm {in}", 20), "unknown codec"),
        (None, Wish("webp", 101), "webp takes quality 0 to 100, not 101"),
        (None, Wish("webp", 20, adapter="wep"), "unknown adapter 'wep'"),
        (None, Wish("webp", 20, adapter="/no/such"), "no folder"),
    ],
)
def test_what_is_wrong_is_said(page, truth, data, wish, message):
    with pytest.raises(UcipError, match=re.escape(message)):
        page.restore(png(truth) if data is None else data, wish)


def test_too_small_to_be_reduced(page, truth):
    with pytest.raises(DataError, match="31 x 40 pixels are too few"):
        page.restore(png(truth[:40, :31]), Wish("webp", 20))
    assert page.restore(png(truth[:1, :1]), Wish()).result.size == (4, 4)


def test_the_tables_say_the_scores_and_nothing_else_speaks_html(restored):
    html = scores_html(restored)
    bicubic, _, adapter = restored.rows
    for row in restored.rows:
        assert f"<td>{row.psnr_db:.2f}</td>" in html
        assert f"<td>{row.ssim:.4f}</td>" in html
    assert f"<td>{adapter.psnr_db - bicubic.psnr_db:+.2f}</td>" in html
    assert f"{restored.num_bytes:,} bytes" in facts_html(restored)
    evil = "<img src=x onerror=alert(1)>"
    forged = dataclasses.replace(
        restored, base=evil, notes=(evil,), choice=type(restored.choice)(evil, evil)
    )
    assert "<img" not in facts_html(forged) + scores_html(forged)
    assert facts_html(forged).count("&lt;img src=x") == 4


def test_a_picture_of_unknown_history_says_so(page, truth):
    unknown = page.restore(png(truth[:16, :16]), Wish(adapter="none"))
    silent = dataclasses.replace(unknown, detection=Detection(None, None, "", 0.0))
    assert "<td>not known</td>" in facts_html(silent)
    doubtful = dataclasses.replace(unknown, detection=Detection("webp", None, "", 0.61))
    assert "<td>webp, 61% sure</td>" in facts_html(doubtful)
    assert "No scores" in scores_html(unknown)


def test_the_middle_of_a_large_file_is_taken_and_a_larger_one_refused(monkeypatch):
    small = Session(max_pixels=400)
    data = png(np.zeros((4100, 4000), np.uint8))
    assert small.restore(data, Wish(crop=True)).notes == (
        "the middle, 19 x 20 of 4000 x 4100 pixels",
    )
    assert small.restore(data, Wish("jpeg", 30, crop=True)).lq_size == (20, 19)
    with pytest.raises(DataError, match=r"more than the 400 that .* let it take the middle"):
        small.restore(data, Wish())
    monkeypatch.setattr(session, "MAX_FILE_PIXELS", 16_000_000)
    with pytest.raises(DataError, match=r"limit is 16,000,000, also .* upscale --max-pixels N`$"):
        small.restore(data, Wish(crop=True))
    assert Session(max_pixels=1_100_000).read(data).size == (4100, 4000), "it may be damaged whole"


def test_a_file_is_described(page, truth):
    data = png(truth, format="JPEG", quality=37)
    assert picture_line("a.jpg", data, page.read(data)) == (
        f"a.jpg: 129 x 97 pixels, RGB, {len(data):,} bytes; JPEG quantisation tables of quality 37"
    )


def test_old_results_are_removed(restored, tmp_path):
    files = ResultFiles(tmp_path)
    first, _ = files.write(restored, "a")
    for _ in range(8):
        last, result = files.write(restored, "a")
    assert not any(Path(path).exists() for path in first.values())
    for version, path in last.items():
        np.testing.assert_array_equal(
            read_picture(Path(path)).colour, restored.versions[version].colour
        )
    assert last["adapter"] == result
    assert result.endswith("a_x4.png")
