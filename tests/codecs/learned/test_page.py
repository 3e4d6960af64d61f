"""docs/tiny_codecs.md: its tables are those of the results, and what it says of them holds."""

from __future__ import annotations

import hashlib
import importlib.util
import json

import pytest

from ucip_adapt.codecs.learned import TINY_CODECS


@pytest.fixture(scope="module")
def record(repo_root) -> dict:
    return json.loads((repo_root / "results" / "tiny_codecs.json").read_text("utf-8"))


def rows(record: dict, name: str) -> list[dict]:
    return [row for row in record["scores"]["rows"] if row["codec"] == name]


def test_the_tables_are_those_of_the_results(repo_root):
    path = repo_root / "benchmarks" / "tiny_codecs.py"
    spec = importlib.util.spec_from_file_location("ucip_test_tiny_codecs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (repo_root / "docs" / "tiny_codecs.md").read_text("utf-8")
    assert page.count("<!-- table:") == len(module.TABLES) == 3
    assert module.fill(page) == page, "run python benchmarks/tiny_codecs.py tables"


def test_the_results_are_of_the_weights_that_ship(record, repo_root):
    for name, codec in TINY_CODECS.items():
        sha256 = hashlib.sha256(codec.path.read_bytes()).hexdigest()
        assert record["parameters"][name]["sha256"] == sha256
        training = json.loads((repo_root / "results" / "tiny_codecs" / f"{name}.json").read_text())
        assert training["files"] == {codec.path.name: sha256}
        assert set(training["config"]["train_data_dir"]) == {"CID22", "embedded"}


@pytest.mark.parametrize("name", TINY_CODECS)
def test_means_rise_with_the_rate(record, name):
    own = rows(record, name)
    assert len(own) == len(TINY_CODECS[name].spec.qualities)
    for kind in ("bpp", "psnr_rgb", "psnr_y", "ms_ssim"):
        values = [row[kind] for row in own]
        assert values == sorted(set(values)), kind


def test_what_the_page_says_of_them(record):
    over = record["scores"]["over"]
    for name in ("tiny-mse", "tiny-elic"):
        assert min(v for v in over["webp"][name]["psnr_rgb"] if v is not None) > 0
    assert max(abs(v) for v in over["hevc-x265"]["tiny-mse"]["psnr_rgb"]) < 0.3
    assert min(over["hevc-x265"]["tiny-elic"]["psnr_rgb"]) > 0
    assert min(over["tiny-mse"]["tiny-msssim"]["ms_ssim"]) > 0
    assert max(over["tiny-mse"]["tiny-msssim"]["psnr_rgb"]) < 0
    first, *others = over["tiny-mse"]["tiny-perceptual"]["psnr_rgb"]
    assert first < 2 * min(others) < 0
    for mine, plain in zip(rows(record, "tiny-perceptual"), rows(record, "tiny-mse"), strict=False):
        assert mine["bpp"] == plain["bpp"]
        assert mine["detail_kept"] > plain["detail_kept"]
