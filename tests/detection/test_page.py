"""The tables of docs/detection.md are those that its command makes."""

import make_detection as maker


def test_tables_are_fresh_and_all_there():
    page = maker.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- table:{name} -->" in page for name in maker.TABLES)
    assert maker.main(["--check"]) == 0


def test_a_stale_number_is_seen(monkeypatch, tmp_path):
    page = maker.PAGE.read_text(encoding="utf-8")
    stale = tmp_path / "detection.md"
    stale.write_text(page.replace("| webp | 10 | ", "| webp | 10 | 9", 1), "utf-8")
    monkeypatch.setattr(maker, "PAGE", stale)
    assert maker.main(["--check"]) == 1
    assert maker.main([]) == 0
    assert stale.read_text(encoding="utf-8") == page


def test_the_measurement_is_large_enough_and_adds_up():
    record = maker.read()
    config, scores = record["config"], record["scores"]
    assert config["pictures"] >= 40
    assert len(config["in_files"]) == 7
    assert len(scores["container"]) == 21
    assert len(scores["unlike"]) > 10
    for key, row in (scores["pixels"] | scores["unlike"]).items():
        assert row["right"] + row["wrong"] + row["unknown"] == row["pictures"], key
        assert sum(row["said"].values()) == row["pictures"]
    assert all(row["right"] == row["pictures"] for row in scores["container"].values())
