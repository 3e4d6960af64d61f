"""Cells: names that say everything, and commands that the recipes understand as they are meant."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from ucip_adapt.config import parse_config
from ucip_adapt.errors import ConfigError, UnknownNameError
from ucip_adapt.experiments.cells import METHODS, Cell, make_cell, read_method, row_of_table_3
from ucip_adapt.experiments.commands import stages_of
from ucip_adapt.experiments.groups import read_experiments
from ucip_adapt.experiments.ledger import BaseFacts

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
CELL = Cell("webp", "control", "b")
OTHER = {
    "codec": "jpeg",
    "method": "everything",
    "base": "c",
    "evaluate_on": "short",
    "learning_rate": 0.01,
    "rate_codec": "avif",
    "max_train_steps": 100,
    "train_batch_size": 3,
    "patch_size": 48,
    "train_data": "embedded",
    "suite": "ucsr-open",
    "seed": 1,
    "qualities": (10,),
    "also_measure": ("jpeg",),
    "validation_images": 7,
}


def base(kind: str = "prompted") -> BaseFacts:
    prompt = "dynamic" if kind == "prompted" else "none"
    return BaseFacts("some/base", kind, prompt, "f" * 64, 1000)


def test_every_part_of_a_specification_shows_in_the_name() -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(Cell)}
    names = {dataclasses.replace(CELL, **{key: value}).id for key, value in OTHER.items()}
    assert len(names | {CELL.id}) == len(OTHER) + 1


def test_the_names_of_the_experiments_are_file_names_and_do_not_collide() -> None:
    groups = read_experiments(RECIPES / "experiments.toml")
    cells = {cell for group in groups.values() for cell in group.cells}
    assert len({cell.id.lower() for cell in cells}) == len(cells) > 100
    for cell in cells:
        assert re.fullmatch(r"[\w.@+-]{1,150}", cell.id), cell.id


def test_what_has_no_meaning_for_a_method_makes_no_other_cell() -> None:
    shared = {"codec": "webp", "base": "b", "evaluate_on": "short", "learning_rate": 1e-3}
    one = make_cell({**shared, "method": "bicubic", "seed": 2, "max_train_steps": 9}, "here")
    assert one == Cell("webp", "bicubic", None, "short")
    one = make_cell({**shared, "method": "base", "seed": 2, "suite": "webp"}, "here")
    assert one == Cell("webp", "base", "b", "short")
    one = make_cell({**shared, "method": "dpm", "suite": "webp", "also_measure": ["webp"]}, "here")
    assert one == Cell("webp", "dpm", "b", "short", learning_rate=1e-3)
    assert make_cell({**shared, "method": "dpm", "learning_rate": "best"}, "").learning_rate is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 3}, UnknownNameError, "key of here: 'steps'.* Known: also_measure, base, codec"),
        ({"method": "dpn"}, UnknownNameError, "unknown method 'dpn'; did you mean 'dpm'"),
        ({"method": "everything@last:1"}, ConfigError, "'@last:N' may follow basis, dpm,"),
        ({"method": "dpm@last:0"}, ConfigError, "'@last:N' may follow"),
        ({"method": "dpm@"}, ConfigError, "'@last:N' may follow"),
        ({"codec": "wepb"}, UnknownNameError, "unknown codec 'wepb'; did you mean 'webp'"),
        ({"also_measure": ["jpg"]}, UnknownNameError, "unknown codec 'jpg'"),
        ({"evaluate_on": "all"}, UnknownNameError, "value of evaluate_on: 'all'.* short"),
        ({"base": "none"}, ConfigError, "here: method 'dpm' needs 'base'"),
        ({"base": "runs/b"}, ConfigError, "by name, not by path"),
        ({"seed": -1}, ConfigError, "here: seed: -1 is below the smallest allowed, 0"),
        ({"learning_rate": "high"}, ConfigError, "here: learning_rate: expected a number"),
        ({"learning_rate": float("inf")}, ConfigError, "learning_rate: must be finite.* not inf"),
        ({"learning_rate": 0}, ConfigError, "here: learning_rate: must be finite and above 0, not"),
        ({"qualities": [10, 101]}, ConfigError, "here: qualities: webp takes quality 0 to 100, no"),
        ({"qualities": [10, 20, 10]}, ConfigError, "here: qualities: 10 is there twice"),
        ({"also_measure": ["jpeg"] * 2}, ConfigError, "here: also_measure: jpeg is there twice"),
        ({"method": "base", "evaluate_on": "validation"}, ConfigError, "base has no gain"),
    ],
)
def test_a_slip_is_named(changes, error, message) -> None:
    with pytest.raises(error, match=message):
        make_cell({"codec": "webp", "method": "dpm", "base": "b", **changes}, "here")


def test_rows_of_table_3() -> None:
    expected = {
        "base": ("i", None),
        "dpm": ("iv", "ii"),
        "dpm+offset@last:1": ("iv", "ii"),
        "everything": ("v", "iii"),
        "control": ("control", "control"),
        **dict.fromkeys(("lora:dpm", "dora", "norms+biases"), (None, None)),
    }
    for method, rows in expected.items():
        kinds = ("prompted", "prompt-free")
        assert tuple(row_of_table_3(method, kind) for kind in kinds) == rows, method
    assert row_of_table_3("bicubic", None) is None


def parsed(stage):
    """The options that the recipe itself makes of a stage's flags."""
    script, *flags = stage.arguments
    key = f"ucip_test_recipe_{Path(script).stem}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, RECIPES / script)
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return parse_config(sys.modules[key].Options, flags)


TRAINED = [name for name, method in METHODS.items() if method.recipe]


@pytest.mark.parametrize("method", [*TRAINED, "dpm@last:1", "lora@last:2"])
def test_the_recipe_is_told_what_the_cell_says(method, tmp_path) -> None:
    cell = Cell(
        **{**OTHER, "method": method, "also_measure": ("avif",), "train_data": "CID22+embedded"}
    )
    (tmp_path / "Manga109").mkdir()
    first, *rest = stages_of(cell, base(), 0.02, tmp_path / "run", tmp_path)
    options = parsed(first)
    told = {
        "pretrained_model_name_or_path": "some/base",
        "learning_rate": 0.02,
        "max_train_steps": 100,
        "train_batch_size": 3,
        "patch_size": 48,
        "train_data_dir": ("CID22", "embedded"),
        "seed": 1,
        "data": tmp_path,
        "output_dir": tmp_path / "run" / "training",
        "checkpointing_steps": 50,
    }
    if method == "control":
        told |= {"suite": "ucsr-open", "prompt": "dynamic", "max_eval_images": 1}
        judged = parsed(rest.pop(0))
        assert (judged.evaluate_on, judged.max_images, judged.skip_base) == (
            ("GB82-val",),
            7,
            False,
        )
        assert (judged.codec, judged.qualities) == ("jpeg", (10,))
    else:
        told |= {"codec": "jpeg", "qualities": (10,), "max_eval_images": 7}
        told |= {"evaluate_on": ("GB82-val",), "validation_data_dir": "GB82-val"}
    if first.arguments[0] == "tune_prompts.py":
        kind, _, budget = method.partition("@")[0].partition(":")
        peft = kind if kind in {"lora", "dora"} else "prompts"
        told |= {"peft_method": peft, "trainable_blocks": read_method(method)[1]}
        told |= {"trainable": kind if peft == "prompts" else budget or "dpm+offset"}
    assert {key: getattr(options, key) for key in told} == told
    measured = [parsed(stage) for stage in rest]
    assert [(one.codec, one.evaluate_on) for one in measured] == [
        ("jpeg", ("Set5", "Set14", "BSD100/every4")),
        ("jpeg", ("Urban100/subset25",)),
        ("avif", ("Set5", "Set14")),
    ]
    for one in measured:
        assert one.adapter == (f"tuned={tmp_path / 'run' / 'training'}",)
        assert (one.skip_base, one.per_image, one.metric_protocols) == (True, True, ("y-c4",))
        assert one.qualities == ((10,) if one.codec == "jpeg" else ())


def test_baselines_are_measured_and_nothing_else(tmp_path) -> None:
    [plain] = stages_of(Cell("webp", "bicubic", None, "small"), None, None, tmp_path, None)
    options = parsed(plain)
    assert (options.baselines, options.adapter, options.skip_base) == ("bicubic", (), False)
    full = stages_of(Cell("webp", "base", "b"), base(), None, tmp_path, tmp_path)
    assert [parsed(stage).baselines for stage in full] == ["base", "base"]
    assert [parsed(stage).evaluate_on for stage in full] == [
        ("Set5", "Set14", "BSD100"),
        ("Urban100",),  # there is no Manga109 in this data folder
    ]
    (tmp_path / "Manga109").mkdir()
    full = stages_of(Cell("webp", "base", "b"), base(), None, tmp_path, tmp_path)
    assert parsed(full[-1]).evaluate_on == ("Manga109",)


@pytest.mark.parametrize(("steps", "part"), [(3, 3), (100, 50), (120, 40), (53, 53), (51, 17)])
def test_the_last_step_of_a_training_leaves_a_checkpoint(steps, part, tmp_path) -> None:
    cell = Cell("webp", "dpm", "b", max_train_steps=steps)
    assert parsed(stages_of(cell, base(), 0.01, tmp_path, None)[0]).checkpointing_steps == part
