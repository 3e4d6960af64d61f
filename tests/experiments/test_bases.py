"""Trainings of bases: codecs count alike, holes stay holes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ucip_adapt.experiments.bases import curves, gains_by_slot, mean_of_slots, stages, tried

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


def suite(scores, names=None):
    """Two slots, jpeg with two qualities and hm with one; ``scores`` by method, then by codec."""
    rows = []
    for method, by_codec in scores.items():
        for codec, qualities in (("jpeg", (10, 20)), ("hm", (47,))):
            for quality in qualities if codec in by_codec else ():
                images = by_codec[codec]
                rows.append(row(method, codec, quality, sum(images) / len(images)))
                if names:
                    rows[-1] |= {"names": names, "psnr_db_images": images}
    slots = [
        {"name": "first", "codec": "jpeg", "qualities": [10, 20]},
        {"name": "second", "codec": "hm", "qualities": [47]},
    ]
    return {"parameters": {"slots": slots}, "scores": {"rows": rows}}


NO_PAPER = Path("no/paper.json")


def test_slots_count_alike():
    record = suite(
        {
            "bicubic": {"jpeg": [25.0, 26.0], "hm": [24.0, 24.0]},
            "base": {"jpeg": [25.1, 26.1], "hm": [24.5, 24.5]},
        }
    )
    table = gains_by_slot(record, NO_PAPER)
    assert table.header == ("slot", "codec", "qualities", "base, as configured", "paper")
    assert [line[3] for line in table.rows] == ["+0.100", "+0.500", "**+0.300**"]


def test_the_paper_stands_beside_codecs_that_it_has(tmp_path):
    """Over our own bicubic, on the very same cells only."""
    cells = [("val", "jpeg", 10, 25.8), ("val", "jpeg", 20, 27.2), ("other", "hm", 47, 26.0)]
    names = ("dataset", "codec", "quality", "psnr_db")
    table = {"table_1_ucip": [dict(zip(names, cell, strict=True)) for cell in cells]}
    (tmp_path / "paper.json").write_text(json.dumps(table))
    record = suite(
        {
            "bicubic": {"jpeg": [25.0, 26.0], "hm": [24.0, 24.0]},
            "base": {"jpeg": [25.1, 26.1], "hm": [24.5, 24.5]},
        }
    )
    # The record's cells hold 25.5, the mean of two images, at both qualities.
    beside = [line[-1] for line in gains_by_slot(record, tmp_path / "paper.json").rows]
    assert beside == ["+1.000", "-", "-"]
    table["table_1_ucip"].append({**table["table_1_ucip"][-1], "dataset": "val"})
    (tmp_path / "paper.json").write_text(json.dumps(table))
    beside = [line[-1] for line in gains_by_slot(record, tmp_path / "paper.json").rows]
    assert beside == ["+1.000", "+2.000", "-"]


def test_a_slot_that_is_not_complete_leaves_no_mean():
    record = suite(
        {
            "bicubic": {"jpeg": [25.0, 26.0], "hm": [24.0, 24.0]},
            "base": {"jpeg": [25.1, 26.1]},
        }
    )
    assert [line[3] for line in gains_by_slot(record, NO_PAPER).rows] == ["+0.100", "-", "-"]


def test_one_network_over_another_has_intervals_over_images():
    record = suite(
        {
            "bicubic": {"jpeg": [25.0, 26.0], "hm": [24.0, 24.0]},
            "base": {"jpeg": [25.1, 26.1], "hm": [24.5, 24.5]},
            "other": {"jpeg": [25.3, 26.1], "hm": [24.3, 24.7]},
        },
        names=["a", "b"],
    )
    table = gains_by_slot(record, NO_PAPER, reference="base", names={"other": "the other"})
    assert table.header == ("slot", "codec", "qualities", "the other")
    # By image: jpeg +0.2 and 0, hm -0.2 and +0.2; over the slots 0 and +0.1, an image at a time.
    assert [line[3] for line in table.rows] == [
        "+0.100 [+0.000, +0.200]",
        "+0.000 [-0.200, +0.200]",
        "**+0.050 [+0.000, +0.100]**",
    ]


def test_mean_of_slots_counts_slots_alike():
    record = suite({"base": {"jpeg": [25.0, 26.0], "hm": [24.0, 24.0]}})
    assert mean_of_slots(record, "val") == pytest.approx((25.5 + 24.0) / 2)
