"""Tables in pages: filled by name, written or compared, and `make docs` runs every script."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from pages import fill, finish

ROOT = Path(__file__).parents[2]
PAGE = "a\n<!-- table:one -->\nold\n<!-- end -->\nb\n<!-- table:two -->\n<!-- end -->\n"


def test_tables_are_filled_by_name():
    filled = fill(PAGE, {"one": lambda: "1\n1", "two": lambda: r"\g<0>"})
    assert filled == (
        "a\n<!-- table:one -->\n1\n1\n<!-- end -->\nb\n<!-- table:two -->\n\\g<0>\n<!-- end -->\n"
    )
    assert fill(filled, {"one": lambda: "old", "two": lambda: ""}) != filled


def test_a_table_that_nothing_makes_is_named():
    with pytest.raises(ValueError, match=r"no table 'two'\. Known: one, three"):
        fill(PAGE, {"one": lambda: "", "three": lambda: ""})


def test_only_stale_files_are_written_and_named(tmp_path, capsys):
    fresh, stale, new = (tmp_path / name for name in ("fresh.md", "stale.md", "new.svg"))
    fresh.write_text("same", "utf-8")
    stale.write_text("old", "utf-8")
    before = fresh.stat().st_mtime_ns
    wanted = {fresh: "same", stale: "x\n", new: "y"}
    assert finish(wanted, ["--check"], "python z.py") == 1
    assert capsys.readouterr().err == "stale: stale.md, new.svg: run python z.py\n"
    assert stale.read_text("utf-8") == "old"
    assert not new.exists()
    assert finish(wanted, [], "python z.py") == 0
    assert (stale.read_bytes(), new.read_text("utf-8")) == (b"x\n", "y")
    assert fresh.stat().st_mtime_ns == before
    assert finish(wanted, ["--check"], "python z.py") == 0


def test_every_page_with_tables_has_a_script_that_make_docs_runs():
    made = set()
    for script in (ROOT / "docs").glob("make_*.py"):
        module = importlib.import_module(script.stem)
        made.update(getattr(module, "PAGES", None) or [module.PAGE])
    pages = {p for p in (ROOT / "docs").glob("*.md") if "<!-- table:" in p.read_text("utf-8")}
    by_benchmark = ROOT / "docs" / "tiny_codecs.md"  # benchmarks/tiny_codecs.py tables
    assert pages - made == {by_benchmark}
    assert "docs/make_*.py" in (ROOT / "Makefile").read_text("utf-8")
