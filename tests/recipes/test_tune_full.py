"""``tune_full.py``: rows iii and v leave a whole network, trained in every tensor."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from ucip_adapt.errors import ConfigError
from ucip_adapt.models import UCIP


@pytest.fixture(scope="module")
def tuned(run, tmp_path_factory):
    """Row v on the prompted base."""
    folder = tmp_path_factory.mktemp("tuned") / "out"
    return run("tune_full", folder, validation_steps=3, name="nano-webp")


def test_row_v_trains_everything(world, tuned):
    base = UCIP.from_pretrained(world.bases["prompted"])
    network = UCIP.from_pretrained(tuned.folder)
    [group] = tuned.optimizer.param_groups
    assert sum(p.numel() for p in group["params"]) == base.num_parameters() == 22_467
    assert tuned.record["parameters"]["trained"] == 22_467
    moved = {
        name: not torch.equal(value, network.state_dict()[name])
        for name, value in base.state_dict().items()
    }
    assert all(moved.values()), [name for name, changed in moved.items() if not changed]
    assert tuned.record["parameters"]["protocol"] == "v"
    assert network.config == base.config


def test_row_iii_adds_prompts_first(run, world, tmp_path):
    done = run(
        "tune_full",
        tmp_path / "out",
        pretrained_model_name_or_path=str(world.bases["prompt-free"]),
    )
    assert done.record["parameters"]["protocol"] == "iii"
    network = UCIP.from_pretrained(done.folder)
    assert network.config.prompt == "dynamic"
    assert done.record["parameters"]["trained"] == network.num_parameters(trainable_only=True)
    assert any(line.startswith("protocol   iii: ") for line in done.lines)


def test_norms_and_biases_leave_the_rest_bit_for_bit(run, world, tuned, tmp_path):
    done = run("tune_full", tmp_path / "out", trainable="norms+biases")
    assert done.losses[0] == pytest.approx(tuned.losses[0], abs=1e-7)
    base = UCIP.from_pretrained(world.bases["prompted"])
    network = UCIP.from_pretrained(done.folder)
    moved = {
        name
        for name, value in base.state_dict().items()
        if not torch.equal(value, network.state_dict()[name])
    }
    named = dict(base.named_parameters())
    assert moved == {n for n in named if n.endswith(".bias") or n.split(".")[-2].startswith("norm")}
    assert done.record["parameters"]["trained"] == sum(named[n].numel() for n in moved) == 755
    assert done.record["parameters"]["protocol"] is None
    assert any(line.startswith("trained    norms+biases: 755 parameters, ") for line in done.lines)
    assert "Only norms+biases were trained" in done.bytes("README.md").decode()


def test_bf16_is_for_training_and_scores_are_of_float32(run, tmp_path):
    """With a rate of 0 the tuned network is the base: equal to the last digit."""
    done = run("tune_full", tmp_path / "out", mixed_precision="bf16", learning_rate=0.0)
    by_method: dict[str, list[tuple[float, float]]] = {}
    for row in done.record["scores"]["rows"]:
        by_method.setdefault(row["method"], []).append((row["psnr_db"], row["ssim"]))
    del by_method["bicubic"]
    base, tuned = by_method.values()
    assert base == tuned
    assert done.lines[-2].startswith("note       on validation the base alone is at least as good")
    assert done.lines[-1].startswith("wrote ")


def test_there_is_no_note_where_tuning_helped(tuned):
    rows = tuned.record["scores"]["rows"]
    psnr = {
        method: [row["psnr_db"] for row in rows if row["method"] == method]
        for method in ("base", "full")
    }
    assert sum(psnr["full"]) > sum(psnr["base"])
    assert not any(line.startswith("note") for line in tuned.lines)


def test_norms_and_biases_are_no_row_of_the_table(run, tmp_path):
    with pytest.raises(ConfigError, match=r"--protocol v: norms\+biases is no row of Table 3"):
        run("tune_full", tmp_path / "out", trainable="norms+biases", protocol="v")


def test_the_first_losses_of_iv_and_v_are_equal(run, tuned, tmp_path):
    """The same base, crops and order: what differs is only what is trained."""
    prompts = run("tune_prompts", tmp_path / "out")
    assert prompts.losses[0] == pytest.approx(tuned.losses[0], abs=1e-7)
    assert prompts.losses[-1] != tuned.losses[-1]
    base = [
        [r for r in d.record["scores"]["rows"] if r["method"] == "base"] for d in (prompts, tuned)
    ]
    assert base[0] == base[1]


def test_it_leaves_a_network_with_card_results_and_picture(world, tuned):
    assert {path.name for path in tuned.folder.iterdir()} == {
        *("config.json", "model.safetensors", "README.md", "LICENSE", "results.json"),
        *("before_after.png", "checkpoints"),
    }
    with Image.open(tuned.folder / "before_after.png") as image:
        assert (image.format, image.size) == ("PNG", (5 * 160 + 16, 160 + 34))
    record = json.loads(tuned.bytes("results.json"))
    assert record["kind"] == "tune_full"
    base = UCIP.from_pretrained(world.bases["prompted"])
    network = UCIP.from_pretrained(tuned.folder)
    assert record["parameters"]["base_fingerprint"] == base.fingerprint
    assert record["parameters"]["fingerprint"] == network.fingerprint != base.fingerprint
    assert [point["step"] for point in record["scores"]["curve"]] == [3]
    assert set(record["files"]) == {"model.safetensors", "config.json", "before_after.png"}
    card = ModelCard.load(tuned.folder / "README.md")
    assert "# nano-webp" in card.text
    assert "damage seen | webp:10 |" in card.text
    assert "Row v." in card.text
    assert network.fingerprint in card.text
    assert "before_after.png" in card.text
    assert card.data.license == "other"
    line = tuned.lines[-1]
    assert line.startswith(f"wrote {tuned.folder}: model.safetensors, ")
    assert line.endswith(" dB")


@pytest.mark.parametrize(
    ("protocol", "base", "message"),
    [
        (
            "iii",
            "prompted",
            "protocol iii .* wants a prompt-free base, this one is prompted: .* v$",
        ),
        ("v", "prompt-free", "protocol v .* wants a prompted base, this one is prompt-free"),
        ("iv", "prompted", "protocol iv trains prompts, this recipe trains everything: use "),
    ],
)
def test_another_protocol_is_refused(run, world, tmp_path, protocol, base, message):
    with pytest.raises(ConfigError, match=message):
        run(
            "tune_full",
            tmp_path / "out",
            protocol=protocol,
            pretrained_model_name_or_path=str(world.bases[base]),
        )


def test_a_dry_run_counts_everything(run, tmp_path):
    done = run("tune_full", tmp_path / "out", dry_run=True)
    assert any("everything: 22,467 parameters, 89,868 bytes, 100.00 %" in x for x in done.lines)
    assert not (tmp_path / "out").exists()
