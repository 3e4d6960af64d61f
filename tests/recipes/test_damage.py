"""What ``pretrain_base.py`` is to learn: found, allowed and measurable before the training."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import PIL
import pytest
from PIL import Image

from ucip_adapt.assets import image_folder
from ucip_adapt.cli import main
from ucip_adapt.codecs import CODECS, get_codec
from ucip_adapt.codecs.base import Availability, fingerprint_digest
from ucip_adapt.codecs.reference import HM, VTM
from ucip_adapt.data import Setting
from ucip_adapt.errors import (
    CheckpointError,
    CodecError,
    CommandRefusedError,
    ConfigError,
    DataError,
)
from ucip_adapt.training.checkpoint import CheckpointWarning
from ucip_adapt.training.damage import codec_digests

WORDS = "import shutil, sys; shutil.copy(*sys.argv[1:3])"
COPY = f"command:{sys.executable} -c '{WORDS}' {{in}} {{out}} {{q}}"


@pytest.fixture(autouse=True)
def _no_encoder(monkeypatch, tmp_path):
    for codec in (HM, VTM):
        monkeypatch.setenv(codec.variable, str(tmp_path / "no-encoder"))
        monkeypatch.setitem(CODECS, codec.spec.name, codec)  # of another test: streams
    monkeypatch.delenv("UCIP_DATA", raising=False)


def build(tmp_path: Path, slots: str, hr: Path, *flags: str) -> Path:
    """A built suite, made in this process."""
    (tmp_path / "mine.toml").write_text(slots, encoding="utf-8")
    words = ["--suite", str(tmp_path / "mine.toml"), "--hr", str(hr), "--out"]
    assert main(["build-suite", *words, str(tmp_path / "built"), "--workers", "0", *flags]) == 0
    return tmp_path / "built"


def assert_not_started(run, tmp_path, error, match, **options):
    """The run ends with the error before a step, and its dry run says the same."""
    for dry in (True, False):
        steps = []
        at = dict.fromkeys((1, 2, 3), steps.append)
        with pytest.raises(error, match=match):
            run("pretrain_base", tmp_path / "out", dry_run=dry, at=at, **options)
        assert not steps
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_built_suite_of_streams_trains_and_is_measured(run, tmp_path, monkeypatch):
    pytest.importorskip("av")
    (tmp_path / "hr").mkdir()
    shutil.copy(image_folder("train") / "city.webp", tmp_path / "hr")
    slots = (
        "[[slots]]\ncodec = 'hm'\nqualities = [37]\n[[slots]]\ncodec = 'vtm'\nqualities = [42]\n"
    )
    folder = build(tmp_path, slots, tmp_path / "hr")
    for codec in (HM, VTM):
        monkeypatch.setitem(CODECS, codec.spec.name, codec)  # as in a process of its own
    done = run(
        "pretrain_base",
        tmp_path / "out",
        suite_dir=folder,
        num_slots=2,
        validation_data_dir="GB82-val",
        max_eval_images=1,
        max_train_steps=2,
    )
    rows = {(row["codec"], row["quality"], row["source"]) for row in done.record["scores"]["rows"]}
    assert rows == {("hm", 37, "streams HM 18.0"), ("vtm", 42, "streams VTM 23.13")}
    assert done.record["config"]["settings"] == ["hm:37", "vtm:42"]


def test_programs_of_a_built_suite_need_the_users_word(run, world, tmp_path, monkeypatch):
    slots = f'[[slots]]\nname = "copy"\ncodec = "{COPY}"\nqualities = [7]\n'
    folder = build(tmp_path, slots, world.train, "--allow-command")
    monkeypatch.setattr("ucip_adapt.codecs._OWN", {})  # as in a process of its own
    refused = r"command:.* was not run: .* add --allow-command"
    assert_not_started(run, tmp_path, CommandRefusedError, refused, suite_dir=folder)
    done = run("pretrain_base", tmp_path / "out", suite_dir=folder, allow_command=True)
    assert done.record["scores"]["rows"]


def test_a_codec_of_a_built_suite_that_is_not_here(run, world, tmp_path, monkeypatch):
    folder = build(tmp_path, "[[slots]]\ncodec = 'webp'\nqualities = [7]\n", world.train)
    gone = Availability(ok=False, reason="no libwebp here", install="pip install pillow")
    monkeypatch.setattr(type(CODECS["webp"]), "available", lambda self: gone)
    assert_not_started(run, tmp_path, CodecError, "webp.* no libwebp here", suite_dir=folder)


def test_a_setting_named_twice_or_none_at_all(run, tmp_path):
    twice = "setting of --settings 'jpeg:10' is named twice"
    assert_not_started(run, tmp_path, ConfigError, twice, settings=("jpeg:10", "jpeg:10"))
    none = "--settings names no damage to learn: write CODEC:QUALITY"
    assert_not_started(run, tmp_path, ConfigError, none, settings=())


@pytest.mark.parametrize("option", ["suite", "suite_dir"])
def test_settings_beside_a_suite(run, tmp_path, option):
    value = "webp" if option == "suite" else tmp_path
    message = f"--settings and --{option}: a suite brings its own settings; give one of the two"
    wrong = {option: value, "settings": ("jpeg:10",)}
    assert_not_started(run, tmp_path, ConfigError, message, **wrong)


@pytest.mark.parametrize("validation_steps", [0, 2])
def test_validation_images_without_streams(run, tmp_path, validation_steps):
    pytest.importorskip("av")
    options = {"train_data_dir": ("embedded",), "max_train_samples": 1}
    options["validation_steps"] = validation_steps
    message = r"--validation_data_dir: validation at hm:37: 0 of 2 images have streams HM 18.0"
    assert_not_started(run, tmp_path, DataError, message, settings=("hm:37",), **options)
    # One setting that can be measured is enough; the other is named.
    done = run("pretrain_base", tmp_path / "out", settings=("hm:37", "jpeg:10"), **options)
    assert [line for line in done.lines if line.startswith("no score   validation at hm:37: 0 of")]
    assert {row["codec"] for row in done.record["scores"]["rows"] if row["images"]} == {"jpeg"}


def test_what_a_codec_cannot_do_to_the_validation_images(run, world, tmp_path):
    """It codes the training images, and those of the validation have other names."""
    (tmp_path / "coded" / "10").mkdir(parents=True)
    (tmp_path / "hr").mkdir()
    shutil.copy(world.train / "city.png", tmp_path / "hr" / "city.png")
    with Image.open(tmp_path / "hr" / "city.png") as image:
        image.reduce(4).save(tmp_path / "coded" / "10" / "city.png")
    slots = f'[[slots]]\nname = "mine"\ncodec = "folder:{tmp_path / "coded"}"\nqualities = [10]\n'
    (tmp_path / "mine.toml").write_text(slots, encoding="utf-8")
    steps = []
    with pytest.raises(CodecError, match="has no image 'girl' at quality 10"):
        run(
            "pretrain_base",
            tmp_path / "out",
            suite=str(tmp_path / "mine.toml"),
            allow_command=True,
            train_data_dir=(str(tmp_path / "hr"),),
            at={1: steps.append},
        )
    assert not steps


def test_what_coded_a_built_suite_is_what_counts(run, world, tmp_path, monkeypatch):
    """Not the library that is here, nor where the program lies."""
    script = tmp_path / "copy.py"
    script.write_text(f"{WORDS}\n", encoding="utf-8")
    codec = f"command:{sys.executable} {script} {{in}} {{out}} {{q}}"
    slots = f"[[slots]]\nname = 'mine'\ncodec = '{codec}'\nqualities = [7]\n"
    slots += "[[slots]]\ncodec = 'webp'\nqualities = [7]\n"
    folder = build(tmp_path, slots, world.train, "--allow-command")
    manifest = json.loads((folder / "suite.json").read_text(encoding="utf-8"))
    here = {name: get_codec(name).fingerprint() for name in (codec, "webp")}
    settings = [Setting(codec, 7), Setting("webp", 7)]
    built = codec_digests(settings, folder)
    assert built == codec_digests(settings)
    assert list(built) == [codec, "webp"]
    assert built["webp"] == manifest["settings"][1]["fingerprint_digest"]
    assert built["webp"] == fingerprint_digest(here["webp"])

    (tmp_path / "moved").mkdir()
    shutil.copy(script, tmp_path / "moved")
    moved = codec.replace(str(script), str(tmp_path / "moved" / "copy.py"))
    get_codec(moved, allow_command=True)
    assert codec_digests([Setting(moved, 7)])[moved] == built[codec]

    monkeypatch.setattr(PIL, "__version__", "99.0")
    assert codec_digests(settings, folder) == built
    assert codec_digests(settings)["webp"] != built["webp"]


def test_the_same_settings_in_other_slots_are_another_run(run, tmp_path):
    """They are drawn otherwise. A checkpoint of before, which does not know its slots, goes on."""
    slot = "[[slots]]\nname = '{}'\ncodec = 'webp'\nqualities = {}\n"
    one = slot.format("all", [10, 20, 30])
    two = slot.format("a", [10]) + slot.format("b", [20, 30])
    suite, folder = tmp_path / "mine.toml", tmp_path / "out"
    options = {"suite": str(suite), "checkpointing_steps": 2}
    suite.write_text(one, encoding="utf-8")
    run("pretrain_base", folder, **options)
    checkpoint = folder / "checkpoints" / "step-00000002"
    options["resume_from_checkpoint"] = str(checkpoint)
    suite.write_text(two, encoding="utf-8")
    listed = r"slots: \[0, 0, 0\] in the checkpoint, \[0, 1, 1\] now"
    with pytest.raises(CheckpointError, match=listed):
        run("pretrain_base", folder, **options)
    with pytest.warns(CheckpointWarning, match=listed):
        run("pretrain_base", folder, **options, force=True)
    content = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    del content["run_config"]["slots"]
    (checkpoint / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    assert run("pretrain_base", folder, **options).record["scores"]["rows"]
