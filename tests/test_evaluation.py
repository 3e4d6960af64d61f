"""Scores of sets: against a computation by hand, in one process and in two, and as a table."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import ucip_adapt
from ucip_adapt.assets import image_folder
from ucip_adapt.data import ArrayCache, EvalImage, EvalSet, Setting, bicubic_down4, read_rgb
from ucip_adapt.errors import ConfigError, UnknownNameError
from ucip_adapt.evaluation import (
    ScoreRow,
    bicubic,
    choose_window,
    evaluate_sets,
    mean_psnr,
    network_upscaler,
    summarise,
)

SETTINGS = [Setting("jpeg", 10), Setting("webp", 40)]
PROTOCOLS = ["y-c4", "rgb-c4"]


def nearest(lq: np.ndarray) -> np.ndarray:
    return lq.repeat(4, axis=0).repeat(4, axis=1)


def make_sets() -> list[EvalSet]:
    """Two sets of three and two small photographs of different sizes."""
    photo = read_rgb(image_folder("validation") / "nyc.webp")
    images = []
    for number in range(5):
        gt = photo[60 * number : 60 * number + 48 + 4 * number, 100:160]
        images.append(EvalImage(f"image{number}", gt, bicubic_down4(gt)))
    return [EvalSet("one", tuple(images[:3]), "made"), EvalSet("two", tuple(images[3:]), "made")]


@pytest.fixture
def sets() -> list[EvalSet]:
    return make_sets()


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    return ArrayCache(tmp_path / "cache")


def scores_by_hand(image: EvalImage, setting: Setting, protocol: str) -> tuple[float, float]:
    """Bicubic x4 of the compressed image, with Pillow and scikit-image alone."""
    options = {"subsampling": 2} if setting.codec == "jpeg" else {"method": 4}
    buffer = io.BytesIO()
    Image.fromarray(image.lr).save(buffer, setting.codec, quality=setting.quality, **options)
    small = Image.open(buffer).convert("RGB")
    height, width = image.gt.shape[:2]
    sr = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    sr, gt = sr[4:-4, 4:-4].astype(np.float64), image.gt[4:-4, 4:-4].astype(np.float64)
    if protocol == "y-c4":
        sr, gt = rgb2ycbcr(sr / 255)[..., :1], rgb2ycbcr(gt / 255)[..., :1]
    ssim = structural_similarity(
        gt,
        sr,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(peak_signal_noise_ratio(gt, sr, data_range=255)), float(ssim)


def test_bicubic_rows_equal_a_computation_by_hand(sets, cache) -> None:
    rows = evaluate_sets({"bicubic": bicubic}, sets, SETTINGS, PROTOCOLS, cache=cache)
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        images = next(one.images for one in sets if one.name == row.dataset)
        setting = Setting(row.codec, row.quality)
        by_hand = [scores_by_hand(image, setting, row.protocol) for image in images]
        assert row.psnr_db == pytest.approx(np.mean([psnr for psnr, _ in by_hand]), abs=1e-6)
        assert row.ssim == pytest.approx(np.mean([ssim for _, ssim in by_hand]), abs=1e-6)
        assert row.images == len(images)
        assert row.names == tuple(image.name for image in images)
        single = list(zip(row.psnr_db_images, row.ssim_images, strict=True))
        np.testing.assert_allclose(single, by_hand, atol=1e-6)


def test_rows_come_by_method_set_setting_and_protocol(sets, cache) -> None:
    methods = {"nearest": nearest, "bicubic": bicubic}
    rows = evaluate_sets(methods, sets, SETTINGS, PROTOCOLS, cache=cache)
    assert [(r.method, r.dataset, r.codec, r.quality, r.protocol) for r in rows] == [
        (method, dataset, *setting, protocol)
        for method in methods
        for dataset in ("one", "two")
        for setting in SETTINGS
        for protocol in PROTOCOLS
    ]
    alone = evaluate_sets({"bicubic": bicubic}, sets, SETTINGS, PROTOCOLS, cache=cache)
    assert rows[len(rows) // 2 :] == alone
    assert mean_psnr(rows, "bicubic") > mean_psnr(rows, "nearest")


def test_every_method_gets_the_same_input_once_per_setting(sets, cache) -> None:
    inputs: dict[str, list[bytes]] = {"first": [], "second": []}

    def spy(name: str):
        def upscale(lq: np.ndarray) -> np.ndarray:
            inputs[name].append(np.asarray(lq).tobytes())
            return nearest(lq)

        return upscale

    evaluate_sets({name: spy(name) for name in inputs}, sets, SETTINGS, ["y-c4"], cache=cache)
    assert inputs["first"] == inputs["second"]
    assert len(set(inputs["first"])) == 5 * 2


def test_what_would_mix_up_rows_is_refused(sets, cache) -> None:
    methods = {"bicubic": bicubic}

    def run(methods=methods, sets=sets, settings=SETTINGS, protocols=PROTOCOLS) -> list[ScoreRow]:
        return evaluate_sets(methods, sets, settings, protocols, cache=cache)

    with pytest.raises(ConfigError, match="image set 'one' is named twice"):
        run(sets=[sets[0], EvalSet("one", sets[1].images, "made")])
    with pytest.raises(ConfigError, match="setting 'jpeg:10' is named twice"):
        run(settings=[SETTINGS[0], SETTINGS[0]])
    with pytest.raises(ConfigError, match="protocol 'y-c4' is named twice"):
        run(protocols=["y-c4", "y-c4"])
    with pytest.raises(ConfigError, match="no method to measure"):
        run(methods={})
    with pytest.raises(ConfigError, match="no image set to measure"):
        run(sets=[])
    with pytest.raises(UnknownNameError, match="protocol 'y-4'; did you mean 'y-c4'"):
        run(protocols=["y-4"])
    with pytest.raises(UnknownNameError, match="unknown codec 'hmm'"):
        run(settings=[Setting("hmm", 32)])


def test_a_network_is_wrapped_for_8_bit_images(sets) -> None:
    seen = []

    def upscale(lq: torch.Tensor, *, window: int | str | None) -> torch.Tensor:
        seen.append((lq.shape, lq.dtype, lq.min().item() >= 0, lq.max().item() <= 1, window))
        return lq.repeat_interleave(4, -1).repeat_interleave(4, -2) * 1.07 - 0.0213

    lq = sets[0].images[0].lr
    sr = network_upscaler(upscale, torch.device("cpu"), window=24)(lq)
    assert seen == [((1, 3, 12, 15), torch.float32, True, True, 24)]
    levels = nearest(lq).astype(np.float64) / 255 * 1.07 - 0.0213  # no ties at a half
    expected = np.floor(np.clip(levels, 0, 1) * 255 + 0.5)
    np.testing.assert_array_equal(sr, expected)


class Windowed(torch.nn.Module):
    """Stands for a network: nearest neighbour, with noise that depends on the window."""

    def __init__(self, noise: dict[int | None, float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.noise = noise

    def upscale(self, lq: torch.Tensor, *, window: int | None) -> torch.Tensor:
        sr = lq.repeat_interleave(4, -1).repeat_interleave(4, -2)
        noise = torch.rand(sr.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        return (sr + self.noise[window] * noise).clamp(0, 1)


@pytest.mark.parametrize(
    ("noise", "best"),
    [({None: 0.3, 8: 0.0, 12: 0.2}, 8), ({None: 0.0, 8: 0.2, 12: 0.3}, None)],
)
def test_the_window_with_the_highest_mean_is_chosen(sets, cache, noise, best) -> None:
    network = Windowed(noise)
    side, scores = choose_window(network, [8, 12], sets[0], SETTINGS, cache=cache)
    assert side == best
    assert list(scores) == ["whole", "window 8", "window 12"]
    rows = evaluate_sets({"n": nearest}, sets[:1], SETTINGS, ["y-c4"], cache=cache)
    clean = "whole" if best is None else f"window {best}"
    assert scores[clean] == pytest.approx(mean_psnr(rows, "n"), abs=1e-4)


def row(method: str, dataset: str, quality: int, psnr_db: float, protocol="y-c4") -> ScoreRow:
    return ScoreRow(method, dataset, "webp", quality, protocol, psnr_db, 0.7, 5)


def test_the_table_shows_values_and_gains_under_one_protocol() -> None:
    rows = [
        row("base", "Set5", 10, 25.5),
        row("base", "Set5", 20, 26.0),
        row("bicubic", "Set5", 10, 25.0),
        row("bicubic", "Set5", 20, 26.25),
        row("bicubic", "Set5", 20, 99.0, protocol="rgb-c4"),
    ]
    assert summarise(rows, reference="bicubic").splitlines() == [
        "PSNR in dB, protocol y-c4, gain over bicubic in brackets",
        "set           quality     bicubic              base",
        "Set5          webp 10      25.000   25.500 (+0.500)",
        "Set5          webp 20      26.250   26.000 (-0.250)",
    ]


def test_long_names_do_not_run_into_each_other() -> None:
    rows = [
        row("whole images of the base", "my own photographs", 10, 25.0),
        row("windows of 64 pixels", "my own photographs", 10, 24.0),
    ]
    head, line = summarise(rows, reference="whole images of the base").splitlines()[1:]
    assert re.split(r"\s{2,}", head)[-2:] == ["whole images of the base", "windows of 64 pixels"]
    assert line.startswith("my own photographs  webp 10 ")
    assert line.endswith(" 24.000 (-1.000)")
    assert len(head) == len(line)


def test_scores_that_are_not_there_are_named() -> None:
    rows = [row("base", "Set5", 10, 25.0)]
    with pytest.raises(ConfigError, match="no scores of 'bicubic' under protocol y-c4"):
        summarise(rows, reference="bicubic")
    with pytest.raises(ConfigError, match="no scores of 'base' under protocol rgb-c4"):
        mean_psnr(rows, "base", "rgb-c4")
    assert mean_psnr([*rows, row("base", "Set5", 20, 27.0)], "base") == 26.0


def test_a_row_is_rounded_for_json() -> None:
    written = row("base", "Set5", 10, 25.123456789).to_dict()
    assert json.loads(json.dumps(written)) == {
        "method": "base",
        "dataset": "Set5",
        "codec": "webp",
        "quality": 10,
        "protocol": "y-c4",
        "psnr_db": 25.1235,
        "ssim": 0.7,
        "images": 5,
        "source": "",
    }


def test_a_row_keeps_the_scores_of_each_image_where_asked(sets, cache) -> None:
    [one] = evaluate_sets({"n": nearest}, sets[1:], SETTINGS[:1], ["y-c4"], cache=cache)
    written = one.to_dict(per_image=True)
    assert list(written)[-3:] == ["names", "psnr_db_images", "ssim_images"]
    assert written["names"] == ["image3", "image4"]
    assert written["psnr_db_images"] == [round(value, 4) for value in one.psnr_db_images]
    assert written["ssim_images"] == [round(value, 5) for value in one.ssim_images]
    assert written["psnr_db"] == pytest.approx(np.mean(written["psnr_db_images"]), abs=1e-4)
    short = {key: value for key, value in written.items() if key in one.to_dict()}
    assert one.to_dict() == short
    assert len(short) == len(written) - 3


TWO_PROCESSES = """
import importlib.util, json, sys
from pathlib import Path
from accelerate import Accelerator
from ucip_adapt.data import ArrayCache
from ucip_adapt.evaluation import bicubic, evaluate_sets
from ucip_adapt.training.collective import finish_training, leave_process_group
spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
accelerator = Accelerator(cpu=True)
rows = evaluate_sets(
    {"bicubic": bicubic, "nearest": helpers.nearest},
    helpers.make_sets(), helpers.SETTINGS[: int(sys.argv[3])], helpers.PROTOCOLS,
    cache=ArrayCache(Path(sys.argv[2])), accelerator=accelerator,
)
print(json.dumps([accelerator.num_processes, [row.__dict__ for row in rows]]))
finish_training(accelerator)
leave_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("settings", [1, 2], ids=["5 images", "10 images"])
def test_two_processes_give_the_rows_of_one(sets, cache, tmp_path: Path, settings: int) -> None:
    """An odd number of images shows whether one is counted twice."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = os.environ | {
        "PYTHONPATH": str(Path(ucip_adapt.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, "-c", TWO_PROCESSES, __file__, str(tmp_path / "shared")]
    processes = [
        subprocess.Popen(
            [*command, str(settings)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    methods = {"bicubic": bicubic, "nearest": nearest}
    expected = evaluate_sets(methods, sets, SETTINGS[:settings], PROTOCOLS, cache=cache)
    for stdout, _ in outputs:
        world, rows = json.loads(stdout.splitlines()[-1])
        assert world == 2
        assert rows == json.loads(json.dumps([one.__dict__ for one in expected]))
