"""The command itself with the real recipes, on a nano base: stopped, gone on with, equal bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ucip_adapt.assets import image_folder
from ucip_adapt.data import read_rgb
from ucip_adapt.data.images import save_png
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.training.results import read_results

ROOT = Path(__file__).resolve().parents[2]
CELL = "nano_webp_dpm_q10_small_rate-0.01_240-steps_12-pixels_tiny_1-images_seed0"
BICUBIC = "webp_bicubic_q10_small"
SAME = "weights the same bit for bit; there is no other seed to say what to expect"
TEXT = """
[groups.g]
base = "nano"
codec = "webp"
qualities = [10]
evaluate_on = "small"
train_data = "tiny"
max_train_steps = 240
patch_size = 12
learning_rate = 1e-2
validation_images = 1
method = ["dpm", "bicubic"]
"""


def make_world(folder: Path) -> None:
    """A base, a data root with two benchmarks of two images, and two training images."""
    torch.manual_seed(0)
    base = UCIP(UCIPConfig.preset("nano"))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    base.save_pretrained(folder / "nano")
    for place, split, name in (
        ("Set5/HR", "validation", "nyc"),
        ("Set14/HR", "validation", "house"),
        ("train/tiny", "train", "city"),
    ):
        photo = read_rgb(image_folder(split) / f"{name}.webp")
        (folder / "data" / place).mkdir(parents=True)
        for number in range(2):
            part = photo[100 * number : 100 * number + 64, 200:280]
            save_png(folder / "data" / place / f"{number}.png", part)
    (folder / "e.toml").write_text(TEXT)


def start(world: Path, runs: str, *flags: str) -> subprocess.Popen[str]:
    folders = ("--runs_dir", f"{runs}/runs", "--results_dir", f"{runs}/cells")
    return recipe(world, "run_experiments.py", *folders, *flags)


def recipe(world: Path, name: str, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "recipes" / name)]
    command += ["--experiments", "e.toml", "--data", "data", "--base", "nano=nano", *flags]
    return subprocess.Popen(
        command,
        cwd=world,
        env={**os.environ, "OMP_NUM_THREADS": "1", "UCIP_CACHE": str(world / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    return out


@pytest.mark.slow
def test_stopping_and_going_on_makes_the_same_cell(tmp_path: Path) -> None:
    make_world(tmp_path)
    finish(start(tmp_path, "straight"))
    straight = read_results(tmp_path / "straight" / "cells" / f"{CELL}.json")

    process = start(tmp_path, "stopped", "--only", CELL)
    log = tmp_path / "stopped" / "runs" / CELL / "training.log"
    while not (log.is_file() and "train:" in log.read_text()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out = finish(process)
    assert f"stopped   {CELL}: in training" in out
    assert not list((tmp_path / "stopped").glob("cells/*.json"))
    [checkpoint] = (log.parent / "training" / "checkpoints").glob("step-*")
    assert 0 < int(checkpoint.name.removeprefix("step-")) < 240
    finish(start(tmp_path, "stopped", "--only", CELL))
    assert "resumed    at step" in log.read_text()
    stopped = read_results(tmp_path / "stopped" / "cells" / f"{CELL}.json")
    assert stopped["files"] == straight["files"]
    assert stopped["scores"] == straight["scores"]
    assert stopped["parameters"] == straight["parameters"]

    rows = straight["scores"]["rows"]
    assert [(row["dataset"], row["names"]) for row in rows] == [
        ("Set5", ["0", "1"]),
        ("Set14", ["0", "1"]),
    ]
    bicubic = read_results(tmp_path / "straight" / "cells" / f"{BICUBIC}.json")
    assert [row["method"] for row in bicubic["scores"]["rows"]] == ["bicubic", "bicubic"]
    assert "2 of 2 cells finished" in finish(start(tmp_path, "straight", "--list"))

    folders = ("--results_dir", "straight/cells", "--output_dir", "again")
    out = finish(recipe(tmp_path, "repeat_cell.py", "--cell", CELL, *folders))
    assert f"+0.0000 dB as a mean, 0.0000 dB at most for one image; {SAME}" in out
    again = read_results(tmp_path / "again" / "cells" / CELL / "training" / "results.json")
    weights = "adapter_model.safetensors"
    assert again["files"][weights] == straight["files"][weights]["sha256"]
    bicubic_file = tmp_path / "straight" / "cells" / f"{BICUBIC}.json"
    before = bicubic_file.read_bytes()
    out = finish(recipe(tmp_path, "repeat_cell.py", "--cell", BICUBIC, *folders))
    assert "0.0000 dB at most for one image; there is no other seed" in out
    assert bicubic_file.read_bytes() == before
