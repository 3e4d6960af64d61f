"""Small made-up results, one file of every kind that has a table of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import synthetic_cells as synthetic

from ucip_adapt.training.results import write_results

ABOUT = {"cpu": "AMD EPYC", "cpu_cores": 2, "torch_threads": 1, "commit": "abcdef0123456789+dirty"}


def score(method, psnr, *, codec="jpeg", quality=10, dataset="Set5"):
    place = {"dataset": dataset, "codec": codec, "quality": quality, "protocol": "y-c4"}
    return {"method": method, **place, "psnr_db": psnr, "ssim": 0.7, "images": 5, "source": ""}


def base_rows():
    """Two codecs on two sets; vtm has no score on Set14."""
    rows = []
    for number, method in enumerate(("bicubic", "base whole", "base")):
        rows += [
            score(method, 24.5 + 0.25 * number),
            score(method, 25.5 + 0.5 * number, quality=20),
            score(method, 23.5 + 0.125 * number, dataset="Set14"),
            score(method, 26.5 + 0.0625 * number, codec="vtm", quality=37),
            score(method, None, codec="vtm", quality=37, dataset="Set14") | {"ssim": None},
        ]
    return rows


def records():
    """Records by file name, without those of the ledger."""
    tuned = [
        score(m, 25.0 + g, codec="webp", dataset=d)
        for d in ("Set5", "Set14")
        for m, g in (("bicubic", -0.5), ("base", 0.0), ("dpm@CID22", 0.125), ("lora@CID22", 0.25))
    ]
    about = {"images": "CID22", "learning_rate": 0.03, "trained": 1312, "seconds_per_step": 0.91}
    curve = {"curve": "bicubic", "codec": "webp", "protocol": "y-c4", "ssim": 0.8, "images": 7}
    tiny = {"quality": 1, "psnr_y": 25.5, "ms_ssim": 0.8125, "detail_kept": 0.3}
    return {
        "base": {
            "kind": "evaluate",
            "config": {"pretrained_model_name_or_path": "ucip-tiny-v9"},
            "scores": {"rows": base_rows()},
        },
        "ways": {
            "kind": "methods",
            "config": {"base": "ucip-tiny-v9"},
            "parameters": {
                "methods": {
                    "dpm@CID22": {**about, "bytes": 6488},
                    "lora@CID22": {**about, "bytes": 65128},
                }
            },
            "scores": {"rows": tuned},
        },
        "one": {
            "kind": "tune_prompts",
            "config": {"train_data_dir": ["CID22"], "max_train_steps": 200, "learning_rate": 0.03},
            "parameters": {"trained": 1312},
            "scores": {"rows": tuned[1:3]},
        },
        "rd": {
            "kind": "rate_distortion",
            "scores": {
                "images": {"set": "GB82-val", "count": 7},
                "points": [
                    {**curve, "quality": 10, "bpp": 0.25, "psnr_db": 29.25},
                    {**curve, "quality": 40, "bpp": 0.75, "psnr_db": 31.75},
                ],
                "anchor": "jpeg",
                "bd_rate_percent": {"psnr_db": {"bicubic": {"jpeg": 0.0, "webp": -41.25}}},
            },
        },
        "speed": {
            "kind": "codecs",
            "config": {"set": "Set14"},
            "scores": {
                "rows": [
                    {"codec": "webp", "parameter": "quality", "quality": 10, "source": "Pillow 1"}
                    | {"bpp": 0.5, "psnr_db y-c0": 26.125, "psnr_db rgb-c0": 23.125}
                    | {"encode_seconds": 0.00025, "roundtrip_cpu_seconds": 0.00075}
                ]
            },
        },
        "equal": {
            "kind": "matched_rates",
            "scores": {
                "settings": {
                    "avif": {
                        "10": {"setting": 28, "bpp": 0.625, "off_percent": 2.5, "psnr_rgb_db": 26.5}
                    }
                }
            },
        },
        "miniatures": {
            "kind": "tiny_codecs",
            "scores": {"rows": [{"codec": "tiny-mse", "bpp": 0.375, "psnr_rgb": 24.125, **tiny}]},
        },
        "bench": {
            "kind": "benchmark",
            "scores": {"tiny": {"cpu_seconds": 0.65, "spread": [0.5, 0.75]}},
        },
    }


def write(folder: Path, name: str, record) -> None:
    whole = {"command": f"python make_{name}.py", "environment": ABOUT, **record}
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder / f"{name}.json", whole)


@pytest.fixture
def results(tmp_path) -> Path:
    """A folder with one file of each kind."""
    for name, record in records().items():
        write(tmp_path / "results", name, record)
    return tmp_path / "results"


@pytest.fixture
def ledger(tmp_path) -> Path:
    """A folder with the cells of a Table 3, one of forgetting, and the paper's numbers."""
    folder = tmp_path / "ledger"
    cells = synthetic.table_of_cells(seeds=(0, 1))
    cells[0] = synthetic.cell("base", row="i", also={"jpeg": 0.0})
    cells.append(synthetic.cell("lora", row=None, gain=0.3, also={"jpeg": -0.0625}))
    for cell in cells:
        write(folder / "cells", cell["config"]["cell"], {**cell, "environment": ABOUT})
    paper = [
        {"protocol": row, "dataset": "Set5", "quality": 10, "psnr_db": psnr, "ssim": 0.5}
        for row, psnr in (("i", 26.25), ("iv", 26.75))
    ]
    off = {"different": 0, "largest": 0.0}
    write(folder, "off", {"kind": "switched_off", "scores": {"methods": {"lora": off}}})
    text = json.dumps({"source": "the paper", "table_3_webp": paper})
    (folder / "paper.json").write_text(text, encoding="utf-8")
    return folder
