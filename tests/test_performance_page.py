"""The tables of docs/performance.md are those that its command makes."""

from __future__ import annotations

import make_performance as maker
import pytest


def test_tables_are_fresh_and_all_there():
    page = maker.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- table:{name} -->" in page for name in maker.TABLES)
    assert maker.main(["--check"]) == 0


@pytest.mark.parametrize(
    "before", ["| fp32 | UCIP full | ", "| 8 of 32 | 0 | ", "| jpeg | ", "| ONNX | "]
)
def test_a_stale_number_is_seen(monkeypatch, tmp_path, before):
    page = maker.PAGE.read_text(encoding="utf-8")
    assert before in page
    stale = tmp_path / "performance.md"
    stale.write_text(page.replace(before, before + "9"), "utf-8")
    monkeypatch.setattr(maker, "PAGE", stale)
    assert maker.main(["--check"]) == 1
    assert maker.main([]) == 0
    assert stale.read_text(encoding="utf-8") == page


def test_a_form_that_failed_is_a_row_with_its_reason(monkeypatch):
    rows = {"ONNX": {"failed": "ValueError: no"}, "torch.compile": {"skipped": "not installed"}}
    monkeypatch.setattr(maker, "EXPORTS", ("one",))
    monkeypatch.setattr(maker, "read", lambda _: {"scores": {"networks": {"base": rows}}})
    table = maker.exports().splitlines()
    assert table[2].startswith("| base | ONNX | ValueError: no |")
    assert table[3].startswith("| base | torch.compile | not installed |")
    assert len({line.count("|") for line in table}) == 1
