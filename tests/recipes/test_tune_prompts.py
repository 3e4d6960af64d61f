"""What ``tune_prompts.py`` leaves behind, and that only what it names was trained."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from PIL import Image
from safetensors.numpy import load as read_safetensors
from skimage.metrics import peak_signal_noise_ratio

from ucip_adapt.codecs import get_codec
from ucip_adapt.data import read_rgb
from ucip_adapt.data.bicubic import bicubic_down4
from ucip_adapt.data.paired import to_tensor
from ucip_adapt.errors import ConfigError
from ucip_adapt.models import UCIP
from ucip_adapt.training.results import TOP_LEVEL_KEYS, read_results
from ucip_adapt.tuning import (
    DynamicPromptConfig,
    add_prompt_adapter,
    count_adapter,
    load_prompt_adapter,
)

STEPS = 6
QUALITIES = (10, 40)


@pytest.fixture(scope="module")
def tuned(run, tmp_path_factory):
    """One run that most tests look at."""
    return run(
        "tune_prompts",
        tmp_path_factory.mktemp("tuned") / "out",
        max_train_steps=STEPS,
        qualities=QUALITIES,
        validation_steps=3,
        report_to="tensorboard",
    )


@pytest.fixture
def base(world):
    return UCIP.from_pretrained(world.bases["prompted"])


def luma(rgb):
    """ITU-R BT.601 luma from 16 to 235, without the 4 pixels along each edge."""
    y = 16 + rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255
    return y[4:-4, 4:-4]


def validation_images(world):
    return [(path.stem, read_rgb(path)) for path in sorted(world.validation.iterdir())]


def compress(image, quality):
    return get_codec("webp").roundtrip(bicubic_down4(image), quality).pixels


def upscale(network, lq):
    sr = network.upscale(to_tensor(lq)[None])[0]
    return (sr * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def mean_psnr(world, quality, method):
    """Mean PSNR on luma by scikit-image of what ``method`` makes of the compressed images."""
    values = [
        peak_signal_noise_ratio(luma(image), luma(method(compress(image, quality))), data_range=255)
        for _, image in validation_images(world)
    ]
    return sum(values) / len(values)


# -- the files --------------------------------------------------------------------------------


def test_it_leaves_the_files_it_names_and_a_gain(tuned):
    assert {path.name for path in tuned.folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "README.md", "LICENSE"),
        *("results.json", "before_after.png", "checkpoints", "tensorboard"),
    }
    line = tuned.lines[-1]
    assert line.startswith(f"wrote {tuned.folder}: adapter_model.safetensors (")
    for name in ("README.md", "results.json", "before_after.png"):
        assert name in line
    rows = [row for row in tuned.record["scores"]["rows"] if row["protocol"] == "y-c4"]
    adapter, base = (
        np.mean([row["psnr_db"] for row in rows if row["method"] == method])
        for method in ("adapter", "base")
    )
    gain = float(line.rsplit("gain ", 1)[1].removesuffix(" dB"))
    assert gain == pytest.approx(adapter - base, abs=1e-3)


def test_plain_peft_loads_it_and_gets_the_scores(world, base, tuned):
    model = PeftModel.from_pretrained(base, str(tuned.folder)).get_base_model()
    rows = {
        (row["method"], row["quality"]): row
        for row in read_results(tuned.folder / "results.json")["scores"]["rows"]
        if row["protocol"] == "y-c4"
    }
    plain = UCIP.from_pretrained(world.bases["prompted"])
    methods = {
        "adapter": lambda lq: upscale(model, lq),
        "base": lambda lq: upscale(plain, lq),
        "bicubic": lambda lq: np.asarray(
            Image.fromarray(lq).resize((4 * lq.shape[1], 4 * lq.shape[0]), Image.Resampling.BICUBIC)
        ),
    }
    assert rows.keys() == {(method, quality) for method in methods for quality in QUALITIES}
    for (name, quality), row in rows.items():
        expected = mean_psnr(world, quality, methods[name])
        assert row["psnr_db"] == pytest.approx(expected, abs=1e-4), (name, quality)
        assert (row["dataset"], row["codec"], row["images"]) == ("validation", "webp", 2)
        assert 0 < row["ssim"] < 1
    assert rows["adapter", 10]["psnr_db"] != rows["base", 10]["psnr_db"]


def test_the_results_file_holds_everything_that_a_table_needs(tuned, world):
    record = json.loads(tuned.bytes("results.json"))
    assert tuple(record) == TOP_LEVEL_KEYS
    assert record["kind"] == "tune_prompts"
    assert record["command"].startswith("python ")
    config = record["config"]
    assert (config["codec"], config["qualities"], config["trainable"]) == ("webp", [10, 40], "dpm")
    assert config["learning_rate"] > 0, "the resolved rate, not the option's default"
    assert str(world.train) not in json.dumps(record), "no path of this machine"
    environment = record["environment"]
    assert {"versions", "cpu", "cpu_cores", "torch_threads", "gpu", "commit"} <= environment.keys()
    assert environment["processes"] == 1
    seconds = record["seconds"]
    parts = sum(seconds[name] for name in ("data", "training", "validation", "evaluation"))
    assert seconds["total"] == pytest.approx(parts, abs=0.05)
    assert seconds["per_step"] == pytest.approx(seconds["training"] / STEPS)
    assert record["peak_memory_mib"] > 50
    assert record["files"].keys() == {
        *("adapter_model.safetensors", "adapter_config.json", "before_after.png")
    }
    parameters = record["parameters"]
    assert parameters["protocol"] == "iv"
    assert parameters["adapter_bytes"] == len(tuned.bytes())
    protocols = {row["protocol"] for row in record["scores"]["rows"]}
    assert protocols == {"y-c4", "rgb-c4"}
    assert record["scores"]["skipped_steps"] == 0


def test_the_adapter_says_what_it_is(tuned, base):
    config = json.loads(tuned.bytes("adapter_config.json"))
    assert config["peft_type"] == "DYNAMIC_PROMPT"
    assert (config["codec"], config["qualities"]) == ("webp", [10, 40])
    assert (config["trainable_set"], config["trainable_blocks"]) == ("dpm", "all")
    assert config["base_fingerprint"] == base.fingerprint
    assert set(config["metrics"]["psnr_db"]["validation"]) == {"bicubic", "base", "adapter"}
    tensors = read_safetensors(tuned.bytes())
    assert sum(tensor.size for tensor in tensors.values()) == 272
    assert all(tensor.dtype == np.float32 for tensor in tensors.values())


def test_the_card_says_base_codec_set_counts_bytes_and_scores(tuned, base):
    card = ModelCard.load(tuned.folder / "README.md")
    assert card.data.library_name == "peft"
    assert card.data.license == "other", "the terms of the user's images are not known"
    assert "codec:webp" in card.data.tags
    text = card.text
    for words in (
        base.fingerprint,
        "webp: 10, 40",
        "dpm, blocks all: 272 parameters",
        f"{len(tuned.bytes()):,} bytes",
        "row iv",
        f"{STEPS} of 2 crops of 12 x 12",
        "before_after.png",
    ):
        assert words in text
    for row in tuned.record["scores"]["rows"]:
        if row["protocol"] == "y-c4":
            assert f"{row['psnr_db']:.2f} / {row['ssim']:.3f}" in text


def test_the_picture_shows_input_bicubic_base_adapter_and_truth(world, tuned, base):
    with Image.open(tuned.folder / "before_after.png") as image:
        assert image.format == "PNG"
        sheet = np.asarray(image)
    # A crop of 80 pixels (the image's shorter side) twice as large, 4 pixels between two panels.
    assert sheet.shape == (160 + 34, 5 * 160 + 4 * 4, 3)
    _, truth = validation_images(world)[0]
    lq = compress(truth, QUALITIES[-1])
    model = PeftModel.from_pretrained(
        UCIP.from_pretrained(world.bases["prompted"]), str(tuned.folder)
    )
    panels = [
        lq.repeat(4, axis=0).repeat(4, axis=1),
        np.asarray(Image.fromarray(lq).resize((96, 80), Image.Resampling.BICUBIC)),
        upscale(base, lq),
        upscale(model.get_base_model(), lq),
        truth,
    ]
    lefts = [
        left
        for left in (0, 16)
        if np.array_equal(
            sheet[:160, -160:], truth[:, left : left + 80].repeat(2, axis=0).repeat(2, axis=1)
        )
    ]
    assert len(lefts) == 1, "the last panel is a crop of the truth"
    for place, panel in enumerate(panels):
        shown = sheet[:160:2, 164 * place : 164 * place + 160 : 2]
        np.testing.assert_array_equal(shown, panel[:, lefts[0] : lefts[0] + 80], str(place))


def test_the_validation_curve_ends_at_the_final_score(tuned):
    scores = tuned.record["scores"]
    assert [point["step"] for point in scores["curve"]] == [3, 6]
    rows = [
        row["psnr_db"]
        for row in scores["rows"]
        if (row["method"], row["protocol"]) == ("adapter", "y-c4")
    ]
    assert scores["curve"][-1]["val_psnr_db"] == pytest.approx(np.mean(rows), abs=1e-4)
    assert scores["curve"][0]["val_psnr_db"] != scores["curve"][-1]["val_psnr_db"]


def test_tensorboard_gets_every_step(tuned):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tuned.folder / "tensorboard" / "ucip_adapt")).Reload()
    read = [(event.step, event.value) for event in events.Scalars("train_loss") if event.step]
    losses = dict(enumerate(tuned.losses, start=1))
    assert len(losses) == STEPS
    for step, loss in losses.items():
        assert any(s == step and v == pytest.approx(loss, rel=1e-6) for s, v in read)
    assert {"learning_rate", "val_psnr_db"} <= set(events.Tags()["scalars"])


def test_the_rate_warms_up_and_falls(tuned):
    rates = [values["learning_rate"] for values in tuned.logs if "learning_rate" in values]
    peak = tuned.record["config"]["learning_rate"]
    assert rates[0] == peak
    assert rates == sorted(rates, reverse=True)
    assert rates[3] == pytest.approx(peak * (1 + np.cos(np.pi * 2 / 5)) / 2)


# -- what is trained --------------------------------------------------------------------------


def check_only_the_set_moved(world, run, folder, *, steps, base="prompted", **options):
    """R11: every tensor of the base as it was, every tensor of the set moved, nothing else."""
    path = world.bases[base]
    config = DynamicPromptConfig(
        codec="webp",
        trainable_set=options.get("trainable", "dpm"),
        trainable_blocks=options.get("trainable_blocks", "all"),
    )
    plain = UCIP.from_pretrained(path)
    done = run(
        "tune_prompts",
        folder,
        max_train_steps=steps,
        pretrained_model_name_or_path=str(path),
        **options,
    )
    network = done.model.get_base_model()
    tensors = network.base_tensors()
    assert tensors.keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(tensors[name], value), name

    count = count_adapter(plain.config, config)
    [group] = done.optimizer.param_groups
    assert sum(parameter.numel() for parameter in group["params"]) == count
    saved = read_safetensors(done.bytes())
    assert sum(value.size for value in saved.values()) == count
    assert done.record["parameters"]["trained"] == count
    fresh = add_prompt_adapter(UCIP.from_pretrained(path), config).state_dict()
    for name, value in saved.items():
        key = next(k for k in fresh if k.replace(".default", "") == name)
        assert not np.array_equal(value, fresh[key].numpy()), f"{name} did not move"

    lq = torch.rand(1, 3, 12, 13, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), done.model.disable_adapter():
        assert torch.equal(network(lq), plain(lq)), "without its adapter it is the base"
    with torch.no_grad():
        assert not torch.equal(network(lq), plain(lq))
    return done


@pytest.mark.parametrize("trainable", ["basis", "dpm", "dpm+offset", "dpm+offset+spade"])
def test_r11_only_the_named_set_is_trained(world, run, tmp_path, trainable):
    check_only_the_set_moved(world, run, tmp_path / "out", steps=3, trainable=trainable)


def test_r11_only_the_last_block_is_trained(world, run, tmp_path):
    done = check_only_the_set_moved(
        world, run, tmp_path / "out", steps=3, base="two blocks", trainable_blocks="last:1"
    )
    assert all("blocks.1." in name for name in read_safetensors(done.bytes()))


@pytest.mark.slow
@pytest.mark.parametrize("base", ["prompted", "prompt-free", "two blocks"])
def test_r11_after_fifty_steps(world, run, tmp_path, base):
    check_only_the_set_moved(
        world, run, tmp_path / "out", steps=50, base=base, trainable="dpm+offset+spade"
    )


def test_a_prompt_free_base_receives_prompts_as_row_ii(world, run, tmp_path):
    done = check_only_the_set_moved(world, run, tmp_path / "out", steps=3, base="prompt-free")
    assert done.record["parameters"]["protocol"] == "ii"
    assert any(line.startswith("protocol   ii: prompts added") for line in done.lines)


@pytest.mark.parametrize("method", ["prompts", "lora"])
@pytest.mark.parametrize("place", ["runs/base", "absolute", "gone at the end"])
def test_folders_of_this_machine_are_not_passed_on(
    world, run, tmp_path, monkeypatch, method, place
):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(world.bases["prompted"], tmp_path / "runs" / "base")
    name = str(folder) if place == "absolute" else "runs/base"
    gone = {1: lambda _: shutil.rmtree(folder)} if place == "gone at the end" else {}
    options = {"peft_method": method, "pretrained_model_name_or_path": name}
    done = run("tune_prompts", tmp_path / "out", at=gone, max_train_steps=1, **options)
    config = json.loads(done.bytes("adapter_config.json"))
    assert config["base_model_name_or_path"] == "base"
    card = ModelCard.load(done.folder / "README.md")
    assert "base_model" not in card.data.to_dict()
    assert 'UCIP.from_pretrained("path/to/the/base")' in card.text
    for file in ("adapter_config.json", "results.json", "README.md"):
        assert str(tmp_path) not in done.bytes(file).decode(), file
    base = UCIP.from_pretrained(world.bases["prompted"])
    if method == "prompts":
        with pytest.raises(ConfigError, match=r"names as its base 'base', .* give that yourself"):
            load_prompt_adapter(done.folder)
        assert load_prompt_adapter(done.folder, base=base).peft_config
    else:
        assert PeftModel.from_pretrained(base, str(done.folder)).peft_config


@pytest.mark.parametrize(
    ("method", "trainable", "blocks"),
    [("lora", "dpm+offset", "all"), ("dora", "dpm", "all"), ("lora", "dpm", "last:1")],
)
def test_lora_and_dora_run_at_the_budget_of_the_set(
    world, run, tmp_path, method, trainable, blocks
):
    path = world.bases["prompted" if blocks == "all" else "two blocks"]
    done = run(
        "tune_prompts",
        tmp_path / "out",
        trainable=trainable,
        trainable_blocks=blocks,
        peft_method=method,
        pretrained_model_name_or_path=str(path),
    )
    base = UCIP.from_pretrained(path)
    own = DynamicPromptConfig(trainable_set=trainable, trainable_blocks=blocks)
    budget = count_adapter(base.config, own)
    trained = done.record["parameters"]["trained"]
    assert 0.5 < trained / budget < 1.5
    assert "protocol   none, beside row iv" in done.lines
    tensors = read_safetensors(done.bytes())
    assert sum(value.size for value in tensors.values()) == trained
    assert blocks == "all" or all(".blocks.1." in name for name in tensors)
    plain = UCIP.from_pretrained(path)
    for name, value in plain.state_dict().items():
        assert torch.equal(done.model.get_base_model().base_tensors()[name], value), name
    rows = [r for r in done.record["scores"]["rows"] if r["protocol"] == "y-c4"]
    [score] = [row["psnr_db"] for row in rows if row["method"] == "adapter"]
    loaded = PeftModel.from_pretrained(base, str(done.folder)).get_base_model()
    assert score == pytest.approx(mean_psnr(world, 10, lambda lq: upscale(loaded, lq)), abs=1e-4)
    card = ModelCard.load(done.folder / "README.md").text
    assert f"{method}, blocks {blocks}: {trained:,} parameters" in card
    assert "PeftModel.from_pretrained" in card, "load_prompt_adapter does not load this one"
