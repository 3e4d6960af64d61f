"""R17: adapters written by earlier versions load and give the same images."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "fixtures"
FIXTURES = sorted(path.parent.name for path in FOLDER.glob("*/adapter_config.json"))


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "make_fixtures.py"))


def test_there_are_fixtures(maker: dict[str, Any]) -> None:
    assert set(maker["FIXTURES"]) <= set(FIXTURES)


@pytest.mark.parametrize("name", FIXTURES)
def test_old_adapter(name: str, maker: dict[str, Any]) -> None:
    prompt = "none" if name.endswith("prompt-free") else "dynamic"
    model = PeftModel.from_pretrained(maker["fixed_base"](prompt), str(FOLDER / name))
    expected = load_file(FOLDER / name / "expected.safetensors")
    model.double()  # As the maker does.
    images = maker["fixed_images"]().double()
    with torch.no_grad():
        sr = model(images)
        with model.disable_adapter():
            base = model(images)
    assert (sr - expected["sr"]).abs().max() <= 1e-6
    assert (base - expected["base"]).abs().max() <= 1e-6
    assert (expected["sr"] - expected["base"]).abs().max() > 1e-3
    assert expected["base"].std() > 0.05
