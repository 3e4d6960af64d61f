"""Rates against a hand count, BD-rates against known ratios, and the files of `ucip-adapt rd`."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from ucip_adapt import UCIP, UCIPConfig, codecs, load
from ucip_adapt.cli import main
from ucip_adapt.codecs import get_codec
from ucip_adapt.data import bicubic_up4, load_eval_set
from ucip_adapt.data.images import save_png
from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.rate_distortion import RatePoint, bd_rates, measure_rates


def luma(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def points(codec: str, rates: list[float], psnrs: list[float]) -> list[RatePoint]:
    return [
        RatePoint("bicubic", codec, q, "y-c4", rate, psnr, 0.9, 1)
        for q, (rate, psnr) in enumerate(zip(rates, psnrs, strict=True))
    ]


def test_points_are_means_of_bits_and_luma_scores() -> None:
    images = load_eval_set("GB82-val", limit=2)
    found, left_out = measure_rates({"webp": (20,)}, images, {"bicubic": bicubic_up4})
    alone, after = found
    assert not left_out
    bpp, lr_psnr, sr_psnr = [], [], []
    for image in images.images:
        buffer = io.BytesIO()
        Image.fromarray(image.lr).save(buffer, "WEBP", quality=20, method=4)
        lq = np.asarray(Image.open(buffer).convert("RGB"))
        bpp.append(8 * len(buffer.getvalue()) / (lq.shape[0] * lq.shape[1]))
        lr_psnr.append(peak_signal_noise_ratio(luma(image.lr), luma(lq), data_range=255))
        inner = (slice(4, -4), slice(4, -4))
        pair = luma(image.gt)[inner], luma(bicubic_up4(lq))[inner]
        sr_psnr.append(peak_signal_noise_ratio(*pair, data_range=255))
    assert (alone.curve, alone.protocol, alone.images) == ("codec alone", "y-c0", 2)
    assert (after.curve, after.protocol) == ("bicubic", "y-c4")
    assert alone.bpp == after.bpp == pytest.approx(np.mean(bpp), rel=1e-12)
    assert alone.psnr_db == pytest.approx(np.mean(lr_psnr), abs=1e-6)
    assert after.psnr_db == pytest.approx(np.mean(sr_psnr), abs=1e-6)


def test_a_codec_of_unknown_rate_is_left_out_and_named(tmp_path: Path) -> None:
    images = load_eval_set("GB82-val", limit=1)
    save_png(tmp_path / f"{images.images[0].name}.png", images.images[0].lr)
    name = f"folder:{tmp_path}"
    get_codec(name, allow_command=True)
    found, left_out = measure_rates({name: (), "jpeg": (30,)}, images, {})
    assert [point.codec for point in found] == ["jpeg"]
    assert left_out == {name: "nobody knows the length of its bitstreams"}


def test_bd_rate_is_the_ratio_of_shifted_curves() -> None:
    """On a logarithmic axis of rates these are one curve, moved; the points are others."""
    rates = [0.2, 0.4, 0.8, 1.6]
    other = [0.3, 0.5, 0.9, 1.4, 1.8]
    found = bd_rates(
        [
            *points("anchor", rates, [25 + 4 * math.log2(rate) for rate in rates]),
            *points("fewer", [0.75 * r for r in other], [25 + 4 * math.log2(r) for r in other]),
            *points("more", [1.2 * r for r in rates], [25 + 4 * math.log2(r) for r in rates]),
        ],
        "anchor",
    )["bicubic"]
    assert found["anchor"] == 0.0
    assert found["fewer"] == pytest.approx(-25.0, abs=0.01)
    assert found["more"] == pytest.approx(20.0, abs=0.01)


def test_curves_that_cannot_be_compared_have_no_bd_rate() -> None:
    anchor = points("anchor", [1, 2, 3, 4], [30, 32, 33, 34])
    found = bd_rates(
        [
            *anchor,
            *points("above", [1, 2], [35, 36]),
            *points("falling", [1, 2, 3], [30, 33, 32]),
            *points("single", [1], [31]),
        ],
        "anchor",
    )["bicubic"]
    assert found == {"anchor": 0.0, "above": None, "falling": None, "single": None}
    with pytest.raises(ConfigError, match="anchor 'none' has no points"):
        bd_rates(anchor, "none")


def test_the_command_writes_points_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--images", "GB82-val", "--max-images", "1", "--out", str(out), "--quiet"]
    assert main(["rd", "--codecs", "jpeg:10,40", "webp", *words]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("BD-rate over jpeg")
    text = (out / "rd.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["kind"] == "rate_distortion"
    assert str(tmp_path) not in text
    settings = [(p["curve"], p["codec"], p["quality"]) for p in record["scores"]["points"]]
    both = [("jpeg", 10), ("jpeg", 40), *(("webp", q) for q in (10, 20, 30, 40))]
    assert settings == [(curve, *pair) for curve in ("codec alone", "bicubic") for pair in both]
    webp = record["scores"]["codecs"]["webp"]
    assert webp == get_codec("webp").fingerprint()
    saving = record["scores"]["bd_rate_percent"]["psnr_db"]["codec alone"]["webp"]
    assert -60 < saving < -20
    assert f"{saving:+.1f} %" in shown
    with Image.open(out / "rd.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 400


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A folder with one small photograph."""
    image = load_eval_set("GB82-val", limit=1).images[0].gt[160:320, 160:288]
    (tmp_path / "photos").mkdir()
    save_png(tmp_path / "photos" / "one.png", image)
    return tmp_path / "photos"


def measured(photo: Path, *words: str) -> list[dict[str, Any]]:
    out = photo.parent / "out"
    assert main(["rd", *words, "--images", str(photo), "--out", str(out), "--quiet"]) == 0
    found: list[dict[str, Any]] = json.loads((out / "rd.json").read_text())["scores"]["points"]
    return found


@pytest.mark.parametrize("base", [(), ("--base", "ucip-tiny")])
def test_a_shipped_adapter_is_known_by_its_name(photo: Path, base: tuple[str, ...]) -> None:
    found = measured(photo, "--codecs", "webp:10,40", "--adapter", "webp", *base)
    [image] = load_eval_set(str(photo)).images
    buffer = io.BytesIO()
    Image.fromarray(image.lr).save(buffer, "WEBP", quality=10, method=4)
    sr = load("webp").upscale(np.asarray(Image.open(buffer).convert("RGB")))
    inner = (slice(4, -4), slice(4, -4))
    expected = peak_signal_noise_ratio(luma(image.gt)[inner], luma(sr)[inner], data_range=255)
    psnr = {(point["curve"], point["quality"]): point["psnr_db"] for point in found}
    assert psnr["adapter webp", 10] == pytest.approx(expected, abs=1e-3)
    assert abs(psnr["bicubic", 10] - expected) > 0.01


def test_a_base_called_bicubic_does_not_take_its_place(photo: Path) -> None:
    folder = photo.parent / "bicubic"
    UCIP(UCIPConfig.preset("nano")).save_pretrained(folder)
    found = measured(photo, "--codecs", "webp:10,40", "--base", str(folder))
    curves = {point["curve"] for point in found}
    assert curves == {"codec alone", "bicubic", "base bicubic"}


def test_an_adapter_that_is_not_there_is_a_message(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--images", str(photo), "--out", str(photo.parent / "out"), "--quiet"]
    assert main(["rd", "--codecs", "webp", "--adapter", "wepb", *words]) == 2
    assert capsys.readouterr().err.startswith("error: unknown adapter 'wepb'; did you mean 'webp'?")


@pytest.mark.parametrize("words", [["webp:10,40", "available"], ["available", "webp:10,40"]])
def test_qualities_that_are_named_win_over_available(
    photo: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [row for row in codecs.list_codecs() if row[0].name in {"jpeg", "webp"}]
    monkeypatch.setattr(codecs, "list_codecs", lambda: few)
    found = measured(photo, "--codecs", *words)
    alone = {(p["codec"], p["quality"]) for p in found if p["curve"] == "codec alone"}
    assert alone == {("webp", 10), ("webp", 40), *(("jpeg", q) for q in (10, 20, 30, 40))}


def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--images", "GB82-val", "--out", str(tmp_path / "out"), "--quiet"]
    for names, message in (
        (["wepb"], "unknown codec 'wepb'; did you mean 'webp'?"),
        (["webp:ten"], "--codecs webp:ten: write qualities as webp:10,20,30"),
        (["webp", "--anchor", "jpeg"], "--anchor jpeg is not among the codecs: webp"),
        (["webp:10,400"], "webp takes quality 0 to 100, not 400"),
        (["webp:10,40", "webp:20"], "--codecs names webp twice: write all its qualities in one"),
        (["webp", "available", "webp"], "--codecs names webp twice"),
    ):
        assert main(["rd", "--codecs", *names, *words]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "bjontegaard", None)
    assert main(["rd", "--codecs", "webp", *words]) == 2
    assert "pip install 'ucip-adapt[plots]'" in capsys.readouterr().err
    with pytest.raises(DataError, match="BD-rates need bjontegaard"):
        bd_rates(points("webp", [1], [30]), "webp")


def test_pictures_that_cannot_be_measured_are_named(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rd", "--codecs", "jpeg", "webp", "--images", str(photo), "--quiet", "--out"]
    save_png(photo / "small.png", np.zeros((40, 60, 3), np.uint8))
    assert main([*words, str(tmp_path / "out")]) == 2
    assert "image small of photos is too small: SSIM" in capsys.readouterr().err
    save_png(photo / "small.png", np.zeros((80, 96, 3), np.uint8))
    assert main([*words, str(tmp_path / "out")]) == 2
    assert "jpeg:10, codec alone: nothing of image small is lost" in capsys.readouterr().err


def test_the_folder_is_made_before_the_measurement(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ucip_adapt.rate_distortion as measuring

    monkeypatch.setattr(measuring, "measure_rates", lambda *_, **__: pytest.fail("measured first"))
    (tmp_path / "file").touch()
    words = [
        "rd",
        "--codecs",
        "jpeg",
        "--images",
        str(photo),
        "--out",
        str(tmp_path / "file" / "x"),
    ]
    assert main(words) == 2
    assert "cannot make the folder" in capsys.readouterr().err
