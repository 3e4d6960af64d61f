"""Trainings of bases: codecs count alike, holes stay holes."""

from __future__ import annotations

import pytest

from ucip_adapt.experiments.bases import curves, stages, tried

STAGE = {
    "settings": ["jpeg:10", "jpeg:20", "hm:47"],
    "train_data_dir": ["CID22", "embedded"],
    "max_train_steps": 2600,
    "train_batch_size": 2,
    "patch_size": 64,
    "learning_rate": 1e-3,
    "training_seconds": 150.0,
    "hardware": "made up",
    "threads": 1,
}


def row(method, codec, quality, psnr_db, protocol="y-c4"):
    return {
        "method": method,
        "dataset": "val",
        "codec": codec,
        "quality": quality,
        "protocol": protocol,
        "psnr_db": psnr_db,
        "images": 3,
    }


@pytest.fixture
def record():
    rows = [
        *(row("bicubic", "jpeg", q, 25.0) for q in (10, 20, 30)),
        *(row("base", "jpeg", q, 25.1) for q in (10, 20, 30)),
        *(row("base", "jpeg", q, 99.0, "rgb-c4") for q in (10, 20, 30)),
        row("bicubic", "hm", 47, 24.0),
        row("base", "hm", 47, 24.5),
    ]
    curve = [{"step": 650, "val_gain_db": 0.4, "train_loss": 0.05}]
    return {
        "parameters": {"stages": [{**STAGE, "max_train_steps": 1100}, STAGE]},
        "scores": {"rows": rows, "curve": curve},
    }


def test_gain_of_a_training(record):
    [line] = tried({"one": record}).rows
    # jpeg +0.1 of three settings, hm +0.5 of one: codecs count alike
    assert line[:2] == ("one", "2,600")
    assert line[-3:] == ("3 of val", "-", "+0.300")
    assert line[5] == "2 min, made up, 1 thread"


def test_stages(record):
    first, second = stages({"one": record}).rows
    assert first[:5] == ("one", "1", "3", "CID22 + embedded", "1,100")
    assert second[1] == "2"


def test_curves(record):
    short = {**record, "scores": {"rows": [], "curve": []}}
    assert curves({"one": record, "short": short}) == {"one": [(650.0, 0.4)]}
    assert tried({"short": short}).rows[0][-3:] == ("-", "-", "-")
