"""``pretrain_base.py``: folders that load, stages that are remembered, twins that start alike."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from ucip_adapt.cli import main
from ucip_adapt.codecs import get_codec
from ucip_adapt.config import parse_config
from ucip_adapt.data import read_rgb
from ucip_adapt.data.bicubic import bicubic_down4
from ucip_adapt.data.paired import PairedCrops, to_tensor
from ucip_adapt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteError,
    UnknownNameError,
)
from ucip_adapt.hub.cards import licence_id, training_sets
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.training.checkpoint import CheckpointWarning
from ucip_adapt.training.results import TOP_LEVEL_KEYS


@pytest.fixture(scope="module")
def first(run, tmp_path_factory):
    """A first stage, with two windows to choose from."""
    return run(
        "pretrain_base",
        tmp_path_factory.mktemp("first") / "out",
        max_train_steps=4,
        windows=(8, 12),
        settings=("jpeg:10", "jpeg:40"),
        validation_steps=2,
    )


@pytest.fixture(scope="module")
def second(run, first, tmp_path_factory):
    """A second stage from the first one's weights."""
    return run(
        "pretrain_base",
        tmp_path_factory.mktemp("second") / "out",
        max_train_steps=2,
        train_batch_size=1,
        pretrained_model_name_or_path=str(first.folder),
        seed=1,
        name="ucip-nano-v9",
    )


def test_it_leaves_a_base_that_loads(first):
    assert {path.name for path in first.folder.iterdir()} == {
        *("config.json", "model.safetensors", "README.md", "LICENSE", "results.json"),
        "checkpoints",
    }
    base = UCIP.from_pretrained(first.folder)
    assert base.fingerprint == first.record["parameters"]["fingerprint"]
    assert base.num_parameters() == first.record["parameters"]["total"] == 22_467
    for name, value in first.model.state_dict().items():
        assert torch.equal(base.state_dict()[name], value)
    assert first.lines[-1].startswith(f"wrote {first.folder}: ")
    assert first.lines[-1].endswith(" dB over bicubic on validation")


def test_the_results_are_those_of_the_file(first, world):
    """Mean PSNR of the written base on luma, images compressed and compared by hand."""
    base = UCIP.from_pretrained(first.folder)
    weights = np.array([65.481, 128.553, 24.966]) / 255

    def psnr(sr, truth):
        error = ((sr.astype(float) - truth.astype(float)) @ weights)[4:-4, 4:-4]
        return 10 * math.log10(255**2 / float((error**2).mean()))

    for row in first.record["scores"]["rows"]:
        if row["protocol"] != "y-c4" or row["method"] == "bicubic":
            continue
        window = None if row["method"] == "whole" else "config"
        values = []
        for path in sorted(world.validation.iterdir()):
            truth = read_rgb(path)
            lq = get_codec("jpeg").roundtrip(bicubic_down4(truth), row["quality"]).pixels
            sr = base.upscale(to_tensor(lq)[None], window=window)[0]
            values.append(psnr((sr * 255).round().permute(1, 2, 0).numpy(), truth))
        assert row["psnr_db"] == pytest.approx(np.mean(values), abs=1e-4)


def test_the_way_that_scores_best_is_kept(first):
    ways = first.record["scores"]["inference"]
    assert set(ways) == {"whole", "window 8", "window 12"}
    best = max(ways, key=ways.__getitem__)
    config = json.loads(first.bytes("config.json"))
    assert config["window"] == (None if best == "whole" else int(best.split()[1]))
    rows = [r for r in first.record["scores"]["rows"] if r["protocol"] == "y-c4"]
    base = np.mean([row["psnr_db"] for row in rows if row["method"] == "base"])
    assert base == pytest.approx(ways[best], abs=1e-3)


def test_a_window_that_scores_best_is_what_the_base_does_from_then_on(
    run, recipes, tmp_path, monkeypatch
):
    """Whether a window wins depends on the weights, so here it is told to."""
    recipe = recipes("pretrain_base")
    monkeypatch.setattr(recipe, "choose_window", lambda *_, **__: (12, {"window 12": 1.0}))
    done = run("pretrain_base", tmp_path / "out", windows=(12,), max_train_steps=1)
    assert json.loads(done.bytes("config.json"))["window"] == 12
    assert "overlapping windows of 12 LQ" in (tmp_path / "out" / "README.md").read_text("utf-8")
    base, lq = UCIP.from_pretrained(done.folder), torch.rand(1, 3, 20, 24)
    assert torch.equal(base.upscale(lq), base.upscale(lq, window=12))
    scores = {
        method: [row["psnr_db"] for row in done.record["scores"]["rows"] if row["method"] == method]
        for method in ("whole", "base")
    }
    assert scores["whole"] != scores["base"]


@pytest.mark.parametrize("best", [12, 22, None])
def test_the_step_of_a_base_to_start_from_goes_with_its_window(
    run, recipes, world, tmp_path, monkeypatch, best
):
    start = UCIP.from_pretrained(world.bases["prompted"])
    start.config = start.config.replace(window=24, window_stride=16)
    start.save_pretrained(tmp_path / "start")
    monkeypatch.setattr(
        recipes("pretrain_base"), "choose_window", lambda *_, **__: (best, {"measured": 1.0})
    )
    changes = {"pretrained_model_name_or_path": str(tmp_path / "start"), "preset": None}
    run("pretrain_base", tmp_path / "out", windows=(12,), max_train_steps=1, **changes)
    base = UCIP.from_pretrained(tmp_path / "out")
    lq = torch.rand(1, 3, 30, 25)
    assert torch.equal(base.upscale(lq), base.upscale(lq, window=best))
    kept = run("pretrain_base", tmp_path / "kept", max_train_steps=1, **changes).folder
    config = json.loads((kept / "config.json").read_text(encoding="utf-8"))
    assert (config["window"], config["window_stride"]) == (24, 16), "nothing was tried"


def test_the_results_file_holds_curve_and_stage(first):
    record = json.loads(first.bytes("results.json"))
    assert tuple(record) == TOP_LEVEL_KEYS
    assert record["kind"] == "pretrain_base"
    assert [point["step"] for point in record["scores"]["curve"]] == [2, 4]
    assert set(record["files"]) == {"model.safetensors", "config.json"}
    [stage] = record["parameters"]["stages"]
    assert (stage["max_train_steps"], stage["crops_per_step"]) == (4, 2)
    assert stage["settings"] == ["jpeg:10", "jpeg:40"]
    assert record["config"]["learning_rate"] == 1e-3


def test_a_second_stage_starts_from_the_first_and_names_both(first, second):
    stages = second.record["parameters"]["stages"]
    assert [stage["max_train_steps"] for stage in stages] == [4, 2]
    assert [stage["seed"] for stage in stages] == [0, 1]
    card = ModelCard.load(second.folder / "README.md")
    assert "# ucip-nano-v9" in card.text
    assert "1. 4 steps of 2 crops of 12 x 12 LQ pixels, rate 0.001" in card.text
    assert "1. 2 steps of 1 crops of 12 x 12 LQ pixels, rate 0.001" in card.text
    assert "| started from | random weights |" in card.text
    assert second.record["parameters"]["fingerprint"] in card.text
    # Its first loss is that of the first stage's weights, not of random ones.
    assert second.losses[0] == pytest.approx(first_loss(second, first.folder), abs=1e-6)


def first_loss(done, base):
    """-PSNR / 20 of the base on the first crops of a run, by hand from the run's own loader."""
    batch = done.batches[0]
    with torch.no_grad():
        sr = UCIP.from_pretrained(base)(batch["lq"])
    squared = (sr - batch["gt"]).numpy().astype("float64") ** 2
    return float((np.log10(squared.mean(axis=(1, 2, 3))) / 2).mean())


def test_l1_as_in_the_paper(run, first, tmp_path):
    folder = str(first.folder)
    done = run("pretrain_base", tmp_path / "out", loss="l1", pretrained_model_name_or_path=folder)
    batch = done.batches[0]
    with torch.no_grad():
        sr = UCIP.from_pretrained(folder)(batch["lq"])
    assert done.losses[0] == pytest.approx(float((sr - batch["gt"]).abs().mean()), abs=1e-6)


def test_another_prompt_design_is_no_second_stage(run, first, tmp_path):
    with pytest.raises(ConfigError, match=r"--prompt none, but .* has prompt 'dynamic'"):
        run(
            "pretrain_base",
            tmp_path / "out",
            prompt="none",
            pretrained_model_name_or_path=str(first.folder),
        )


@pytest.fixture(scope="module")
def slotted(tmp_path_factory):
    """A base of two slots and four basic prompts, without the local branch."""
    folder = tmp_path_factory.mktemp("slotted")
    torch.manual_seed(5)
    config = UCIPConfig.preset("nano", num_slots=2, num_prompts=4, local=False)
    UCIP(config).save_pretrained(folder)
    return folder


def test_a_base_brings_its_slots(run, slotted, tmp_path):
    """Both are trained where --num_slots is left out, and what is recorded is the base's."""
    options = {
        "pretrained_model_name_or_path": str(slotted),
        "settings": ("jpeg:10", "webp:40"),
        "preset": None,
    }
    done = run("pretrain_base", tmp_path / "out", **options, max_train_steps=2)
    before, after = (UCIP.from_pretrained(path) for path in (slotted, done.folder))
    assert after.config == before.config
    for old, new in zip(before.blocks, after.blocks, strict=True):
        slots = zip(old.prompt.basis, new.prompt.basis, strict=True)
        assert [bool((ours != theirs).any()) for ours, theirs in slots] == [True, True]
    config = done.record["config"]
    assert (config["num_slots"], config["num_prompts"], config["local"]) == (2, 4, "no")
    assert config["preset"] is None
    said = dict(line.split(maxsplit=1) for line in done.lines[:5])
    assert said["model"].startswith(f"from {slotted}, prompt dynamic, ")
    # Said out loud, as the base has it, is the same.
    same = {"num_slots": 2, "num_prompts": 4, "local": "no", "preset": "nano"}
    again = run("pretrain_base", tmp_path / "same", **{**options, **same}, max_train_steps=2)
    assert again.losses == done.losses


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_slots": 1}, r"--num_slots 1, but \S+ has num_slots 2; give that, or another base"),
        ({"num_slots": 3}, r"--num_slots 3, but \S+ has num_slots 2;"),
        ({"num_prompts": 8}, r"--num_prompts 8, but \S+ has num_prompts 4;"),
        ({"local": "yes"}, r"--local yes, but \S+ has local 'no';"),
        ({"preset": "tiny"}, r"--preset tiny, but \S+ differs from it in embed_dim, .*leave"),
        ({"settings": ("jpeg:10",)}, r"slotted\S* has num_slots 2, but --settings has 1 slots"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_that_the_base_contradicts(run, slotted, tmp_path, option, message):
    options = {"settings": ("jpeg:10", "webp:40"), "dry_run": True, **option}
    with pytest.raises(ConfigError, match=message):
        run(
            "pretrain_base",
            tmp_path / "out",
            pretrained_model_name_or_path=str(slotted),
            **options,
        )


def test_more_slots_than_codecs(run, tmp_path):
    with pytest.raises(ConfigError, match="--num_slots 2, but --settings has 1 slots; 1 is blind"):
        run("pretrain_base", tmp_path / "out", num_slots=2, dry_run=True)


def test_checkpoints_of_before_resume_beside_a_base(run, first, tmp_path):
    """They name a preset there."""
    options = {"pretrained_model_name_or_path": str(first.folder), "max_train_steps": 2}
    folder = tmp_path / "out"
    whole = run("pretrain_base", folder, **options, checkpointing_steps=1)
    checkpoint = folder / "checkpoints" / "step-00000001"
    content = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    old = {"preset": "nano", "num_slots": 1, "num_prompts": 8, "local": "yes"}
    content["run_config"] |= old
    (checkpoint / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    again = run("pretrain_base", folder, **options, resume_from_checkpoint=str(checkpoint))
    assert again.losses == whole.losses[1:]


def test_a_revision_of_nothing(run, tmp_path):
    with pytest.raises(ConfigError, match="--revision abc is one of the base to start from"):
        run("pretrain_base", tmp_path / "out", revision="abc", dry_run=True)


def test_a_run_that_ends_before_its_checkpoint(run, tmp_path):
    run("pretrain_base", tmp_path / "out", checkpointing_steps=3)
    shorter = {"max_train_steps": 2, "force": True, "resume_from_checkpoint": "latest"}
    message = "the checkpoint is of step 3 and --max_train_steps 2 ends before it: give 3 or more"
    with (
        pytest.warns(CheckpointWarning, match="max_train_steps: 3 in the checkpoint, 2 now"),
        pytest.raises(ConfigError, match=message),
    ):
        run("pretrain_base", tmp_path / "out", **shorter)


def test_a_resumed_run_has_the_adam_that_it_records(run, tmp_path):
    run("pretrain_base", tmp_path / "out", checkpointing_steps=2)
    options = {
        "resume_from_checkpoint": str(tmp_path / "out" / "checkpoints" / "step-00000002"),
        "adam_beta1": 0.5,
        "adam_beta2": 0.99,
        "max_grad_norm": 0.25,
    }
    listed = (
        r"adam_beta1: 0\.9 in the checkpoint, 0\.5 now; adam_beta2: 0\.999 in .*, 0\.99 now; "
        r"max_grad_norm: 1\.0 in .*, 0\.25 now"
    )
    with pytest.raises(CheckpointError, match=f"{listed}.*--force"):
        run("pretrain_base", tmp_path / "out", **options)
    with pytest.warns(CheckpointWarning, match=listed):
        done = run("pretrain_base", tmp_path / "out", **options, force=True)
    assert {group["betas"] for group in done.optimizer.param_groups} == {(0.5, 0.99)}
    assert done.record["config"]["adam_beta1"] == 0.5


def test_a_run_that_trained_nothing_publishes_nothing(run, tmp_path, monkeypatch):
    cut = PairedCrops.__getitem__

    def spoilt(self, index):
        sample = cut(self, index)
        return {**sample, "lq": sample["lq"] * math.nan}

    monkeypatch.setattr(PairedCrops, "__getitem__", spoilt)
    with pytest.raises(NonFiniteError, match="no result is written: every step was skipped"):
        run("pretrain_base", tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_the_prompt_free_twin_starts_alike(run, tmp_path):
    """Same seed: all weights but those of the prompts are equal, and so are the crops."""
    starts = {}
    for prompt in ("dynamic", "none"):
        done = run(
            "pretrain_base", tmp_path / prompt, prompt=prompt, max_train_steps=1, learning_rate=0.0
        )
        starts[prompt] = done
    dynamic = UCIP.from_pretrained(starts["dynamic"].folder).state_dict()
    twin = UCIP.from_pretrained(starts["none"].folder).state_dict()
    assert dynamic.keys() == twin.keys()
    for name, value in dynamic.items():
        assert torch.equal(value, twin[name]), name
    a, b = (starts[prompt].batches[0] for prompt in ("dynamic", "none"))
    assert torch.equal(a["lq"], b["lq"])
    assert (
        starts["dynamic"].record["parameters"]["trained"]
        > (starts["none"].record["parameters"]["trained"])
    )


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
def test_r9_another_start_of_the_same_name(run, world, stop, tmp_path, recorded):
    """The prompts of a prompt-free base are frozen, and in no checkpoint."""
    start = tmp_path / "start"
    shutil.copytree(world.bases["prompt-free"], start)
    options = {"preset": None, "prompt": "none", "pretrained_model_name_or_path": str(start)}
    run("pretrain_base", tmp_path / "out", at={2: stop}, **options)
    path = tmp_path / "out" / "checkpoints" / "step-00000002" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    before = manifest["run_config"].pop("start_fingerprint")
    assert before == UCIP.from_pretrained(start).fingerprint
    if not recorded:  # as by earlier versions
        path.write_text(json.dumps(manifest), encoding="utf-8")
    other = UCIP.from_pretrained(start)
    with torch.no_grad():
        other.blocks[0].prompt.basis.add_(0.01)
    other.save_pretrained(start)
    options["resume_from_checkpoint"] = "latest"
    if not recorded:
        assert len(run("pretrain_base", tmp_path / "out", **options).losses) == 1
        return
    now = rf'start_fingerprint: "{before}" in the checkpoint, "{other.fingerprint}" now'
    with pytest.raises(CheckpointError, match=rf"other options \({now}\)"):
        run("pretrain_base", tmp_path / "out", **options)
    random = options | {"pretrained_model_name_or_path": None, "preset": "nano"}
    with pytest.raises(CheckpointError, match=r'start_fingerprint: .*, "random weights" now'):
        run("pretrain_base", tmp_path / "out", **random)


def test_the_schedule_may_be_longer_than_the_stage(run, tmp_path):
    done = run(
        "pretrain_base",
        tmp_path / "out",
        max_train_steps=3,
        lr_schedule_steps=11,
        learning_rate=1e-3,
    )
    rates = [values["learning_rate"] for values in done.logs if "learning_rate" in values]
    assert rates == pytest.approx(
        [1e-3 * (1 + math.cos(math.pi * done / 10)) / 2 for done in (0, 0, 1)]
    )
    with pytest.raises(ConfigError, match="lr_schedule_steps=2 is shorter than max_train_steps=3"):
        run("pretrain_base", tmp_path / "out", lr_schedule_steps=2)


def test_milestones_halve_the_rate(run, tmp_path):
    done = run(
        "pretrain_base",
        tmp_path / "out",
        lr_scheduler="multistep",
        lr_milestones=(2,),
        lr_warmup_steps=0,
        learning_rate=1e-3,
    )
    assert [values["learning_rate"] for values in done.logs] == [1e-3, 1e-3, 5e-4]
    with pytest.raises(ConfigError, match="lr_milestones belong to lr_scheduler 'multistep'"):
        run("pretrain_base", tmp_path / "out", lr_milestones=(2,))


@pytest.mark.parametrize("prompt", ["fixed", "promptir"])
def test_the_designs_of_table_4_train(run, tmp_path, prompt):
    done = run("pretrain_base", tmp_path / "out", prompt=prompt, max_train_steps=1)
    assert UCIP.from_pretrained(done.folder).config.prompt == prompt


def test_slots_follow_the_codec(run, tmp_path):
    done = run(
        "pretrain_base",
        tmp_path / "out",
        num_slots=2,
        settings=("jpeg:10", "webp:40"),
        max_train_steps=2,
        local="no",
    )
    config = UCIP.from_pretrained(done.folder).config
    assert (config.num_slots, config.local) == (2, False)
    assert done.batches[0]["slot"].tolist() == [0, 1]


def test_a_suite_is_drawn_slot_by_slot(run, tmp_path):
    """Two slots of one codec; the one with three qualities is not drawn more often."""
    (tmp_path / "mine.toml").write_text(
        "[[slots]]\nname = 'fine'\ncodec = 'webp'\nqualities = [60]\n"
        "[[slots]]\nname = 'rough'\ncodec = 'webp'\nqualities = [1, 2, 3]\n"
    )
    options = {"suite": str(tmp_path / "mine.toml"), "num_slots": 2, "max_train_steps": 3}
    done = run("pretrain_base", tmp_path / "out", **options)
    assert [slot for batch in done.batches for slot in batch["slot"].tolist()] == [0, 1] * 3
    assert done.record["config"]["settings"] == ["webp:60", "webp:1", "webp:2", "webp:3"]
    assert dict(line.split(maxsplit=1) for line in done.lines[:2])["damage"] == (
        "webp:60, webp:1, webp:2, webp:3"
    )
    with pytest.raises(ConfigError, match=r"--num_slots 3, but .*mine\.toml has 2 slots"):
        run("pretrain_base", tmp_path / "out", **{**options, "num_slots": 3})


def test_a_built_suite_gives_the_same_crops(run, world, tmp_path):
    """Shards and compressing on the fly: equal crops, slots and losses, in both kinds of recipe."""
    (tmp_path / "mine.toml").write_text(
        "[[slots]]\ncodec = 'jpeg'\nqualities = [10, 40]\n"
        "[[slots]]\ncodec = 'webp'\nqualities = [20]\n"
    )
    suite, out = str(tmp_path / "mine.toml"), str(tmp_path / "built")
    hr = tmp_path / "hr"
    shutil.copytree(world.train, hr)
    words = ["build-suite", "--suite", suite, "--hr", str(hr), "--out", out]
    assert main([*words, "--workers", "0"]) == 0
    fly = run("pretrain_base", tmp_path / "fly", suite=suite, num_slots=2)
    built = run(
        *("pretrain_base", tmp_path / "from-shards"),
        suite_dir=Path(out),
        num_slots=2,
        cache_dir=tmp_path / "cache",
        train_data_dir=("no such folder",),
    )
    assert fly.losses == built.losses
    for one, two in zip(fly.batches, built.batches, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert built.lines[0] == f"images     2 from {out}, a build of mine"
    assert built.record["config"]["settings"] == ["jpeg:10", "jpeg:40", "webp:20"]
    assert training_sets(built.record) == ["the images of the suite .../built"]
    options = {"codec": "webp", "qualities": (20,), "max_train_steps": 1}
    fly = run("tune_prompts", tmp_path / "tuned", **options)
    options["train_data_dir"] = ("embedded",)  # the default, which is not read here
    built = run("tune_prompts", tmp_path / "tuned2", suite_dir=Path(out), **options)
    assert torch.equal(fly.batches[0]["lq"], built.batches[0]["lq"])
    assert licence_id(built.record) == "other"
    assert training_sets(built.record) == ["the images of the suite .../built"]
    hr.rename(tmp_path / "moved")  # now the option says where they are
    hr.mkdir()
    with pytest.raises(DataError, match=r"are not in .*name their folder with --train_data_dir"):
        run("tune_prompts", tmp_path / "tuned3", suite_dir=Path(out), **options)
    options["train_data_dir"] = (str(tmp_path / "moved"),)
    moved = run("tune_prompts", tmp_path / "tuned3", suite_dir=Path(out), **options)
    assert torch.equal(fly.batches[0]["lq"], moved.batches[0]["lq"])
    with pytest.raises(ConfigError, match=r"has no webp:10; it has jpeg:10, jpeg:40, webp:20"):
        run("tune_prompts", tmp_path / "none", suite_dir=Path(out), codec="webp", qualities=(10,))
    with pytest.raises(ConfigError, match="--suite_dir says itself which suite it holds"):
        run("pretrain_base", tmp_path / "none", suite_dir=Path(out), suite=suite)


def test_a_built_suite_of_a_program_is_tuned_on(run, world, tmp_path):
    """Shards name the program without its folder; the option names it whole."""
    program = tmp_path / "bin" / "copy"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\ncp "$1" "$2"\n')
    program.chmod(0o755)
    codec, suite, out = f"command:{program} {{in}} {{out}}", tmp_path / "own.toml", tmp_path / "b"
    suite.write_text(f"[[slots]]\nname = 'mine'\ncodec = '{codec}'\nqualities = [0]\n")
    words = ["build-suite", "--suite", str(suite), "--hr", str(world.train), "--out", str(out)]
    assert main([*words, "--workers", "0", "--allow-command"]) == 0
    assert str(tmp_path) not in (out / "suite.json").read_text()
    options = {"codec": codec, "qualities": (0,), "allow_command": True, "max_train_steps": 1}
    fly = run("tune_prompts", tmp_path / "fly", **options)
    built = run("tune_prompts", tmp_path / "shards", suite_dir=out, **options)
    assert torch.equal(fly.batches[0]["lq"], built.batches[0]["lq"])


def test_a_prompt_free_network_says_so_and_gets_no_prompt_gradient(run, tmp_path):
    done = run("pretrain_base", tmp_path / "out", prompt="none", max_train_steps=1)
    prompt = [p for n, p in done.model.named_parameters() if ".prompt." in n]
    assert prompt
    assert not any(parameter.requires_grad for parameter in prompt)
    assert done.record["parameters"]["trained"] == 22_467 - sum(p.numel() for p in prompt)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (("jpeg",), ConfigError, "--settings jpeg: write CODEC:QUALITY, such as jpeg:40"),
        (("jpg:10",), UnknownNameError, "unknown codec 'jpg'; did you mean 'jpeg'"),
        (("jpeg:0",), ConfigError, "jpeg takes quality 1 to 100, not 0"),
    ],
)
def test_bad_settings(run, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        run("pretrain_base", tmp_path / "out", settings=settings)


def test_a_dry_run_writes_nothing(run, tmp_path):
    done = run("pretrain_base", tmp_path / "out", dry_run=True)
    assert done.record == {}
    said = dict(line.split(maxsplit=1) for line in done.lines)
    assert said["model"] == "nano, prompt dynamic, 22,467 parameters, 22,467 trained"
    assert said["damage"] == "jpeg:40"
    assert said["steps"].startswith("3 of 2 crops (1 processes x 2 x 1)")
    assert not (tmp_path / "out").exists()


# -- the files under recipes/configs --------------------------------------------------------------


def test_every_config_is_understood_by_its_recipe(repo_root, recipes):
    files = sorted((repo_root / "recipes" / "configs").rglob("*.toml"))
    assert len(files) >= 3, "no configurations were found"
    for file in files:
        cfg = parse_config(recipes(file.parent.name).Options, ["--config", str(file)])
        assert not cfg.output_dir.is_absolute(), file
        assert len(file.read_text(encoding="utf-8").splitlines()) < 40, file


def test_the_papers_settings(repo_root, recipes):
    """Sec. 4.1: Adam, L1, 3e-4 halved at 200k of 400k, batch 32, 64-pixel crops."""
    file = repo_root / "recipes" / "configs" / "pretrain_base" / "paper.toml"
    cfg = parse_config(recipes("pretrain_base").Options, ["--config", str(file)])
    assert (cfg.preset, cfg.prompt) == ("full", "dynamic")
    assert (cfg.rate, cfg.lr_scheduler, cfg.lr_milestones) == (3e-4, "multistep", (200_000,))
    assert (cfg.max_train_steps, cfg.train_batch_size, cfg.patch_size) == (400_000, 32, 64)
    assert cfg.loss == "l1"
    network = recipes("pretrain_base").build_model(cfg)
    assert network.num_parameters() == 11_408_931
    assert network.config.num_prompts == 8


def test_shipped_bases_never_saw_webp(repo_root, recipes):
    for file in (repo_root / "recipes" / "configs" / "pretrain_base").glob("tiny-*.toml"):
        cfg = parse_config(recipes("pretrain_base").Options, ["--config", str(file)])
        assert set(cfg.train_data_dir) <= {"CID22", "embedded"}
        assert all(text.startswith("jpeg:") for text in cfg.settings or ())


def test_the_picture_needs_no_base(first):
    """A base's folder has no before-and-after picture; its card shows none."""
    assert "before_after.png" not in (first.folder / "README.md").read_text(encoding="utf-8")
    assert not list(first.folder.glob("*.png"))
