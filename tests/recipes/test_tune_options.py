"""Options of ``tune_prompts.py`` that change how it computes, and those that must not matter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import load_file

from ucip_adapt.errors import ConfigError
from ucip_adapt.models import UCIP
from ucip_adapt.training import tuning_run
from ucip_adapt.tuning import DynamicPromptConfig, add_prompt_adapter


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    """The run that others are compared with."""
    return run("tune_prompts", tmp_path_factory.mktemp("plain") / "out")


def distance(first, second):
    """Largest difference between two adapters."""
    a, b = read_safetensors(first.bytes()), read_safetensors(second.bytes())
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def test_the_same_seed_gives_the_same_bytes(run, plain, tmp_path):
    again = run("tune_prompts", tmp_path / "out")
    assert again.bytes() == plain.bytes()
    assert again.losses == plain.losses
    assert again.record["scores"] == plain.record["scores"]


def test_another_seed_gives_other_crops(run, plain, tmp_path):
    other = run("tune_prompts", tmp_path / "out", seed=1)
    assert other.losses[0] != plain.losses[0]
    assert other.bytes() != plain.bytes()


def test_workers_change_nothing(run, plain, tmp_path):
    done = run("tune_prompts", tmp_path / "out", dataloader_num_workers=2)
    assert done.losses == plain.losses
    assert done.bytes() == plain.bytes()


def test_gradient_checkpointing_changes_only_memory(run, plain, tmp_path):
    done = run("tune_prompts", tmp_path / "out", gradient_checkpointing=True)
    assert done.model.get_base_model().gradient_checkpointing
    assert done.losses == pytest.approx(plain.losses, abs=1e-6)
    assert distance(done, plain) < 1e-5


def test_another_sampler_gives_the_same_training(run, plain, tmp_path):
    done = run("tune_prompts", tmp_path / "out", sampler="gather")
    base = done.model.get_base_model()
    assert {layer.mixer.sampler for block in base.blocks for layer in block.layers} == {"gather"}
    assert done.losses == pytest.approx(plain.losses, abs=1e-6)
    assert distance(done, plain) < 1e-5


@pytest.mark.parametrize("name", ["tune_prompts", "tune_full", "pretrain_base"])
def test_every_recipe_hands_the_sampler_on(run, tmp_path, monkeypatch, name):
    asked = []
    monkeypatch.setattr(UCIP, "use_sampler", lambda self, sampler: asked.append(sampler))
    run(name, tmp_path / "out", sampler="gather", max_train_steps=1)
    assert asked == ["gather"]


def test_accumulation_is_a_larger_batch(run, tmp_path):
    whole = run("tune_prompts", tmp_path / "a", train_batch_size=4)
    parts = run("tune_prompts", tmp_path / "b", train_batch_size=2, gradient_accumulation_steps=2)
    assert len(parts.losses) == 3, "one logged loss per optimizer step"
    assert parts.losses == pytest.approx(whole.losses, abs=1e-6)
    assert distance(parts, whole) < 1e-4
    assert "3 of 4 crops" in (parts.folder / "README.md").read_text(encoding="utf-8")


def test_bf16_trains_float32_parameters(run, plain, tmp_path):
    done = run("tune_prompts", tmp_path / "out", mixed_precision="bf16")
    tensors = read_safetensors(done.bytes())
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    assert done.losses == pytest.approx(plain.losses, rel=0.02)
    assert done.losses != plain.losses, "autocast was on"


def test_the_average_is_what_is_written(run, world, tmp_path):
    """The averages of three checkpoints by hand: d = min(decay, (1 + n) / (10 + n))."""
    decay, folder = 0.15, tmp_path / "out"
    done = run(
        "tune_prompts",
        folder,
        ema_decay=decay,
        checkpointing_steps=1,
        checkpoints_total_limit=None,
    )
    fresh = add_prompt_adapter(
        UCIP.from_pretrained(world.bases["prompted"]), DynamicPromptConfig(codec="webp")
    )
    average = {
        name: parameter.detach().double().numpy()
        for name, parameter in fresh.named_parameters()
        if parameter.requires_grad
    }
    for step in range(3):
        path = folder / "checkpoints" / f"step-{step + 1:08d}" / "trainable.safetensors"
        now, d = load_file(path), min(decay, (1 + step) / (10 + step))
        assert now.keys() == average.keys()
        average = {name: d * average[name] + (1 - d) * now[name] for name in average}
    for name, value in read_safetensors(done.bytes()).items():
        stem, _, leaf = name.rpartition(".")
        key = f"{name}.default" if f"{name}.default" in average else f"{stem}.default.{leaf}"
        np.testing.assert_allclose(value, average[key], atol=1e-6, err_msg=name)
        assert not np.array_equal(value, now[key]), "the average is not the last value"


def test_limits_on_images_and_gradients_are_kept(run, plain, tmp_path):
    one = run("tune_prompts", tmp_path / "a", max_train_samples=1)
    assert one.lines[0].startswith("images     1 from ")
    assert one.losses != plain.losses
    # A step under a tiny limit: Adam divides it out again, but not its epsilon.
    held = run("tune_prompts", tmp_path / "b", max_grad_norm=1e-12)
    free = run("tune_prompts", tmp_path / "c", max_grad_norm=None)
    assert distance(held, free) > 1e-3


def test_a_named_protocol_is_accepted(run, plain, tmp_path):
    assert run("tune_prompts", tmp_path / "out", protocol="iv").bytes() == plain.bytes()


def test_the_default_qualities_are_those_of_the_suite(run, tmp_path):
    done = run("tune_prompts", tmp_path / "out", qualities=(), max_train_steps=1)
    assert done.record["config"]["qualities"] == [10, 20, 30, 40]
    assert {row["quality"] for row in done.record["scores"]["rows"]} == {10, 20, 30, 40}


def test_a_dry_run_says_everything_and_writes_nothing(run, world, tmp_path):
    before = set(world.cache.rglob("*"))
    done = run(
        "tune_prompts",
        tmp_path / "out",
        dry_run=True,
        qualities=(33,),
        trainable="dpm+offset",
        gradient_accumulation_steps=3,
        max_train_steps=7,
    )
    assert done.record == {}
    said = dict(line.split(maxsplit=1) for line in done.lines)
    base = UCIP.from_pretrained(world.bases["prompted"])
    [block] = base.blocks
    trained = [block.prompt, *(layer.offset for layer in block.layers if layer.offset is not None)]
    count = sum(p.numel() for module in trained for p in module.parameters())
    assert said["images"].startswith("2 from ")
    assert said["codec"] == "webp at 33"
    assert f"22,467 parameters, fingerprint {base.fingerprint[:12]}" in said["base"]
    assert said["protocol"] == "iv: only the pre-trained prompts are trained"
    assert said["trained"].startswith(
        f"dpm+offset, blocks all: {count:,} parameters, {4 * count:,} bytes, "
    )
    assert said["steps"].startswith("7 of 6 crops (1 processes x 2 x 3) of 12 x 12 LQ pixels")
    assert said["hardware"]
    assert not (tmp_path / "out").exists()
    assert set(world.cache.rglob("*")) == before


def test_what_is_published_of_a_program_has_no_path(run, recipes, tmp_path, monkeypatch):
    """Not in the adapter's configuration, nor over the scores of the card's picture."""
    program = tmp_path / "cod dir" / "enc.py"
    program.parent.mkdir()
    program.write_text("import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])")
    titles, pushed = [], []
    picture = tuning_run.comparison_picture

    def drawn(*args, title):
        titles.append(title)
        picture(*args, title=title)

    monkeypatch.setattr(tuning_run, "comparison_picture", drawn)
    monkeypatch.setattr(
        recipes("tune_prompts"), "push_folder", lambda *_, default_name: pushed.append(default_name)
    )
    codec = f"command:{sys.executable} '{program}' {{in}} {{out}} {{q}}"
    options = {"max_train_steps": 1, "push_to_hub": True, "hub_model_id": "me/mine"}
    run(
        "tune_prompts",
        tmp_path / "out",
        codec=codec,
        allow_command=True,
        qualities=(3,),
        **options,
    )
    python = Path(sys.executable).name
    assert titles == [f"input\n{python}:3"]
    assert pushed == [f"ucip-{python}"]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["codec"].endswith(f"/{python} '.../enc.py' {{in}} {{out}} {{q}}")
    for file in ("adapter_config.json", "README.md", "results.json"):
        assert str(tmp_path) not in (tmp_path / "out" / file).read_text(), file


@pytest.mark.parametrize("name", ["tune_prompts", "tune_full", "pretrain_base"])
def test_the_finished_folder_is_pushed(run, recipes, tmp_path, monkeypatch, name):
    pushed = []

    def push(folder, repository, *, default_name):
        assert (folder / "results.json").is_file()
        pushed.append((folder, repository, default_name))

    monkeypatch.setattr(recipes(name), "push_folder", push)
    options = {"max_train_steps": 1, "push_to_hub": True}
    run(name, tmp_path / "out", hub_model_id="me/mine", **options)
    default = {
        "tune_prompts": "ucip-webp",
        "tune_full": "ucip-webp-full",
        "pretrain_base": "ucip-base",
    }[name]
    assert pushed == [(tmp_path / "out", "me/mine", default)]
    run(name, tmp_path / "dry", hub_model_id="me/mine", dry_run=True, **options)
    assert len(pushed) == 1
    monkeypatch.delenv("UCIP_HUB_NAMESPACE", raising=False)
    with pytest.raises(ConfigError, match="--push_to_hub needs --hub_model_id, or UCIP_HUB_NAM"):
        run(name, tmp_path / "none", **options)


def test_help_lists_every_option(recipes, command, capsys):
    with pytest.raises(SystemExit) as end:
        command("tune_prompts", "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in recipes("tune_prompts").Options.__dataclass_fields__:
        assert f"--{name} " in text or f"--{name}\n" in text
