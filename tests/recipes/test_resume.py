"""R4, R5, R7, R8, R9 for whole recipes: stop, resume, and what is refused."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load as read_safetensors

from ucip_adapt.codecs import get_codec
from ucip_adapt.codecs.base import fingerprint_digest
from ucip_adapt.data.paired import PairedCrops
from ucip_adapt.errors import CheckpointError, NonFiniteError
from ucip_adapt.models import UCIP
from ucip_adapt.training.checkpoint import CheckpointWarning

SHAPE = {"max_train_steps": 8, "ema_decay": 0.9, "gradient_accumulation_steps": 2}
RESULTS = {
    "tune_prompts": "adapter_model.safetensors",
    "tune_full": "model.safetensors",
    "pretrain_base": "model.safetensors",
}


def published(folder):
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def run_in_parts(run, stop, name, folder, stops, **options):
    """Runs that are stopped by SIGTERM after the steps given, and a last one to the end."""
    parts = []
    for place, step in enumerate((*stops, None)):
        parts.append(
            run(
                name,
                folder,
                at={} if step is None else {step: stop},
                resume_from_checkpoint="latest" if place else None,
                **options,
            )
        )
        if step is not None:
            assert parts[-1].record == {}
            assert (
                parts[-1]
                .lines[-1]
                .endswith(f"stopped at step {step}; go on with --resume_from_checkpoint latest")
            )
            assert published(folder)[-1] == f"step-{step:08d}"
            assert not (folder / "results.json").exists()
        if place:
            assert f"resumed    at step {stops[place - 1]}" in parts[-1].lines
    return parts


def check_resume(run, stop, name, tmp_path, stops, **options):
    whole = run(name, tmp_path / "whole", **options)
    parts = run_in_parts(run, stop, name, tmp_path / "parts", stops, **options)
    assert [value for part in parts for value in part.logs] == whole.logs
    file = RESULTS[name]
    # Tensors, not bytes: safetensors writes the entries of a base's metadata in any order.
    ours, theirs = read_safetensors(parts[-1].bytes(file)), read_safetensors(whole.bytes(file))
    assert {name: value.tobytes() for name, value in ours.items()} == {
        name: value.tobytes() for name, value in theirs.items()
    }
    assert parts[-1].record["scores"]["rows"] == whole.record["scores"]["rows"]
    skipped = [part.record["scores"]["skipped_steps"] for part in (parts[-1], whole)]
    assert skipped[0] == skipped[1]
    assert parts[-1].record["scores"]["curve"] == whole.record["scores"]["curve"]
    return parts[-1]


@pytest.mark.parametrize("stops", [(3,), (2, 5)], ids=["3+5", "2+3+3"])
def test_r5_tune_prompts(run, stop, tmp_path, stops):
    last = check_resume(run, stop, "tune_prompts", tmp_path, stops, validation_steps=1, **SHAPE)
    assert [point["step"] for point in last.record["scores"]["curve"]] == list(range(1, 9))


@pytest.mark.parametrize("name", ["tune_full", "pretrain_base"])
def test_r5_of_whole_networks(run, stop, tmp_path, name):
    more = {"max_train_steps": 3, "ema_decay": 0.9, "validation_steps": 1}
    check_resume(run, stop, name, tmp_path, (2,), **more)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RESULTS))
@pytest.mark.parametrize("stops", [(7,), (7, 13)], ids=["7+13", "7+6+7"])
def test_r5_over_twenty_steps(run, stop, tmp_path, name, stops):
    shape = {**SHAPE, "max_train_steps": 20, "dataloader_num_workers": 2}
    check_resume(run, stop, name, tmp_path, stops, **shape)


def test_a_checkpoint_without_a_curve_is_continued(run, copy):
    """As earlier versions left them."""
    folder = copy(1, 2)
    newest = folder / "checkpoints" / "step-00000002"
    manifest = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["objects"] == ["Clock", "Curve", "GuardedStep"]
    manifest["objects"] = ["Clock"]
    for number in (1, 2):
        manifest["files"].pop(f"object-{number}.pt")
        (newest / f"object-{number}.pt").unlink()
    (newest / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = run("tune_prompts", folder, resume_from_checkpoint="latest", validation_steps=1)
    assert [point["step"] for point in done.record["scores"]["curve"]] == [3]


@pytest.fixture(scope="module")
def kept(run, world, tmp_path_factory):
    """A run of 3 steps with a checkpoint of each."""
    return run(
        "tune_prompts",
        tmp_path_factory.mktemp("kept") / "out",
        checkpointing_steps=1,
        checkpoints_total_limit=3,
    )


@pytest.fixture
def copy(kept, tmp_path):
    """The checkpoints of that run in a folder of their own."""

    def make(*steps):
        folder = tmp_path / "out"
        for step in steps:
            name = f"step-{step:08d}"
            target = folder / "checkpoints" / name
            target.mkdir(parents=True)
            for path in (kept.folder / "checkpoints" / name).iterdir():
                (target / path.name).write_bytes(path.read_bytes())
        return folder

    return make


def test_checkpoints_are_limited_and_adapters_themselves(run, world, kept, tmp_path):
    assert published(kept.folder) == [f"step-{step:08d}" for step in (1, 2, 3)]
    limited = run(
        "tune_prompts", tmp_path / "out", checkpointing_steps=1, checkpoints_total_limit=1
    )
    assert published(limited.folder) == ["step-00000003"]
    base = UCIP.from_pretrained(world.bases["prompted"])
    last = PeftModel.from_pretrained(base, str(kept.folder / "checkpoints" / "step-00000003"))
    for name, value in read_safetensors(kept.bytes()).items():
        own = {key.replace(".default", ""): tensor for key, tensor in last.state_dict().items()}
        np.testing.assert_array_equal(own[name].numpy(), value)


def test_a_path_goes_back_to_an_earlier_step(run, kept, copy):
    folder = copy(1, 2, 3)
    path = str(folder / "checkpoints" / "step-00000001")
    again = run("tune_prompts", folder, resume_from_checkpoint=path)
    assert again.losses == kept.losses[1:]
    assert again.bytes() == kept.bytes()


def test_a_finished_run_resumes_to_its_result(run, kept, copy):
    again = run("tune_prompts", copy(3), resume_from_checkpoint="latest")
    assert again.losses == []
    assert again.bytes() == kept.bytes()
    assert again.record["scores"]["rows"] == kept.record["scores"]["rows"]
    assert again.record["seconds"]["training"] >= kept.record["seconds"]["training"] - 0.5


def test_a_stop_after_the_last_step_changes_nothing(run, stop, kept, tmp_path):
    done = run("tune_prompts", tmp_path / "out", at={3: stop})
    assert done.bytes() == kept.bytes()
    assert published(done.folder) == ["step-00000003"]


def test_r4_a_damaged_checkpoint_is_passed_over(run, kept, copy):
    folder = copy(1, 2)
    path = folder / "checkpoints" / "step-00000002" / "trainable.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.warns(CheckpointWarning, match=r"trainable\.safetensors is damaged.*step-00000001"):
        again = run("tune_prompts", folder, resume_from_checkpoint="latest")
    assert "resumed    at step 1" in again.lines
    assert again.bytes() == kept.bytes()


def test_a_missing_checkpoint_is_an_error(run, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"there is no checkpoint in .*out/checkpoints to res"
    ):
        run("tune_prompts", tmp_path / "out", resume_from_checkpoint="latest")
    with pytest.raises(CheckpointError, match=r"there is no checkpoint elsewhere; known in .*none"):
        run("tune_prompts", tmp_path / "out", resume_from_checkpoint="elsewhere")


def test_r8_another_number_of_processes(run, kept, copy):
    folder = copy(2)
    manifest = folder / "checkpoints" / "step-00000002" / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    assert (content["world_size"], content["effective_batch"]) == (1, 2)
    changed = {**content, "world_size": 2, "effective_batch": 4}
    manifest.write_text(json.dumps(changed), encoding="utf-8")
    message = r"by 2 processes \(effective batch 4\), this run has 1 process \(effective batch 2\)"
    with pytest.raises(CheckpointError, match=f"{message}.*--allow_world_change"):
        run("tune_prompts", folder, resume_from_checkpoint="latest")
    with pytest.warns(CheckpointWarning, match=message):
        done = run("tune_prompts", folder, resume_from_checkpoint="latest", allow_world_change=True)
    assert done.bytes() == kept.bytes()


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"learning_rate": 0.5}, [r"learning_rate: 0\.03 in the checkpoint, 0\.5 now"]),
        (
            {"codec": "jpeg", "qualities": (20,)},
            [
                r'codec: "webp" in the checkpoint, "jpeg" now',
                r"qualities: \[10\] in .*, \[20\] now",
            ],
        ),
        (
            {"trainable": "dpm+offset", "learning_rate": 0.03},
            [r'trainable: "dpm" in the checkpoint, "dpm\+offset" now'],
        ),
        ({"seed": 4, "patch_size": 16}, ["patch_size: 12 in .* 16 now", "seed: 0 in .*, 4 now"]),
        ({"max_train_steps": 9}, ["max_train_steps: 3 in the checkpoint, 9 now"]),
    ],
    ids=["rate", "codec", "set", "data", "steps"],
)
def test_r9_changed_options_are_listed(run, copy, changes, listed):
    with pytest.raises(CheckpointError) as caught:
        run("tune_prompts", copy(2), resume_from_checkpoint="latest", **changes)
    for pattern in listed:
        assert caught.match(pattern)
    assert caught.match("accept the change by --force")
    assert str(caught.value).count(" in the checkpoint, ") == len(listed)


def test_r9_another_base_of_the_same_name(run, world, copy):
    """The frozen part is in no checkpoint: the adapter would name a base that is not its own."""
    folder = copy(1)
    path = Path(world.bases["prompted"]) / "model.safetensors"
    before = path.read_bytes()
    other = UCIP.from_pretrained(world.bases["prompted"])
    with torch.no_grad():
        next(other.parameters()).add_(0.01)
    other.save_pretrained(path.parent)
    try:
        with pytest.raises(CheckpointError, match=r"base_fingerprint: .* in the checkpoint"):
            run("tune_prompts", folder, resume_from_checkpoint="latest")
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("before", ["0" * 64, None], ids=["others", "not recorded"])
def test_r9_other_images_in_the_same_folder(run, copy, before):
    """As though the checkpoint were of other ones; earlier versions did not record them."""
    folder = copy(2)
    path = folder / "checkpoints" / "step-00000002" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert len(manifest["run_config"].pop("images_sha256")) == 64
    if before is None:
        path.write_text(json.dumps(manifest), encoding="utf-8")
        assert len(run("tune_prompts", folder, resume_from_checkpoint="latest").losses) == 1
        return
    manifest["run_config"]["images_sha256"] = before
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r'other options \(images_sha256: "0+" in the check'):
        run("tune_prompts", folder, resume_from_checkpoint="latest")


SCRIPT = """import sys
from PIL import Image
with Image.open(sys.argv[1]) as image:
    image.save(sys.argv[2], "JPEG", quality=int(sys.argv[3]) - {less})
"""


@pytest.mark.parametrize("name", list(RESULTS))
def test_r9_another_program_of_the_same_name(run, tmp_path, name):
    """The weights were trained on what the old one did; scores would be of the new one."""
    script, folder = tmp_path / "enc.py", tmp_path / "out"
    codec = f"command:{sys.executable} {script} {{in}} {{out}} {{q}}"
    options = {"codec": codec, "qualities": (20,), "allow_command": True}
    if name == "pretrain_base":
        slot = f'[[slots]]\nname = "mine"\ncodec = "{codec}"\nqualities = [20]\n'
        (tmp_path / "mine.toml").write_text(slot, encoding="utf-8")
        options = {"suite": str(tmp_path / "mine.toml"), "allow_command": True}
    script.write_text(SCRIPT.format(less=0), encoding="utf-8")
    first = run(name, folder, **options)
    again = run(name, folder, **options, resume_from_checkpoint="latest")
    found = [done.record["parameters"]["codec_fingerprints"] for done in (first, again)]
    assert found[0] == found[1]
    assert [one for one, _ in found[0]] == [codec]

    script.write_text(SCRIPT.format(less=9), encoding="utf-8")
    listed = r'other options \(fingerprint of codec command:[^;]*: "\w{16}" in the checkpoint, "\w'
    with pytest.raises(CheckpointError, match=rf"{listed}.* --force"):
        run(name, folder, **options, resume_from_checkpoint="latest")
    with pytest.warns(CheckpointWarning, match="fingerprint of codec command:"):
        forced = run(name, folder, **options, resume_from_checkpoint="latest", force=True)
    file = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    [[shown, digest]] = file["parameters"]["codec_fingerprints"]
    assert digest == forced.record["parameters"]["codec_fingerprints"][0][1] != found[0][0][1]
    assert str(tmp_path) not in shown, "a path of this machine"


@pytest.mark.parametrize("known", [True, False], ids=["another", "not recorded"])
def test_r9_another_version_of_a_library(run, copy, monkeypatch, known):
    folder = copy(2)
    path = folder / "checkpoints" / "step-00000002" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    digest = manifest["run_config"]["fingerprint of codec webp"]
    assert digest == fingerprint_digest(get_codec("webp").fingerprint())
    if not known:
        del manifest["run_config"]["fingerprint of codec webp"]
        path.write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.setattr(PIL, "__version__", "99.0")
    if not known:
        assert len(run("tune_prompts", folder, resume_from_checkpoint="latest").losses) == 1
        return
    with pytest.raises(CheckpointError, match=r"options \(fingerprint of codec webp: .* now\)"):
        run("tune_prompts", folder, resume_from_checkpoint="latest")


def test_r9_force_accepts_them(run, copy):
    with pytest.warns(
        CheckpointWarning, match=r"learning_rate: 0\.03 in the checkpoint, 0\.01 now"
    ):
        done = run(
            "tune_prompts", copy(2), resume_from_checkpoint="latest", learning_rate=0.01, force=True
        )
    assert len(done.losses) == 1


def test_r9_forced_into_other_micro_batches(run, kept, copy):
    """The same samples in each step, cut in two: every update is of both halves."""
    with pytest.warns(CheckpointWarning, match="gradient_accumulation_steps: 1 in the checkpoint"):
        done = run(
            "tune_prompts",
            copy(1),
            resume_from_checkpoint="latest",
            train_batch_size=1,
            gradient_accumulation_steps=2,
            force=True,
        )
    assert done.losses == pytest.approx(kept.losses[1:], abs=1e-4)
    ours, theirs = read_safetensors(done.bytes()), read_safetensors(kept.bytes())
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-4, err_msg=name)


def test_r9_options_that_do_not_matter_may_change(run, kept, copy):
    done = run(
        "tune_prompts",
        copy(2),
        resume_from_checkpoint="latest",
        dataloader_num_workers=1,
        checkpointing_steps=2,
        validation_steps=1,
    )
    assert done.bytes() == kept.bytes()


# -- R7 -----------------------------------------------------------------------------------------


@pytest.fixture
def bad_sample(monkeypatch):
    """Sample number 3, of step 1, is NaN."""
    cut = PairedCrops.__getitem__

    def spoilt(self, index):
        sample = cut(self, index)
        return {**sample, "lq": sample["lq"] * math.nan} if index == 3 else sample

    monkeypatch.setattr(PairedCrops, "__getitem__", spoilt)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_r7_a_bad_step_is_skipped(run, bad_sample, tmp_path, accumulation):
    done = run(
        "tune_prompts",
        tmp_path / "out",
        train_batch_size=2 // accumulation,
        gradient_accumulation_steps=accumulation,
        validation_steps=3,
        ema_decay=0.5,
    )
    assert done.record["scores"]["skipped_steps"] == 1
    assert [math.isnan(loss) for loss in done.losses] == [False, True, False]
    [point] = done.record["scores"]["curve"]
    assert point["step"] == 3, "a skipped step counts"
    first, _, last = done.losses
    assert point["train_loss"] == pytest.approx(0.98 * first + 0.02 * last)
    for value in read_safetensors(done.bytes()).values():
        assert np.isfinite(value).all()


def test_r7_a_skipped_step_trains_nothing(run, bad_sample, tmp_path):
    one = run("tune_prompts", tmp_path / "one", max_train_steps=1, lr_scheduler="constant")
    two = run("tune_prompts", tmp_path / "two", max_train_steps=2, lr_scheduler="constant")
    assert two.bytes() == one.bytes()


@pytest.mark.parametrize("name", list(RESULTS))
def test_r7_a_bad_step_stops(run, bad_sample, tmp_path, name):
    with pytest.raises(NonFiniteError, match=r"step 1: the loss is NaN or infinite; samples 2, 3"):
        run(name, tmp_path / "out", nonfinite="stop", checkpointing_steps=1)
    assert published(tmp_path / "out") == ["step-00000001"]
    assert not (tmp_path / "out" / "results.json").exists()


def spoil(run):
    with torch.no_grad():
        next(p for p in run.model.parameters() if p.requires_grad).fill_(math.nan)


def test_r7_a_bad_state_is_never_published(run, kept, tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 2 is not saved: .* untouched"):
        run("tune_prompts", tmp_path / "out", checkpointing_steps=1, at={2: spoil})
    assert published(tmp_path / "out") == ["step-00000001"]
    again = run("tune_prompts", tmp_path / "out", resume_from_checkpoint="latest")
    assert again.bytes() == kept.bytes()
