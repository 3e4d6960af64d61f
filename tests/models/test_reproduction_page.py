"""``docs/reproduction.md`` must name files and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP_FOLDERS = ("recipes/", "tests/", "docs/")


@pytest.fixture
def page(repo_root) -> str:
    return (repo_root / "docs" / "reproduction.md").read_text(encoding="utf-8")


def test_files_exist(page, repo_root):
    quoted = set(re.findall(r"`([\w./-]+)`", page))
    named = {text for text in quoted if text.endswith((".py", ".toml", "/"))} - {"ucip_adapt/"}
    assert len(named) > 20
    for name in named:
        folder = repo_root if name.startswith(TOP_FOLDERS) else repo_root / "ucip_adapt"
        assert (folder / name).exists(), name


def test_tests_exist(page, repo_root):
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 15
    defined = {
        name
        for path in Path(repo_root, "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named <= defined, named - defined


def test_names_of_the_package_exist(page):
    from ucip_adapt import models

    for name in re.findall(r"`((?!test_)\w*(?:authors|UCIP)\w*)(?:\.(\w+))?`", page):
        value = getattr(models, name[0])
        assert not name[1] or hasattr(value, name[1]), name
