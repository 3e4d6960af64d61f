"""Train the network that tells a codec by its traces in pixels.

    python recipes/train_detector.py --train_data_dir DATA/train/CID22 --output_dir runs/detector

leaves detector.safetensors and results.json. Measuring the images takes nearly all of the time;
what was measured is kept in OUTPUT_DIR/features, and taken from there the next time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.numpy import save_file
from torch import Tensor, nn
from tqdm import tqdm

from ucip_adapt.assets import image_folder
from ucip_adapt.codecs import get_codec
from ucip_adapt.codecs.base import code_image
from ucip_adapt.codecs.pillow import PillowCodec
from ucip_adapt.config import option, run_recipe
from ucip_adapt.data import ArrayCache, Setting, bicubic_down4, default_cache_dir, list_images
from ucip_adapt.data.cache import file_digest
from ucip_adapt.data.degrade import compress_lr, read_gt, require_codec
from ucip_adapt.detection.features import feature_names, traces_of
from ucip_adapt.detection.pixels import FORMAT_VERSION, load_detector
from ucip_adapt.errors import DataError
from ucip_adapt.training.results import run_record, write_results
from ucip_adapt.training.run import Clock

# What each output stands for: codecs with the qualities it learns from, worst first. HEIC and HEVC
# are one encoder, and one output. Half of the settings are the suite's, half are not.
CODECS: dict[str, dict[str, tuple[int, ...]]] = {
    "none": {},
    "jpeg": {"jpeg": (5, 10, 15, 20, 30, 40, 60, 80)},
    "webp": {"webp": (5, 10, 15, 20, 30, 40, 60, 80)},
    "avif": {"avif": (20, 28, 34, 39, 45, 50, 60, 70)},
    "heic": {"heic": (15, 20, 27, 31, 35, 45, 55), "hevc-x265": (47, 42, 37, 32, 27)},
    "jpegxl": {"jpegxl": (15, 20, 30, 47, 56, 70, 80)},
    "jpeg2000": {"jpeg2000": (235, 248, 264, 277, 287, 310, 340)},
    "tiny-elic": {"tiny-elic": (1, 2, 3, 4)},
}
NAMES = tuple(CODECS)
RANGES = {name: (min(own[name]), max(own[name])) for name, own in CODECS.items() if own}
FULL_CHROMA = {"jpeg": 0, "avif": "4:4:4"}
RESIZED = ("jpeg", "webp", "avif", "jpeg2000")
STRANGERS = ("tiny-mse", "tiny-msssim")
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Options:
    """Options of the recipe."""

    train_data_dir: tuple[str, ...] = option(
        ("embedded",), "Folders of clean images; 'embedded' are those of the package."
    )
    max_images: int | None = option(None, "Only so many images of each folder.", minimum=5)
    hidden: int = option(48, "Width of the hidden layer.", minimum=1)
    max_train_steps: int = option(2000, "Optimizer steps.", minimum=1)
    train_batch_size: int = option(256, "Samples per step.", minimum=1)
    learning_rate: float = option(3e-3, "Peak learning rate; it falls to zero.", minimum=0.0)
    weight_decay: float = option(3e-2, "Of AdamW.", minimum=0.0)
    accuracy: float = option(0.98, "Of what is said above the threshold, on images kept back.")
    seed: int = option(0, "Of crops, settings and weights.", minimum=0)
    cache_dir: Path | None = option(None, "Folder for decoded images.")
    output_dir: Path = option(Path("runs/detector"), "Folder for the results.")


@dataclass(frozen=True)
class Samples:
    """Features with what they should lead to; one row per image looked at."""

    features: Tensor
    codec: Tensor
    level: Tensor
    image: NDArray[np.int64]

    def of(self, rows: NDArray[np.bool_]) -> Samples:
        """Some of them."""
        chosen = torch.from_numpy(rows)
        return Samples(
            self.features[chosen], self.codec[chosen], self.level[chosen], self.image[rows]
        )


def look(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float32]:
    """Features of an image as users may have it: half are crops, so that no grid starts at 0."""
    height, width = pixels.shape[:2]
    if random.random() < 0.5:
        rows = int(random.integers(min(32, height), height + 1))
        columns = int(random.integers(min(32, width), width + 1))
        top, left = (
            int(random.integers(0, spare + 1)) for spare in (height - rows, width - columns)
        )
        pixels = pixels[top : top + rows, left : left + columns]
    if random.random() < 0.05:
        pixels = np.repeat(np.rint(pixels @ LUMA)[..., None], 3, axis=2).astype(np.uint8)
    return traces_of(pixels).features


def measure(path: Path, seed: int, cache: ArrayCache) -> dict[str, NDArray[Any]]:
    """Look at one image: reduced to a quarter and a detail at full size, clean and compressed."""
    random = np.random.default_rng(seed)
    gt = read_gt(path)
    reduced = bicubic_down4(gt)
    side = [min(144, length) for length in gt.shape[:2]]
    top, left = (
        int(random.integers(0, n - s + 1)) for n, s in zip(gt.shape[:2], side, strict=True)
    )
    detail = np.ascontiguousarray(gt[top : top + side[0], left : left + side[1]])
    found: list[tuple[NDArray[np.float32], int, float]] = []
    for image, count in ((reduced, 3), (detail, 2)):
        found += [(look(image, random), 0, np.nan) for _ in range(count)]
    for output, name in enumerate(NAMES):
        for codec, qualities in CODECS[name].items():
            for quality in random.permutation(qualities)[:3].tolist():
                pixels = compress_lr(reduced, Setting(codec, quality), cache)
                found.append((look(pixels, random), output, level_of(name, codec, quality)))
            quality = int(random.choice(qualities))
            if codec in {"hevc-x265", "tiny-elic"}:  # slow; HEIC stands for the first
                continue
            pixels = code_image(get_codec(codec), detail, quality, name="").pixels
            found.append((look(pixels, random), output, level_of(name, codec, quality)))
    for pixels, name in changed(reduced, random):
        found.append((look(pixels, random), NAMES.index(name), np.nan))
    features, outputs, levels = zip(*found, strict=True)
    return {"features": np.stack(features), "codec": np.array(outputs), "level": np.array(levels)}


def changed(
    image: NDArray[np.uint8], random: np.random.Generator
) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """Full chroma, sharpened, resized, and codecs that have no output; each with its output.

    What was resized has lost its grid, and no adapter was tuned for it: it counts as no known
    codec. What was only sharpened still counts as its codec.
    """
    for name in FULL_CHROMA:
        codec = get_codec(name)
        if name in NAMES and isinstance(codec, PillowCodec):
            options = {**dict(codec.options), "subsampling": FULL_CHROMA[name]}
            other = dataclasses.replace(codec, options=tuple(options.items()))
            yield other.roundtrip(image, int(random.choice(CODECS[name][name]))).pixels, name
    for name in ("jpeg", "webp"):
        quality = int(random.choice(CODECS[name][name]))
        yield sharpened(code_image(get_codec(name), image, quality, name="").pixels), name
    yield sharpened(image), "none"
    yield resized(image, random), "none"
    for name in random.permutation([name for name in RESIZED if name in NAMES])[:3].tolist():
        quality = int(random.choice(CODECS[name][name]))
        pixels = code_image(get_codec(name), image, quality, name="").pixels
        yield resized(pixels, random), "none"
    for name in STRANGERS:
        codec = get_codec(name)
        quality = int(random.choice(codec.spec.qualities))
        yield code_image(codec, image, quality, name="").pixels, "none"


def sharpened(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As an editor does it."""
    return np.array(Image.fromarray(image).filter(ImageFilter.UnsharpMask(1, 80, 0)))


def resized(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Between 0.6 and 1.6 times as large, but never nearly as large as before."""
    factor = float(random.choice([random.uniform(0.6, 0.95), random.uniform(1.05, 1.6)]))
    size = (round(factor * image.shape[1]), round(factor * image.shape[0]))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def level_of(name: str, codec: str, quality: int) -> float:
    """Quality as 0 (worst) to 1 of its output's range; NaN where it has another knob."""
    low, high = RANGES[name]
    return (quality - low) / (high - low) if codec == name else np.nan


def collect(cfg: Options) -> Samples:
    """Look at all images, or read what was seen before."""
    cache = ArrayCache(cfg.cache_dir or default_cache_dir())
    paths: list[Path] = []
    for name in cfg.train_data_dir:
        folder = image_folder("train") if name == "embedded" else Path(name)
        paths += list_images(folder)[: cfg.max_images]
    if len(paths) < 5:
        raise DataError(f"{len(paths)} images are too few: a fifth of them is kept back")
    kept = cfg.output_dir / "features"
    kept.mkdir(parents=True, exist_ok=True)
    parts = []
    what = repr((CODECS, feature_names()))
    for place, path in enumerate(tqdm(paths, unit="image")):
        seed = cfg.seed * 100_000 + place
        # By all that decides the features: images of one name are different ones elsewhere.
        key = hashlib.sha256(f"{file_digest(path)} {seed} {what}".encode()).hexdigest()
        file = kept / f"{key[:24]}.npz"
        if not file.is_file():
            np.savez(file.with_suffix(".part.npz"), **measure(path, seed, cache))  # type: ignore[arg-type]
            file.with_suffix(".part.npz").replace(file)
        with np.load(file) as stored:
            parts.append({key: stored[key] for key in ("features", "codec", "level")})
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Samples(
        torch.from_numpy(joined["features"]),
        torch.from_numpy(joined["codec"]),
        torch.from_numpy(joined["level"]).float(),
        np.repeat(np.arange(len(parts)), [len(part["codec"]) for part in parts]),
    )


class Network(nn.Module):
    """Features to scores and quality levels of each output."""

    def __init__(self, samples: Samples, hidden: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", samples.features.mean(0))
        self.register_buffer("scale", samples.features.std(0).clamp_min(1e-3))
        self.hidden = nn.Linear(samples.features.shape[1], hidden)
        self.codec = nn.Linear(hidden, len(NAMES))
        self.quality = nn.Linear(hidden, len(NAMES))

    def forward(self, features: Tensor, drop: float = 0.0) -> tuple[Tensor, Tensor]:
        """Both ``(N, outputs)``; ``drop`` is the share of features that are left out."""
        x = ((features - self.mean) / self.scale).clamp(-6, 6)
        hidden = torch.relu(self.hidden(nn.functional.dropout(x, drop, training=drop > 0)))
        hidden = nn.functional.dropout(hidden, 2 * drop, training=drop > 0)
        return self.codec(hidden), self.quality(hidden)


def train(cfg: Options, samples: Samples) -> Network:
    """Fit the network; every output counts alike, however many samples it has."""
    torch.manual_seed(cfg.seed)
    network = Network(samples, cfg.hidden)
    optimizer = torch.optim.AdamW(
        network.parameters(), cfg.learning_rate, weight_decay=cfg.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cfg.max_train_steps)
    counts = torch.bincount(samples.codec, minlength=len(NAMES)).clamp_min(1)
    for _ in range(cfg.max_train_steps):
        rows = torch.randint(len(samples.codec), (cfg.train_batch_size,))
        codec, level = samples.codec[rows], samples.level[rows]
        scores, levels = network(samples.features[rows], drop=0.1)
        loss = nn.functional.cross_entropy(scores, codec, 1 / counts)
        known = ~level.isnan()
        own = levels.gather(1, codec[:, None])[:, 0]
        loss = loss + nn.functional.smooth_l1_loss(own[known], level[known], beta=0.1)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def calibrate(network: Network, samples: Samples, accuracy: float) -> tuple[float, float]:
    """Temperature of least cross-entropy, and the threshold that gives an accuracy."""
    scores, _ = network(samples.features)
    temperatures = torch.logspace(-0.7, 0.7, 57)
    losses = [nn.functional.cross_entropy(scores / t, samples.codec) for t in temperatures]
    temperature = float(temperatures[int(torch.stack(losses).argmin())])
    sure, best = (scores / temperature).softmax(1).max(1)
    right = best == samples.codec
    for threshold in np.arange(0.6, 0.99, 0.01):
        said = sure >= threshold
        if said.any() and float(right[said].float().mean()) >= accuracy:
            return temperature, round(float(threshold), 2)
    return temperature, 0.99


def save(path: Path, network: Network, temperature: float, threshold: float, notes: Any) -> None:  # noqa: ANN401 - JSON
    """Write weights in half precision; the temperature goes into them."""
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    weights["codec.weight"] /= temperature
    weights["codec.bias"] /= temperature
    # The spread of a feature can be too large or too small for half precision.
    exact = {"mean", "scale"}
    arrays = {
        name: value.numpy().astype(np.float32 if name in exact else np.float16)
        for name, value in weights.items()
    }
    metadata = {
        "format_version": FORMAT_VERSION,
        "codecs": NAMES,
        "ranges": RANGES,
        "threshold": threshold,
        "training": notes,
    }
    save_file(arrays, path, {"ucip_adapt": json.dumps(metadata)})


def score(path: Path, samples: Samples) -> dict[str, Any]:
    """How often the written file is right."""
    detector = load_detector(path)
    scores, levels = detector.run(samples.features.numpy())
    odds = np.exp(scores - scores.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    truth, best, sure = samples.codec.numpy(), odds.argmax(1), odds.max(1)
    said = sure >= detector.threshold
    confusion = np.zeros((len(NAMES), len(NAMES)), int)
    np.add.at(confusion, (truth, best), 1)
    own = np.abs(levels[np.arange(len(truth)), truth] - samples.level.numpy())
    return {
        "samples": len(truth),
        "accuracy": round(float((truth == best).mean()), 4),
        "said": round(float(said.mean()), 4),
        "accuracy_of_said": round(float((truth == best)[said].mean()), 4),
        "confusion": confusion.tolist(),
        "quality_error": round(float(np.nanmean(own)), 4),
    }


def main(cfg: Options) -> dict[str, Any]:
    """Look, train, calibrate on images kept back, write; returns what results.json holds."""
    clock = Clock()
    for codec in {codec for own in CODECS.values() for codec in own}:
        require_codec(codec)
    samples = collect(cfg)
    clock.lap("features")
    back = samples.image % 5 == 4
    network = train(cfg, samples.of(~back))
    temperature, threshold = calibrate(network, samples.of(back), cfg.accuracy)
    clock.lap("training")
    path = cfg.output_dir / "detector.safetensors"
    notes = {
        "images": int(samples.image.max()) + 1,
        "train_data_dir": [Path(name).name for name in cfg.train_data_dir],
        "samples": len(samples.image),
    }
    save(path, network, temperature, threshold, notes)
    parts = {"training": samples.of(~back), "kept back": samples.of(back)}
    scores = {name: score(path, part) for name, part in parts.items()}
    record = run_record(
        "detector",
        cfg,
        seconds=clock.seconds,
        parameters={
            "total": sum(p.numel() for p in network.parameters()),
            "bytes": path.stat().st_size,
            "temperature": round(temperature, 4),
            "threshold": threshold,
        },
        scores={"outputs": NAMES, **scores},
    )
    write_results(cfg.output_dir / "results.json", record)
    for name, found in scores.items():
        print(
            f"{name}: {found['accuracy']:.1%} right; {found['said']:.1%} said, of which "
            f"{found['accuracy_of_said']:.1%} right"
        )
    return record


if __name__ == "__main__":
    raise SystemExit(run_recipe(main, Options, description=__doc__ or ""))
