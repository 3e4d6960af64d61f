"""Every adapter under adapters/ is whole, belongs to its base, and does what its card says."""

import hashlib
import json

import numpy as np
import pytest
import torch

import ucip_adapt
from ucip_adapt.assets import adapters_folder, image_folder, shipped_adapters
from ucip_adapt.data import bicubic_down4, list_images
from ucip_adapt.data.images import read_rgb
from ucip_adapt.metrics import get_protocol, score

NAMES = shipped_adapters()


def test_there_are_adapters():
    assert "webp" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_that_the_results_name(name):
    folder = adapters_folder() / name
    record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert {"adapter_model.safetensors", "adapter_config.json"} <= set(record["files"])
    for file, digest in record["files"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest, file
    assert record["parameters"]["adapter_bytes"] == (
        (folder / "adapter_model.safetensors").stat().st_size
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_is_not_behind_its_base_and_can_be_switched_off(name):
    adapted = ucip_adapt.load(name)
    config = adapted.network.peft_config["default"]
    gt = read_rgb(list_images(image_folder("validation"))[2])
    gt = gt[: gt.shape[0] // 4 * 4, : gt.shape[1] // 4 * 4]
    codec = ucip_adapt.get_codec(config.codec)
    if not codec.available().ok:
        pytest.skip(f"{config.codec}: {codec.available().reason}")
    lq = codec.roundtrip(bicubic_down4(gt, edge="symmetric"), max(config.qualities))
    base = ucip_adapt.load(base=config.base_model_name_or_path)
    pictures = [model.upscale(lq.pixels) for model in (base, adapted)]
    scores = [score(picture, gt, get_protocol("y-c4")).psnr_db for picture in pictures]
    # On this base an adapter gains hundredths of a dB (its card); a broken one loses tenths.
    assert scores[1] > scores[0] - 0.02, scores
    assert (pictures[0] != pictures[1]).any()
    with torch.no_grad(), adapted.network.disable_adapter():
        off = adapted.upscale(lq.pixels)
    np.testing.assert_array_equal(off, base.upscale(lq.pixels))
