"""Bad input to ``tune_prompts.py``: each is a typed error that says what to do, before training."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from ucip_adapt.config import parse_config
from ucip_adapt.data.bicubic import bicubic_down4
from ucip_adapt.data.images import read_rgb, save_png
from ucip_adapt.errors import (
    BaseFormatError,
    BaseMismatchError,
    CodecError,
    ConfigError,
    DataError,
    NonFiniteError,
    UnknownNameError,
)
from ucip_adapt.hub.folders import HubError
from ucip_adapt.models import UCIP
from ucip_adapt.tuning import load_prompt_adapter


def assert_fails(run, tmp_path, error, match, **options):
    """The run ends with the error and leaves no result."""
    with pytest.raises(error, match=match):
        run("tune_prompts", tmp_path / "out", **options)
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    assert not (tmp_path / "out" / "results.json").exists()


# -- names ------------------------------------------------------------------------------------


def test_unknown_codec(run, tmp_path):
    message = r"unknown codec 'wepb'; did you mean 'webp'\? Known: avif, "
    assert_fails(run, tmp_path, UnknownNameError, message, codec="wepb")


def test_quality_out_of_range(run, tmp_path):
    assert_fails(
        run, tmp_path, ConfigError, "webp takes quality 0 to 100, not 101", qualities=(10, 101)
    )


def test_quality_named_twice(run, tmp_path):
    assert_fails(run, tmp_path, ConfigError, "one is named twice", qualities=(10, 10))


def test_unknown_base(run, tmp_path):
    message = "no base 'ucip-tinny': it is not a folder, not of the form user/repository"
    assert_fails(run, tmp_path, ConfigError, message, pretrained_model_name_or_path="ucip-tinny")


def test_damaged_base(run, world, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    source = world.bases["prompted"]
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    weights = (source / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    assert_fails(
        run,
        tmp_path,
        BaseFormatError,
        r"model.safetensors was altered",
        pretrained_model_name_or_path=str(folder),
    )


@pytest.mark.parametrize(
    ("protocol", "base", "message"),
    [
        ("ii", "prompted", r"protocol ii .* wants a prompt-free base, this one is prompted: .* iv"),
        ("iv", "prompt-free", r"protocol iv .* wants a prompted base, this one is prompt-free: .*"),
        ("i", "prompted", r"protocol i trains nothing.*use recipes/evaluate.py"),
        ("iii", "prompt-free", r"protocol iii trains everything.*use recipes/tune_full.py"),
        ("v", "prompted", r"protocol v trains everything.*use recipes/tune_full.py"),
    ],
)
def test_protocol_of_another_base_or_recipe(run, world, tmp_path, protocol, base, message):
    assert_fails(
        run,
        tmp_path,
        ConfigError,
        message,
        protocol=protocol,
        pretrained_model_name_or_path=str(world.bases[base]),
    )


def test_more_blocks_than_there_are(run, tmp_path):
    message = r"trainable_blocks='last:3', but the base has 1 PTMBs"
    assert_fails(run, tmp_path, ConfigError, message, trainable_blocks="last:3")


def test_malformed_blocks(run, tmp_path):
    message = r"trainable_blocks='first:1': trainable_blocks must be 'all' or 'last:N'"
    assert_fails(run, tmp_path, ConfigError, message, trainable_blocks="first:1")


# -- images -----------------------------------------------------------------------------------


def test_no_images_in_the_folder(run, tmp_path):
    (tmp_path / "empty").mkdir()
    message = r"no images in '.*empty' \(looked for \.png, \.jpg"
    assert_fails(run, tmp_path, DataError, message, train_data_dir=(str(tmp_path / "empty"),))


def test_no_such_folder(run, tmp_path, monkeypatch):
    monkeypatch.delenv("UCIP_DATA", raising=False)
    message = r"--train_data_dir CID23: no such folder, and --data or UCIP_DATA is not set"
    assert_fails(run, tmp_path, DataError, message, train_data_dir=("CID23",))


def test_image_smaller_than_a_crop(run, tmp_path):
    (tmp_path / "small").mkdir()
    save_png(tmp_path / "small" / "stamp.png", np.zeros((40, 90, 3), np.uint8))
    message = r"stamp\.png is too small: 88 x 40 pixels give a low-resolution image of 22 x 10, and"
    assert_fails(run, tmp_path, DataError, message, train_data_dir=(str(tmp_path / "small"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"<html>404</html>", "a web page, not a picture")],
)
def test_unreadable_image(run, world, tmp_path, content, message):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(next(world.train.iterdir()).read_bytes())
    (folder / "broken.png").write_bytes(content)
    message = rf"cannot read image .*broken\.png: {message}"
    assert_fails(run, tmp_path, DataError, message, train_data_dir=(str(folder),))


def test_validation_images_are_looked_at_before_the_training(run, tmp_path):
    message = "no folder 'nowhere'"
    assert_fails(run, tmp_path, DataError, message, validation_data_dir="nowhere")
    message = "Set5 is not in the package: name the folder that holds it with --data or UCIP_DATA"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("UCIP_DATA", raising=False)
        assert_fails(run, tmp_path, DataError, message, evaluate_on=("Set5",))


def test_what_cannot_be_measured_is_known_before_the_training(run, world, tmp_path):
    pictures = [path for path in sorted(world.train.iterdir()) if path.suffix == ".png"]
    for folder in ("one/HR", "two/HR", "decoded/10"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(pictures[0].read_bytes())
    one, two = str(tmp_path / "one" / "HR"), str(tmp_path / "two" / "HR")
    twice = "image set of --evaluate_on 'HR' is named twice"
    assert_fails(run, tmp_path, ConfigError, twice, evaluate_on=(one, two))
    assert_fails(
        run, tmp_path, ConfigError, "no image set of --evaluate_on to measure", evaluate_on=()
    )
    with Image.open(tmp_path / "two" / "HR" / "a.png") as image:
        image.reduce(4).save(tmp_path / "decoded" / "10" / "a.png")
    (tmp_path / "one" / "HR" / "a.png").rename(tmp_path / "one" / "HR" / "other.png")
    assert_fails(
        run,
        tmp_path,
        CodecError,
        "has no image 'other' at quality 10",
        codec=f"folder:{tmp_path / 'decoded'}",
        qualities=(10,),
        allow_command=True,
        train_data_dir=(two,),
        validation_data_dir=two,
        evaluate_on=(one,),
    )
    assert not list((tmp_path / "out").rglob("step-*"))


def degraded(tmp_path, world, *leave_out):
    """A folder codec of the world's images at two qualities, without some of them."""
    folder = tmp_path / "decoded"
    for quality in ("5", "10"):
        (folder / quality).mkdir(parents=True)
        for path in (*world.train.iterdir(), *world.validation.iterdir()):
            if f"{quality}/{path.stem}" not in leave_out:
                small = bicubic_down4(read_rgb(path))
                save_png(folder / quality / f"{path.stem}.png", small)
    return {"codec": f"folder:{folder}", "qualities": (5, 10), "allow_command": True}


@pytest.mark.parametrize("name", ["tune_prompts", "tune_full"])
@pytest.mark.parametrize(
    ("missing", "options"),
    [("nyc", "--validation_data_dir and --evaluate_on"), ("city", "--train_data_dir .*train: ")],
)
def test_a_folder_without_one_image_of_a_set(run, world, tmp_path, name, missing, options):
    """The second of the validation images, at the second quality: the first of each is there."""
    steps = []
    with pytest.raises(CodecError, match=f"has no image '{missing}' at quality 10") as caught:
        run(
            name,
            tmp_path / "out",
            **degraded(tmp_path, world, f"10/{missing}"),
            at={1: steps.append},
        )
    assert not steps
    assert caught.match(options)


def test_a_folder_without_the_images_of_the_package(run, world, tmp_path):
    options = degraded(tmp_path, world)
    measured = {"validation_data_dir": "GB82-val", "evaluate_on": ("GB82-val",)}
    dog = "has no image 'dog' at quality 5 .* is one of GB82-val, the package's own images: put"
    both = f"{dog} .*, or name images that have one by --validation_data_dir and --evaluate_on$"
    assert_fails(run, tmp_path, CodecError, both, **options, **measured)
    del measured["validation_data_dir"]
    alone = f"{dog} .* by --evaluate_on$"
    assert_fails(run, tmp_path, CodecError, alone, **options, **measured)
    done = run("tune_prompts", tmp_path / "whole", **options)
    assert {row["images"] for row in done.record["scores"]["rows"]} == {2}


@pytest.mark.parametrize("name", ["tune_prompts", "tune_full", "pretrain_base"])
def test_two_pictures_of_one_name(run, world, tmp_path, name):
    """The validation picture would be restored from a training picture's coded version."""
    cut = {"train": world.train / "city.png", "val": world.validation / "girl.png"}
    for folder, path in cut.items():
        (tmp_path / folder).mkdir()
        save_png(tmp_path / folder / "0001.png", read_rgb(path)[:80, :96])
    (tmp_path / "coded" / "5").mkdir(parents=True)
    small = bicubic_down4(read_rgb(tmp_path / "train" / "0001.png"))
    save_png(tmp_path / "coded" / "5" / "0001.png", small)
    codec = f"folder:{tmp_path / 'coded'}"
    options = {"codec": codec, "qualities": (5,), "evaluate_on": (str(tmp_path / "val"),)}
    if name == "pretrain_base":
        slot = f'[[slots]]\nname = "mine"\ncodec = "{codec}"\nqualities = [5]\n'
        (tmp_path / "mine.toml").write_text(slot, encoding="utf-8")
        options = {"suite": str(tmp_path / "mine.toml")}
    options |= {"allow_command": True, "train_data_dir": (str(tmp_path / "train"),)}
    steps = []
    files = r"and \S*train/0001\.png and \S*val/0001\.png are two .*: rename one of them"
    with pytest.raises(CodecError, match=files):
        run(
            name,
            tmp_path / "out",
            **options,
            validation_data_dir=str(tmp_path / "val"),
            at={1: steps.append},
        )
    assert not steps
    # The same picture on both sides is no mistake.
    save_png(tmp_path / "val" / "0001.png", read_rgb(tmp_path / "train" / "0001.png"))
    done = run(name, tmp_path / "out", **options, validation_data_dir=str(tmp_path / "val"))
    assert done.record["scores"]["rows"]


def test_output_folder_that_cannot_be_made(run, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot make --output_dir .*file/out"):
        run("tune_prompts", tmp_path / "file" / "out")


# -- adapters ---------------------------------------------------------------------------------


def test_the_adapter_is_refused_by_another_base(run, world, tmp_path):
    run("tune_prompts", tmp_path / "out", max_train_steps=1)
    other = UCIP.from_pretrained(world.bases["other"])
    before = other.fingerprint
    with pytest.raises(
        BaseMismatchError, match=r"was made for base .* load the adapter's own base"
    ):
        load_prompt_adapter(tmp_path / "out", other)
    assert other.fingerprint == before


# -- numbers ----------------------------------------------------------------------------------


def test_weights_that_ran_away_are_no_result(run, tmp_path):
    message = "no result is written: the trained weights hold NaN or infinite values in 1 tensor"
    assert_fails(run, tmp_path, NonFiniteError, message, at={3: overflow})


def overflow(run):
    """What an update does whose rate is far too high."""
    with torch.no_grad():
        next(p for p in run.model.parameters() if p.requires_grad).mul_(1e30).mul_(1e30)


def test_warm_up_longer_than_the_run(run, tmp_path):
    message = "lr_warmup_steps=4 exceeds max_train_steps=3"
    assert_fails(run, tmp_path, ConfigError, message, lr_warmup_steps=4)


def test_a_tracker_that_is_not_installed(run, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name)
    )
    message = "--report_to wandb needs the package: pip install wandb"
    assert_fails(run, tmp_path, ConfigError, message, report_to="wandb")


def test_half_precision_needs_a_gpu(run, tmp_path):
    assert_fails(run, tmp_path, ConfigError, "fp16 needs a GPU", mixed_precision="fp16")


@pytest.mark.parametrize("name", ["tune_prompts", "tune_full"])
def test_a_run_that_trained_nothing_is_no_result(run, tmp_path, monkeypatch, recipes, name):
    def not_a_number(sr, gt):
        return (sr - gt).mean() * float("nan")

    monkeypatch.setattr(recipes(name), "LOSSES", {"psnr": not_a_number, "l1": not_a_number})
    with pytest.raises(NonFiniteError, match="every step was skipped"):
        run(name, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_pushing_needs_a_repository(run, tmp_path, monkeypatch):
    monkeypatch.delenv("UCIP_HUB_NAMESPACE", raising=False)
    message = "--push_to_hub needs --hub_model_id, or UCIP_HUB_NAMESPACE to be set"
    assert_fails(run, tmp_path, ConfigError, message, push_to_hub=True)
    message = "'me/a b' cannot be the name of a repository"
    assert_fails(run, tmp_path, HubError, message, push_to_hub=True, hub_model_id="me/a b")


# -- the command line -------------------------------------------------------------------------


def test_unknown_flag(command):
    code, text = command("tune_prompts", "--codecs", "webp")
    assert code == 2
    assert text.startswith("error: unknown flag '--codecs'; did you mean '--codec'? Known: ")
    assert "--gradient_accumulation_steps" in text


def test_unknown_key(command, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('codec = "webp"\nlearnig_rate = 1e-3\n', encoding="utf-8")
    code, text = command("tune_prompts", "--config", file)
    assert code == 2
    assert f"unknown key in {file}: 'learnig_rate'; did you mean 'learning_rate'?" in text


def test_flags_win_over_the_file(recipes, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('codec = "jpeg"\nlearning_rate = 1e-3\nqualities = [10]\n', encoding="utf-8")
    options = recipes("tune_prompts").Options
    cfg = parse_config(options, ["--config", str(file), "--learning_rate", "3e-3"])
    assert (cfg.codec, cfg.learning_rate, cfg.qualities) == ("jpeg", 3e-3, (10,))


def test_an_error_of_the_run_is_one_line(command, world, tmp_path):
    code, text = command(
        "tune_prompts",
        *("--codec", "wepb", "--output_dir", tmp_path / "out"),
        *("--pretrained_model_name_or_path", world.bases["prompted"]),
    )
    assert code == 2
    assert text.startswith("error: unknown codec 'wepb'; did you mean 'webp'? Known: avif, ")
    assert text.count("\n") == 1
