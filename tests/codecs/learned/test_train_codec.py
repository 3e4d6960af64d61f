"""``recipes/train_codec.py``: a few steps, stopped and resumed, and what it leaves."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import signal
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState, GradientState

from ucip_adapt.assets import image_folder
from ucip_adapt.codecs.learned import TINY_CODECS, TINY_MSE
from ucip_adapt.codecs.learned.crops import CodecCrops, reduced
from ucip_adapt.codecs.learned.weights import load_codec
from ucip_adapt.config import parse_config
from ucip_adapt.data import read_rgb
from ucip_adapt.data.bicubic import bicubic_down2
from ucip_adapt.data.images import save_png
from ucip_adapt.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from ucip_adapt.training.checkpoint import CheckpointWarning

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "train_codec.py"
KINDS = {
    "tiny-mse": [],
    "tiny-elic": [],
    "tiny-msssim": ["--start_from", str(TINY_MSE.path)],
    "tiny-perceptual": ["--start_from", str(TINY_MSE.path)],
}


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("ucip_test_train_codec", RECIPE)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for split, name in (("train", "city"), ("train", "flowers"), ("validation", "girl")):
        image = read_rgb(image_folder(split) / f"{name}.webp")[100:308, 200:416]
        (root / split).mkdir(exist_ok=True)
        save_png(root / split / f"{name}.png", image)
    return root


def words_of(folders: Path, output: Path) -> list[str]:
    """Flags of a run of 4 steps."""
    words = ["--train_data_dir", str(folders / "train"), "--output_dir", str(output)]
    words += ["--validation_data_dir", str(folders / "validation"), "--patch_size", "48"]
    return [*words, "--max_train_steps", "4", "--train_batch_size", "4", "--log_steps", "2"]


@pytest.fixture
def train(recipe, folders, monkeypatch):
    def go(output: Path, *flags: str, stop_at: int | None = None) -> dict:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        words = words_of(folders, output)
        with monkeypatch.context() as patch:
            if stop_at is not None:
                step = recipe.GuardedStep.step

                def watch(self, done):
                    if done == stop_at - 1:
                        signal.raise_signal(signal.SIGTERM)
                    return step(self, done)

                patch.setattr(recipe.GuardedStep, "step", watch)
            return recipe.main(parse_config(recipe.Options, [*words, *flags]))

    return go


@pytest.mark.parametrize(
    "codec",
    [
        "tiny-mse",
        pytest.param("tiny-elic", marks=pytest.mark.slow),
        pytest.param("tiny-msssim", marks=pytest.mark.slow),
        "tiny-perceptual",
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(train, tmp_path, codec):
    flags = ["--codec", codec, *KINDS[codec]]
    whole = train(tmp_path / "whole", *flags)
    # Between two points of the curve: what was counted towards the next one has to come along.
    assert train(tmp_path / "parts", *flags, stop_at=3) == {}
    parts = train(tmp_path / "parts", *flags, "--resume_from_checkpoint", "latest")
    assert parts["scores"]["curve"] == whole["scores"]["curve"]
    name = f"{codec}.safetensors"
    first, second = (load_codec(tmp_path / run / name) for run in ("whole", "parts"))
    for key, value in first.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[key]), key
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()

    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert results == json.loads(json.dumps(whole))
    rows = results["scores"]["rows"]
    assert [row["quality"] for row in rows] == list(range(1, first.network.config.rates + 1))
    assert [point["step"] for point in results["scores"]["curve"]] == [2, 4]
    assert first.training["steps"] == 4


@pytest.fixture
def replaceable(folders, tmp_path) -> tuple[Path, Path, list[str]]:
    """A start and a folder of images whose contents may change, and the flags that name them."""
    start, images = tmp_path / "start.safetensors", tmp_path / "images"
    shutil.copy(TINY_MSE.path, start)
    shutil.copytree(folders / "train", images)
    flags = ["--codec", "tiny-perceptual", "--start_from", str(start)]
    return start, images, [*flags, "--train_data_dir", str(images)]


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
def test_another_start_of_the_same_name(train, replaceable, tmp_path, recorded):
    """Its frozen encoder is in no checkpoint: the result would be half of each."""
    start, _, flags = replaceable
    out = tmp_path / "out"
    assert train(out, *flags, stop_at=2) == {}
    if not recorded:
        forget(out, "start_fingerprint")
    shutil.copy(TINY_CODECS["tiny-msssim"].path, start)
    resume = [*flags, "--resume_from_checkpoint", "latest"]
    if not recorded:
        assert train(out, *resume)["kind"] == "train_codec"
        return
    with pytest.raises(CheckpointError, match=r'other options \(start_fingerprint: "\w{64}" in'):
        train(out, *resume)
    with pytest.warns(CheckpointWarning, match="start_fingerprint: "):
        assert train(out, *resume, "--force")["kind"] == "train_codec"


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not recorded"])
def test_other_images_of_the_same_names(train, replaceable, tmp_path, recorded):
    _, images, flags = replaceable
    out = tmp_path / "out"
    assert train(out, *flags, stop_at=2) == {}
    if not recorded:
        forget(out, "images_sha256")
    city, flowers = images / "city.png", images / "flowers.png"
    city.write_bytes(flowers.read_bytes())
    resume = [*flags, "--resume_from_checkpoint", "latest"]
    if not recorded:
        assert train(out, *resume)["kind"] == "train_codec"
        return
    with pytest.raises(CheckpointError, match=r'other options \(images_sha256: "\w{64}" in the'):
        train(out, *resume)


def forget(out: Path, key: str) -> None:
    """Make the checkpoint one of an earlier version, which knew no such digest."""
    path = out / "checkpoints" / "step-00000002" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    assert len(manifest["run_config"][key]) == 64
    manifest["run_config"][key] = None
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_skipped_steps_of_the_opponent_are_counted(recipe, train, tmp_path, monkeypatch):
    """Also those before a stop."""
    compute, calls = recipe.discriminator_loss, []

    def spoilt(real, coded):
        calls.append(1)
        return compute(real, coded) * (math.nan if len(calls) == 1 else 1)

    monkeypatch.setattr(recipe, "discriminator_loss", spoilt)
    flags = ["--codec", "tiny-perceptual", *KINDS["tiny-perceptual"]]
    assert train(tmp_path, *flags, stop_at=2) == {}
    scores = train(tmp_path, *flags, "--resume_from_checkpoint", "latest")["scores"]
    assert (scores["skipped_steps"], scores["skipped_steps_of_opponent"]) == (0, 1)


def test_a_skipped_step_is_not_in_the_means(train, tmp_path, monkeypatch):
    """They are in the checkpoint, which is not published where it holds NaN."""
    cut = CodecCrops.__getitem__

    def spoilt(self, index):
        sample = cut(self, index)
        return {**sample, "image": sample["image"] * (math.nan if index == 2 else 1)}

    monkeypatch.setattr(CodecCrops, "__getitem__", spoilt)
    scores = train(tmp_path, "--start_from", str(TINY_MSE.path), "--checkpointing_steps", "1")[
        "scores"
    ]
    assert scores["skipped_steps"] == 1
    for point in scores["curve"]:
        assert np.isfinite(point["bpp"]).all()
        assert np.isfinite(point["mse"]).all()


def test_a_checkpoint_without_the_means_is_continued(train, tmp_path):
    """As earlier versions left them: the second point is of the step after it alone."""
    flags = ["--codec", "tiny-perceptual", *KINDS["tiny-perceptual"]]
    assert train(tmp_path, *flags, stop_at=3) == {}
    folder = tmp_path / "checkpoints" / "step-00000003"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    before = ["EMA", "Clock", "Curve", "GuardedStep"]
    assert manifest["objects"] == [*before, "RateMeans", "GuardedStep"]
    manifest["objects"] = before
    for number in (4, 5):
        manifest["files"].pop(f"object-{number}.pt")
        (folder / f"object-{number}.pt").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    done = train(tmp_path, *flags, "--resume_from_checkpoint", "latest")
    assert [point["step"] for point in done["scores"]["curve"]] == [2, 4]


def test_the_tracker_gets_losses_and_the_rates_rates(train, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = train(tmp_path, "--report_to", "tensorboard", "--train_batch_size", "8")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "ucip_adapt")).Reload()

    def logged(tag):
        return {event.step: event.value for event in events.Scalars(tag)}

    assert set(logged("train_loss")) >= {1, 2, 3, 4}
    assert logged("learning_rate")[1] == pytest.approx(1e-3)
    for point in done["scores"]["curve"]:
        for name in ("bpp", "mse"):
            for i, value in enumerate(point[name], start=1):
                assert logged(f"{name}/{i}")[point["step"]] == pytest.approx(value, nan_ok=True)


def test_only_the_decoder_learns_from_the_opponent(train, tmp_path):
    train(tmp_path, "--codec", "tiny-perceptual", *KINDS["tiny-perceptual"])
    before = load_codec(TINY_MSE.path).network.state_dict()
    after = load_codec(tmp_path / "tiny-perceptual.safetensors").network.state_dict()
    for name, value in after.items():
        same = torch.equal(
            value, before[name][:3] if value.shape != before[name].shape else before[name]
        )
        assert same != name.startswith("synthesis."), name


def test_the_opponent_needs_somebody_to_start_from(train, tmp_path):
    with pytest.raises(ConfigError, match="trains only a decoder: give --start_from"):
        train(tmp_path, "--codec", "tiny-perceptual")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--sampler=fused", "--sampler: a codec fetches no tokens; leave it out"),
        ("--gradient_accumulation_steps=2", "--gradient_accumulation_steps: .*; leave it out"),
        ("--loss=l1", "--loss: a codec has its own"),
        ("--suite_dir=elsewhere", "--suite_dir: a codec learns from clean images"),
        ("--validation_steps=2", "--validation_steps: a codec is measured at the end"),
        ("--gradient_checkpointing", "--gradient_checkpointing: a codec keeps its activations"),
    ],
    ids=lambda value: "" if ":" in value else value.strip("-").split("=")[0],
)
def test_an_option_of_networks_is_refused(train, tmp_path, flag, message):
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, "--codec", "tiny-mse", flag)
    assert not list(tmp_path.iterdir())


def test_help_offers_no_option_that_is_refused(recipe, capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_config(recipe.Options, ["--help"])
    text = capsys.readouterr().out
    assert "--learning_rate FLOAT" in text
    for name in ("sampler", "loss", "suite_dir", "validation_steps", "gradient_accumulation_steps"):
        assert f"--{name} " not in text
    assert "gradient_checkpointing" not in text


def test_as_they_are_anyway_they_pass(recipe):
    flags = ["--gradient_accumulation_steps=1", "--loss=psnr", "--sampler=none"]
    cfg = recipe.resolve_defaults(parse_config(recipe.Options, flags))
    assert (cfg.gradient_accumulation_steps, cfg.loss, cfg.sampler) == (1, "psnr", None)


def test_another_number_of_processes_may_be_accepted(train, tmp_path):
    """A checkpoint that says it is of two processes, as those of --allow_world_change are."""
    train(tmp_path, "--checkpointing_steps", "2")
    checkpoint = tmp_path / "checkpoints" / "step-00000002"
    content = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))
    content |= {"world_size": 2, "effective_batch": 8}
    (checkpoint / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    resume = ["--resume_from_checkpoint", str(checkpoint)]
    with pytest.raises(CheckpointError, match="accept the change by --allow_world_change"):
        train(tmp_path, *resume)
    with pytest.warns(CheckpointWarning, match="written by 2 processes"):
        assert train(tmp_path, *resume, "--allow_world_change")["kind"] == "train_codec"


def test_one_process_writes(train, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "is_main_process", False)
    assert train(tmp_path) == {}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in ([], [".lock"])


@pytest.fixture(scope="module")
def two_processes(recipe, folders, tmp_path_factory) -> list[dict]:
    """For each of two processes: the noise that it added, and what its run returned."""
    folder = tmp_path_factory.mktemp("two")
    words = [*words_of(folders, folder), "--train_batch_size", "2"]
    draw = torch.rand_like

    def run() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        drawn: list[torch.Tensor] = []

        def watch(values: torch.Tensor) -> torch.Tensor:
            drawn.append(draw(values))
            return drawn[-1]

        torch.rand_like = watch
        record = recipe.main(parse_config(recipe.Options, words))
        torch.save({"noise": drawn, "record": record}, folder / f"{Accelerator().process_index}.pt")

    debug_launcher(run, num_processes=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_processes_add_their_own_noise(two_processes):
    one, two = (process["noise"] for process in two_processes)
    assert len(one) == len(two) > 4
    for ours, theirs in zip(one, two, strict=True):
        assert ours.shape == theirs.shape
        assert not torch.equal(ours, theirs)


def test_the_curve_is_of_all_processes(two_processes):
    """Two of four rates fall to each process, in every step."""
    assert two_processes[1]["record"] == {}
    for point in two_processes[0]["record"]["scores"]["curve"]:
        assert np.isfinite(point["bpp"]).all()
        assert np.isfinite(point["mse"]).all()


class Watched(torch.Tensor):
    """Knows which device it was sent to."""

    sent: ClassVar[list[object]] = []

    def to(self, *args, **kwargs):
        self.sent.append(args[0])
        return super().to(*args, **kwargs).as_subclass(torch.Tensor)


def test_batches_go_to_the_device(recipe, train, tmp_path, monkeypatch):
    class Loader(recipe.DataLoader):
        def __iter__(self):
            for batch in super().__iter__():
                yield {name: value.as_subclass(Watched) for name, value in batch.items()}

    Watched.sent.clear()
    monkeypatch.setattr(recipe, "DataLoader", Loader)
    train(tmp_path, "--max_train_steps", "2")
    assert Watched.sent == [torch.device("cpu")] * 2 * 2


@pytest.mark.gpu
def test_a_codec_trains_on_a_gpu(train, tmp_path, monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    record = train(tmp_path, "--codec", "tiny-perceptual", *KINDS["tiny-perceptual"])
    assert record["environment"]["gpu"] is not None
    assert load_codec(tmp_path / "tiny-perceptual.safetensors").training["steps"] == 4


def test_a_run_that_trained_nothing_leaves_no_codec(train, tmp_path, monkeypatch):
    cut = CodecCrops.__getitem__

    def spoilt(self, index):
        sample = cut(self, index)
        return {**sample, "image": sample["image"] * math.nan}

    monkeypatch.setattr(CodecCrops, "__getitem__", spoilt)
    with pytest.raises(NonFiniteError, match="no result is written: every step was skipped"):
        train(tmp_path, "--start_from", str(TINY_MSE.path))
    assert not list(tmp_path.glob("*.*"))


def test_training_lowers_the_cost(train, tmp_path):
    """From cosines, 30 steps are enough to see it."""
    flags = ["--codec", "tiny-mse", "--max_train_steps", "30", "--log_steps", "10"]
    curve = train(tmp_path, *flags)["scores"]["curve"]
    weights = np.array([0.0008, 0.0022, 0.006, 0.016])
    costs = [np.sum(np.array(row["bpp"]) + weights * row["mse"]) for row in curve]
    assert costs[-1] < 0.92 * costs[0]


def test_crops_are_a_function_of_seed_and_index(folders):
    images = reduced(sorted((folders / "train").iterdir()))
    assert [image.shape[0] for image in images] == [52, 52, 104, 104]
    crops = [CodecCrops(images, patch_size=48, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(crops[0][7]["image"], crops[1][7]["image"])
    assert not torch.equal(crops[0][7]["image"], crops[2][7]["image"])
    with pytest.raises(DataError, match="52 x 54 pixels, less than a crop of 64"):
        CodecCrops(images, patch_size=64, seed=0)


@pytest.mark.parametrize("rates", [3, 4])
def test_every_rate_sees_both_scales_alike(rates):
    """The recipe takes a sample's rate from its number, as the remainder by the rates."""
    quarters, halves = np.zeros((48, 48, 3), np.uint8), np.full((96, 96, 3), 255, np.uint8)
    crops = CodecCrops([quarters, quarters, halves, halves], patch_size=48, seed=0)
    halved = np.array([crops[index]["image"].mean().item() for index in range(400 * rates)])
    shares = halved.reshape(-1, rates).mean(axis=0)
    # One in three of 400 draws, within three standard deviations.
    assert shares == pytest.approx(np.full(rates, 1 / 3), abs=3 * (2 / 9 / 400) ** 0.5)


def test_half_size_is_matlabs_too():
    """The kernel of ``imresize(image, 1/2)`` by weights written out, rounded between the axes."""
    distances = (np.arange(8) - 3.5) / 2
    x = np.abs(distances)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    taps = np.where(x <= 1, near, far) / 2

    def halve(lines: np.ndarray) -> np.ndarray:
        padded = np.pad(lines, ((3, 3), (0, 0)), mode="symmetric").astype(float)
        rows = [taps @ padded[2 * i : 2 * i + 8] for i in range(len(lines) // 2)]
        return np.clip(np.floor(np.array(rows) + 0.5), 0, 255)

    image = np.random.default_rng(0).integers(0, 256, (14, 22, 3), np.uint8)
    expected = np.stack([halve(halve(image[..., c]).T).T for c in range(3)], axis=2)
    np.testing.assert_array_equal(bicubic_down2(image), expected)
    with pytest.raises(DataError, match="reduced to a half"):
        bicubic_down2(image[:13])
