"""docs/api.md: up to date, complete, the same on every machine, and its examples run as written."""

from __future__ import annotations

import doctest
import inspect
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import make_api
import numpy as np
import pytest
import torch
from torch import nn

import ucip_adapt


@pytest.fixture(scope="module")
def page() -> str:
    return make_api.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_the_docstrings_say(page):
    assert make_api.render() == page, "docs/api.md is stale: run python docs/make_api.py"


def test_the_page_has_every_public_name_once(page):
    documented = re.findall(r"(?m)^### `(\w+)`$", page)
    assert sorted(documented) == sorted(set(ucip_adapt.__all__) - {"__version__"})
    assert documented
    anchors = [
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"(?m)^#+ (.+)$", page)
    ]
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\(#([\w-]+)\)", page)) <= set(anchors)


def test_the_page_says_nothing_of_this_machine(page, repo_root):
    for secret in (repo_root, Path.home(), tempfile.gettempdir(), sys.prefix):
        assert str(secret) not in page
    assert " at 0x" not in page
    assert ":`" not in page, "a Sphinx role was left as it is"
    assert "``" not in page.replace("```", ""), "a literal was left as it is"


def example_of(name: str, page: str) -> str:
    section = page.split(f"\n### `{name}`\n")[1].split("\n### ")[0].split("\n## ")[0]
    blocks = re.findall(r"```pycon\n(.*?)```", section, re.DOTALL)
    return "\n".join(blocks)


FUNCTIONS_AND_CLASSES = [name for name in ucip_adapt.__all__ if callable(getattr(ucip_adapt, name))]


@pytest.mark.parametrize("name", FUNCTIONS_AND_CLASSES)
def test_examples_run_with_the_names_that_the_page_promises(name, page):
    promised = {public: getattr(ucip_adapt, public) for public in ucip_adapt.__all__}
    promised |= {"np": np, "torch": torch, "nn": nn, "tempfile": tempfile, "Path": Path}
    source = example_of(name, page)
    example = doctest.DocTestParser().get_doctest(source, promised, name, "docs/api.md", 0)
    assert example.examples
    report: list[str] = []
    assert doctest.DocTestRunner().run(example, out=report.append).failed == 0, "".join(report)


# -- the guard: what the script refuses ------------------------------------------------------------


def undocumented(value):
    return value


def without_example(value):
    """Return it.

    Args:
        value: Anything.
    """
    return value


def with_empty_example(value):
    """Return it.

    Example:
        Left for later.
    """
    return value


@dataclass
class Generated:
    value: int


class Pair(NamedTuple):
    first: int


class HalfDocumented:
    """Something.

    Example:
        >>> HalfDocumented().method()
    """

    def method(self) -> None:
        pass


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (undocumented, "x has no docstring"),
        (Generated, "x has no docstring"),
        (Pair, "x has no docstring"),
        (without_example, "x has no example"),
        (with_empty_example, "x has no example"),
        (HalfDocumented, "x.method has no docstring"),
        (7, "x has no docstring below its assignment"),
    ],
)
def test_what_is_not_documented_is_refused(value, problem, monkeypatch):
    if isinstance(value, type):
        monkeypatch.setattr(make_api, "_is_ours", lambda cls: cls is value)
    assert make_api.problems("x", value, "ucip_adapt.models") == [problem]


def test_a_public_name_without_a_docstring_stops_the_page(monkeypatch):
    monkeypatch.setattr(ucip_adapt, "psnr", undocumented)
    with pytest.raises(ValueError, match="not documented: psnr has no docstring"):
        make_api.render()


def test_a_public_name_of_no_part_of_the_page_is_an_error(monkeypatch):
    monkeypatch.setitem(ucip_adapt._EXPORTS, "x", "ucip_adapt.elsewhere")
    with pytest.raises(ValueError, match=r"x: .* has no title for ucip_adapt\.elsewhere"):
        make_api.public_names()
    monkeypatch.delitem(ucip_adapt._EXPORTS, "x")
    monkeypatch.setattr(ucip_adapt, "__all__", [*ucip_adapt.__all__, "y"])
    with pytest.raises(ValueError, match="y: in __all__"):
        make_api.public_names()


def test_check_notices_a_stale_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_api, "render", lambda: "new\n")
    monkeypatch.setattr(make_api, "PAGE", tmp_path / "api.md")
    assert make_api.main(["--check"]) == 1
    (tmp_path / "api.md").write_text("old\n")
    assert make_api.main(["--check"]) == 1
    assert "stale: api.md: run python docs/make_api.py" in capsys.readouterr().err
    assert make_api.main([]) == 0
    assert (tmp_path / "api.md").read_bytes() == b"new\n"
    assert make_api.main(["--check"]) == 0


# -- rendering, compared with what a reader should see --------------------------------------------


def texts(a: np.ndarray, *rest: tuple[int, ...], c="x", **d: int) -> list[ucip_adapt.UCIP]:
    """Its annotations are texts, because of this module's first import."""


def real(a: Path, b: torch.Tensor | None, *, c: tuple[int, ...] = (1,), d: float = 0.5) -> None:
    """Its annotations are made types below."""


real.__annotations__ = {
    "a": Path,
    "b": torch.Tensor | None,
    "c": tuple[int, ...],
    "d": float,
    "return": None,
}


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            texts,
            'f(a: ndarray, *rest: tuple[int, ...], c="x", **d: int) -> list[UCIP]',
        ),
        (
            real,
            "f(a: Path, b: Tensor | None, *, c: tuple[int, ...] = (1,), d: float = 0.5) -> None",
        ),
    ],
)
def test_signatures_name_types_without_their_modules(function, text):
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    found = make_api.signature_text("f", parameters, signature.return_annotation)
    assert " ".join(found.split()).replace("( ", "(").replace(", )", ")") == text


def test_fields_of_another_library_are_not_positions_of_ours(page):
    start = page.index("\n### `DynamicPromptConfig`")
    assert (
        page[start:].split("```python\n")[1].startswith("DynamicPromptConfig(\n    *,\n    codec:")
    )


def test_a_docstring_becomes_markdown():
    text = """One ``line``, see :func:`~a.b.go` and :meth:`C.run`.

    More words
    on two lines.

    - one
    - two, which
      goes on

    Args:
        first: With ``code`` and
            a second line: here.
        **rest: Others.

    Returns:
        A number.

    Raises:
        ValueError: Never.

    Example:
        >>> 1 + 1
        2
    """
    assert "\n\n".join(make_api.docstring_text(make_api.parse(text))) == (
        "One `line`, see `go` and `C.run`.\n\n"
        "More words on two lines.\n\n"
        "- one\n- two, which goes on\n\n"
        "**Args:**\n\n- `first`: With `code` and a second line: here.\n- `**rest`: Others.\n\n"
        "**Returns:** A number.\n\n"
        "**Raises:**\n\n- `ValueError`: Never.\n\n"
        "```pycon\n>>> 1 + 1\n2\n```"
    )


def test_an_entry_without_a_name_is_an_error():
    parsed = make_api.parse("One line.\n\nArgs:\n    no colon here\n")
    with pytest.raises(ValueError, match="not of the form 'name: text': 'no colon here'"):
        list(make_api.docstring_text(parsed))
