"""The tables of docs/detection.md are those that its command makes."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_detection", ROOT / "docs/make_detection.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_fresh_and_all_there(maker):
    page = maker.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- table:{name} -->" in page for name in maker.TABLES)
    assert maker.fill(page) == page, "run python docs/make_detection.py"


def test_a_stale_number_is_seen(maker, monkeypatch, tmp_path):
    page = maker.PAGE.read_text(encoding="utf-8")
    stale = tmp_path / "detection.md"
    stale.write_text(page.replace("| webp | 10 | ", "| webp | 10 | 9", 1), "utf-8")
    monkeypatch.setattr(maker, "PAGE", stale)
    assert maker.main(["--check"]) == 1
    assert maker.main([]) == 0
    assert stale.read_text(encoding="utf-8") == page


def test_the_measurement_is_large_enough_and_adds_up(maker):
    record = maker.read()
    config, scores = record["config"], record["scores"]
    assert config["pictures"] >= 40
    assert len(config["in_files"]) == 6
    assert len(scores["container"]) == 18
    assert len(scores["unlike"]) > 10
    for key, row in (scores["pixels"] | scores["unlike"]).items():
        assert row["right"] + row["wrong"] + row["unknown"] == row["pictures"], key
        assert sum(row["said"].values()) == row["pictures"]
    assert all(row["right"] == row["pictures"] for row in scores["container"].values())
