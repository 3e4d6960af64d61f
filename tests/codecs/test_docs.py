"""docs/codecs.md says what the table of codecs says, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ucip_adapt import codecs
from ucip_adapt.codecs import CODECS, get_codec


@pytest.fixture(scope="module")
def page(repo_root: Path) -> str:
    return (repo_root / "docs" / "codecs.md").read_text(encoding="utf-8")


def test_the_table_names_every_codec_with_its_slot_and_qualities(page: str) -> None:
    section = page.split("## The table")[1].split("\n## ")[0].split("\n### ")[0]
    rows = re.findall(r"(?m)^\| ([a-z0-9-]+) \| ([a-z0-9-]+)( \(stand-in\))? \| (.+?) \|", section)
    shown = {
        name: (family, not stand_in, tuple(map(int, re.findall(r"\d+", knob))))
        for name, family, stand_in, knob in rows
        if name != "codec"
    }
    assert shown == {
        name: (codec.spec.family, codec.spec.faithful, codec.spec.qualities)
        for name, codec in CODECS.items()
    }


def test_the_table_names_the_extra_that_brings_a_codec(page: str) -> None:
    for name, codec in CODECS.items():
        if codec.spec.extra and name not in {"hm", "vtm"}:
            row = re.search(rf"(?m)^\| {name} \| .*$", page)
            assert row is not None
            assert f"ucip-adapt[{codec.spec.extra}]" in row[0], name


def test_the_python_example_runs(
    page: str, monkeypatch: pytest.MonkeyPatch, lr: np.ndarray
) -> None:
    monkeypatch.setattr(codecs, "CODECS", dict(CODECS))
    [example] = re.findall(r"(?s)```python\n(.*?)```", page)
    exec(example, {})  # noqa: S102
    quick = get_codec("webp-quick").roundtrip(lr, 30)
    assert quick.num_bytes != get_codec("webp").roundtrip(lr, 30).num_bytes


def test_variables_that_the_page_names_are_read(page: str, repo_root: Path) -> None:
    named = set(re.findall(r"UCIP_[A-Z0-9_]+", page))
    sources = "".join(
        path.read_text(encoding="utf-8") for path in (repo_root / "ucip_adapt").rglob("*.py")
    )
    assert named
    assert {name for name in named if name.removesuffix("_CFG") not in sources} == set()
