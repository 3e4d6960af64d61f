"""The public names: the table, `__all__` and what type checkers see are three views of one list."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ucip_adapt


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'peft', 'evaluate', 'accelerate', 'datasets', 'gradio', 'numpy'}"
    code = f"import sys, ucip_adapt; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_table_all_and_typed_imports_agree() -> None:
    table = ucip_adapt._EXPORTS
    assert sorted(ucip_adapt.__all__) == sorted([*table, "__version__"])
    tree = ast.parse(Path(ucip_adapt.__file__).read_text(encoding="utf-8"))
    typed = {
        alias.asname: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == table
    assert typed


@pytest.mark.parametrize("name", ucip_adapt.__all__)
def test_every_public_name_resolves(name: str) -> None:
    value = getattr(ucip_adapt, name)
    assert value is not None
    assert getattr(ucip_adapt, name) is value
    assert name in dir(ucip_adapt)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ucip_adapt' has no attribute 'UCIPP'"):
        ucip_adapt.UCIPP  # noqa: B018


@pytest.mark.slow  # each imports PEFT in a fresh interpreter
@pytest.mark.parametrize("first", ["import peft, ucip_adapt", "import ucip_adapt, peft"])
def test_peft_knows_the_method_whichever_is_imported_first(first: str) -> None:
    code = f"{first}; print(peft.PeftType('DYNAMIC_PROMPT').value)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "DYNAMIC_PROMPT\n"
