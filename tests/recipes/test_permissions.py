"""Permission to run programs is the user's own word, in every recipe: a file cannot give it."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from ucip_adapt.config import parse_config
from ucip_adapt.errors import ConfigError

RECIPES = sorted(path.stem for path in Path(__file__).parents[2].joinpath("recipes").glob("*.py"))


def test_there_are_recipes_that_ask_for_it(recipes):
    asking = [n for n in RECIPES if "allow_command" in typing.get_type_hints(recipes(n).Options)]
    assert {"evaluate", "pretrain_base", "tune_full", "tune_prompts"} <= set(asking)


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_cannot_give_it(recipes, tmp_path, name):
    """Neither under its name nor with hyphens; the flag can."""
    options = recipes(name).Options
    fields = [field for field in typing.get_type_hints(options) if field.startswith("allow_comm")]
    for field in fields:
        for key in (field, field.replace("_", "-")):
            file = tmp_path / "downloaded.toml"
            file.write_text(f"{key} = true\n", encoding="utf-8")
            with pytest.raises(ConfigError, match=f"'{key}' is for the command line alone"):
                parse_config(options, ["--config", str(file)])
        assert getattr(parse_config(options, [f"--{field}"]), field)
