"""The command and the Python interface choose alike, and say what they chose and why."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import ucip_adapt
from ucip_adapt.assets import shipped_adapters
from ucip_adapt.automatic import AutoUpscaler
from ucip_adapt.cli import main
from ucip_adapt.codecs import get_codec
from ucip_adapt.data import load_eval_set
from ucip_adapt.detection import detect_pixels
from ucip_adapt.imaging import read_picture


@pytest.fixture(scope="module")
def auto():
    return ucip_adapt.load("auto")


@pytest.fixture(scope="module")
def webp():
    """Pixels of a WebP and its file; small, because networks are run on it."""
    image = load_eval_set("GB82-val", limit=1).images[0].lr[:48, :64]
    return get_codec("webp").roundtrip(np.ascontiguousarray(image), 10)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_files_are_enlarged_as_the_command_does_it(auto, webp, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.webp").write_bytes(webp.stream)
    (folder / "b.png").write_bytes(png(webp.pixels))
    assert main(["upscale", str(folder), "-o", str(out), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_file, by_pixels = rows
    assert (by_file["codec"], by_file["adapter"], by_file["confidence"]) == ("webp", "webp", 1)
    assert abs(by_file["quality"] - 10) <= 2
    seen = detect_pixels(webp.pixels)
    assert by_pixels["codec"] == seen.codec
    assert by_pixels["confidence"] == seen.confidence
    assert by_pixels["adapter"] == (seen.codec if seen.codec in shipped_adapters() else None)
    assert seen.reason in by_pixels["reason"]
    for name, source in (("a", folder / "a.webp"), ("b", folder / "b.png")):
        expected = read_picture(out / f"{name}_x4.png").colour
        np.testing.assert_array_equal(auto.upscale_file(source).colour, expected)
    by_name = ucip_adapt.load("webp")
    np.testing.assert_array_equal(
        read_picture(out / "a_x4.png").colour, by_name.upscale_file(webp.stream).colour
    )


def test_without_pixel_detection_a_png_gets_the_base(webp, tmp_path, capsys):
    source = tmp_path / "b.png"
    source.write_bytes(png(webp.pixels))
    words = ["upscale", str(source), "-o", str(tmp_path / "c.png"), "--no-pixel-detection"]
    assert main(words) == 0
    line = capsys.readouterr().out
    assert "adapter none (the container does not say" in line
    assert "the base alone" in line
    model = ucip_adapt.load("auto", pixels=False)
    assert model.choose(read_picture(source), source.read_bytes())[1].adapter is None


def test_arrays_pictures_and_tensors_are_chosen_for_alike(auto, webp, monkeypatch):
    """With the choice made by the mean, so that a batch holds both kinds."""
    from ucip_adapt.detection import Choice, Detection

    def choose(picture, data=None):
        adapter = "webp" if picture.colour.mean() > 128 else None
        return Detection(None, None, "", 0.0), Choice(adapter, "")

    monkeypatch.setattr(auto, "choose", choose)
    bright, dark = np.maximum(webp.pixels, 140), webp.pixels // 2
    expected = {
        "bright": ucip_adapt.load("webp").upscale(bright),
        "dark": ucip_adapt.load().upscale(dark),
    }
    assert (expected["bright"] != ucip_adapt.load().upscale(bright)).any()
    np.testing.assert_array_equal(auto.upscale(bright), expected["bright"])
    np.testing.assert_array_equal(auto.upscale(Image.fromarray(dark)), expected["dark"])
    batch = torch.from_numpy(np.stack([bright, dark])).permute(0, 3, 1, 2).float() / 255
    both = (auto.upscale(batch) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    wanted = np.stack([expected["bright"], expected["dark"]]).astype(int)
    np.testing.assert_allclose(both.astype(int), wanted, atol=1)  # rounded another way


def test_networks_are_loaded_once_and_only_when_needed(webp):
    model = AutoUpscaler()
    assert list(model._loaded) == [None]
    model.upscale_file(webp.stream)
    assert list(model._loaded) == [None, "webp"]
    assert model.using("webp") is model.using("webp")


def test_an_adapter_for_some_pictures_of_a_codec_has_to_be_named(auto):
    """A GIF may be a drawing, which the adapter for photographs worsens."""
    image = load_eval_set("GB82-val", limit=1).images[0].lr[:48, :64]
    stream = get_codec("gif").roundtrip(np.ascontiguousarray(image), 16).stream
    detection, choice = auto.choose(read_picture(stream), stream)
    assert (detection.codec, detection.quality) == ("gif", 16)
    assert choice.adapter is None
    assert "gif-photo is for photographs" in choice.reason
    assert "gif-photo" in shipped_adapters()
    named = ucip_adapt.load("gif-photo").upscale_file(stream).colour
    assert not np.array_equal(named, auto.upscale_file(stream).colour)
