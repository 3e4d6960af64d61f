"""How often codec and quality are found, by container and by pixels, and what a mistake costs.

    python benchmarks/detection.py --data DATA      # writes results/detection.json
    python docs/make_detection.py                   # fills the tables of docs/detection.md

The low-resolution images of Set5, Set14, every seventh of BSD100 and the validation images of GB82
are coded by six codecs that have a container, at three qualities each: 41 pictures that no training
list holds. What is lost is the PSNR (y-c4) between the adapter of the true codec and the one that
was chosen, a base without an adapter counting as one; it depends on the adapters that are shipped.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from tqdm import tqdm

from ucip_adapt.assets import shipped_adapters
from ucip_adapt.automatic import AutoUpscaler
from ucip_adapt.codecs import CODECS
from ucip_adapt.data import EvalImage, load_eval_set
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.data.degrade import require_codec
from ucip_adapt.detection import Detection, choose_adapter, detect_codec
from ucip_adapt.detection.pixels import shipped_detector
from ucip_adapt.metrics import get_protocol, score
from ucip_adapt.training.results import command_line, environment, write_results

SETS = {"Set5": 1, "Set14": 1, "BSD100": 7, "GB82-val": 1}
"""Every how many images are taken."""

IN_FILES = ("jpeg", "webp", "avif", "jpegxl", "heic", "jpeg2000", "gif")
STREAMS = ("hevc-x265", "tiny-elic", "tiny-mse", "tiny-perceptual")
"""Only their pixels are looked at: no picture file holds them. The detector knows the first as
``heic``, which is the same encoder, and the second; the others stand for all it does not know."""

UNKNOWN_TO_IT = {"tiny-mse", "tiny-perceptual", "gif"}
"""No outputs of the detector: "no codec" is what it should say of their pixels."""

SAME = {"hevc-x265": "heic"}
OFF_GRID = (3, 5)  # rows and columns cut off


def saved(rgb: NDArray[np.uint8], kind: str, **options: Any) -> NDArray[np.uint8]:  # noqa: ANN401 - Pillow's
    """What Pillow makes of an image with other options than the package's."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, **options)
    with Image.open(buffer) as image:
        return np.array(image.convert("RGB"))


def smaller(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Nine tenths of the size."""
    height, width = rgb.shape[:2]
    size = (round(0.9 * width), round(0.9 * height))
    return np.array(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC))


def sharper(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As an editor sharpens."""
    return np.array(Image.fromarray(rgb).filter(ImageFilter.UnsharpMask(1, 80, 0)))


# What users may have: other options of the same encoders, and pictures that were changed after they
# were decoded. With the codec that came last; of every second picture.
UNLIKE: dict[str, tuple[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    "jpeg 20, full chroma": ("jpeg", lambda x: saved(x, "JPEG", quality=20, subsampling=0)),
    "webp 20, fastest": ("webp", lambda x: saved(x, "WEBP", quality=20, method=0)),
    "webp 20, sharp chroma": ("webp", lambda x: saved(x, "WEBP", quality=20, use_sharp_yuv=True)),
    "avif 39, full chroma": ("avif", lambda x: saved(x, "AVIF", quality=39, subsampling="4:4:4")),
    "avif 39, fastest": ("avif", lambda x: saved(x, "AVIF", quality=39, speed=10)),
    "jpeg2000 at 1 to 25": (
        "jpeg2000",
        lambda x: saved(x, "JPEG2000", quality_layers=[25], irreversible=True, mct=1),
    ),
    "jpeg 20, then webp 20": ("webp", lambda x: coded(coded(x, "jpeg", 20), "webp", 20)),
    "webp 20, then jpeg 90": ("jpeg", lambda x: coded(coded(x, "webp", 20), "jpeg", 90)),
    "jpeg 20, sharpened": ("jpeg", lambda x: sharper(coded(x, "jpeg", 20))),
    "webp 20, sharpened": ("webp", lambda x: sharper(coded(x, "webp", 20))),
    "jpeg 20, at nine tenths": ("jpeg", lambda x: smaller(coded(x, "jpeg", 20))),
    "webp 20, at nine tenths": ("webp", lambda x: smaller(coded(x, "webp", 20))),
    "clean, at nine tenths": ("none", smaller),
    "clean, sharpened": ("none", sharper),
}


def coded(rgb: NDArray[np.uint8], name: str, quality: int) -> NDArray[np.uint8]:
    """A codec of the package at a quality."""
    return CODECS[name].roundtrip(rgb, quality).pixels


@dataclass(frozen=True)
class Case:
    """One compressed picture."""

    image: EvalImage
    codec: str
    quality: int | None
    pixels: NDArray[np.uint8]
    stream: bytes | None


def chosen_qualities(name: str) -> tuple[int, ...]:
    """The worst quality of the suite, the next one and the best; of streams not known, one."""
    qualities = CODECS[name].spec.qualities
    if name not in IN_FILES and name in {*SAME, *UNKNOWN_TO_IT}:
        return qualities[1:2]
    return (*qualities[:2], qualities[-1])


def cases(images: list[EvalImage]) -> Iterator[Case]:
    """Every picture, clean and by every codec at its qualities."""
    for image in tqdm(images, unit="picture"):
        yield Case(image, "none", None, image.lr, None)
        for name in (*IN_FILES, *STREAMS):
            for quality in chosen_qualities(name):
                coded = CODECS[name].roundtrip(image.lr, quality)
                yield Case(image, name, quality, coded.pixels, coded.stream)


def pictures(root: Path | None, limit: int | None) -> tuple[list[EvalImage], dict[str, int]]:
    """The held-out pictures, and how many of each set."""
    found = {
        name: list(load_eval_set(name, root).images[::step][:limit]) for name, step in SETS.items()
    }
    return [image for own in found.values() for image in own], {n: len(i) for n, i in found.items()}


def by_container(case: Case) -> dict[str, Any]:
    """What the file says."""
    said = detect_codec(case.stream or b"")
    return {"codec": said.codec, "quality": said.quality}


def by_pixels(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """What the pixels show, and what they look like most where nothing is said."""
    detector = shipped_detector()
    began = time.process_time()
    odds, qualities = detector(pixels)
    spent = time.process_time() - began
    said = detector.decide(odds, qualities)
    best = detector.codecs[int(odds.argmax())]
    nothing = "none" if said.confidence >= detector.threshold else None
    return {
        "said": said.codec or nothing,
        "best": best,
        "quality": qualities.get(best),
        "cpu_seconds": spent,
    }


def adapter_for(codec: str | None, base: str | None) -> str | None:
    """Which adapter a codec that is known for sure leads to; "none" leads to none."""
    known = None if codec == "none" else codec
    return choose_adapter("auto", Detection(known, None, ""), base=base).adapter


class Losses:
    """PSNR by picture and adapter, each measured once and only where it is asked for."""

    def __init__(self, base: str | None) -> None:
        self.model = AutoUpscaler(base=base)
        self.protocol = get_protocol("y-c4")

    def psnr(self, case: Case, adapter: str | None) -> float:
        """Of the picture enlarged with an adapter, in dB."""
        sr = self.model.using(adapter).upscale(case.pixels)
        return score(sr, case.image.gt, self.protocol).psnr_db

    def of(self, case: Case, chosen: str | None, right: str | None) -> float:
        """What a choice loses against another, in dB."""
        return 0.0 if chosen == right else self.psnr(case, right) - self.psnr(case, chosen)


def summarise_pixels(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of one codec at one quality."""
    said = [row for row in rows if row["said"] is not None]
    right = [row for row in said if row["said"] == row["truth"]]
    gaps = [abs(r["quality"] - r["asked"]) for r in right if r["asked"] and r["quality"]]
    outcomes = [row["said"] or "unknown" for row in rows]
    return {
        "truth": rows[0]["truth"],
        "pictures": len(rows),
        "right": len(right),
        "wrong": len(said) - len(right),
        "unknown": len(rows) - len(said),
        "most_like_right": sum(row["best"] == row["truth"] for row in rows),
        "quality_error": round(fmean(gaps), 2) if gaps else None,
        "said": {name: outcomes.count(name) for name in sorted(set(outcomes))},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with the benchmark sets")
    parser.add_argument("--base", help="base network; default: that of each adapter")
    parser.add_argument(
        "--with_base", action="store_true", help="also what is lost by never taking an adapter"
    )
    parser.add_argument("--limit", type=int, help="only so many pictures of each set")
    parser.add_argument("--out", type=Path, default=Path("results/detection.json"))
    options = parser.parse_args()
    for name in (*IN_FILES, *STREAMS):
        require_codec(name)
    images, counts = pictures(data_root(options.data), options.limit)
    losses = Losses(options.base)
    container: dict[str, list[dict[str, Any]]] = {}
    pixels: dict[str, list[dict[str, Any]]] = {}
    lost: list[dict[str, Any]] = []
    for case in cases(images):
        key = case.codec if case.quality is None else f"{case.codec} {case.quality}"
        truth = "none" if case.codec in UNKNOWN_TO_IT else SAME.get(case.codec, case.codec)
        about = {"truth": truth, "asked": None if case.codec in SAME else case.quality}
        seen = by_pixels(case.pixels)
        pixels.setdefault(key, []).append({**about, **seen})
        middle = None if case.quality is None else CODECS[case.codec].spec.qualities[1]
        if case.quality == middle:
            cut = case.pixels[OFF_GRID[0] :, OFF_GRID[1] :]
            pixels.setdefault(f"{key} cropped", []).append({**about, **by_pixels(cut)})
        if case.codec not in {"none", *IN_FILES, *shipped_adapters()}:
            continue
        right = adapter_for(case.codec, options.base)
        row: dict[str, Any] = {"codec": case.codec, "quality": case.quality}
        if case.codec in IN_FILES:
            found = by_container(case)
            container.setdefault(key, []).append(found)
            row["container"] = losses.of(case, adapter_for(found["codec"], options.base), right)
        row["pixels"] = losses.of(case, adapter_for(seen["said"], options.base), right)
        if options.with_base:
            row["base"] = losses.of(case, None, right)
        lost.append(row)
    unlike: dict[str, list[dict[str, Any]]] = {}
    for image in images[::2]:
        for name, (truth, make) in UNLIKE.items():
            row = {"truth": truth, "asked": None, **by_pixels(make(image.lr))}
            unlike.setdefault(name, []).append(row)
    times = [row["cpu_seconds"] for rows in pixels.values() for row in rows]
    write_results(
        options.out,
        {
            "kind": "detection",
            "command": command_line(),
            "config": {
                "sets": counts,
                "pictures": len(images),
                "in_files": IN_FILES,
                "cropped_by": OFF_GRID,
                "adapters": shipped_adapters(),
                "base": losses.model.base,
                "threshold": shipped_detector().threshold,
            },
            "environment": environment(),
            "scores": {
                "container": {key: container_row(key, rows) for key, rows in container.items()},
                "pixels": {key: summarise_pixels(rows) for key, rows in pixels.items()},
                "unlike": {name: summarise_pixels(rows) for name, rows in unlike.items()},
                "loss_db": loss_rows(lost),
                "cpu_seconds": {"median": round(median(times), 4), "most": round(max(times), 4)},
            },
        },
    )


def container_row(key: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of the files of one codec at one quality."""
    codec, quality = key.split()
    gaps = [abs(row["quality"] - int(quality)) for row in rows if row["quality"] is not None]
    return {
        "pictures": len(rows),
        "right": sum(row["codec"] == codec for row in rows),
        "with_quality": len(gaps),
        "quality_error": round(fmean(gaps), 2) if gaps else None,
        "quality_worst": max(gaps, default=None),
    }


def loss_rows(lost: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By codec, and of all that have a container: mean and worst loss of each way to choose."""
    names = [*dict.fromkeys(row["codec"] for row in lost)]
    groups = {name: [row for row in lost if row["codec"] == name] for name in names}
    groups["all in files"] = [row for row in lost if row["codec"] in IN_FILES]
    found = []
    for name, rows in groups.items():
        entry: dict[str, Any] = {"codec": name, "count": len(rows)}
        for way in ("container", "pixels", "base"):
            values = [row[way] for row in rows if way in row]
            entry[way] = (
                {
                    "mean": round(fmean(values), 4),
                    "worst": round(max(values), 4),
                    "differ": sum(value != 0 for value in values),
                }
                if values
                else None
            )
        found.append(entry)
    return found


if __name__ == "__main__":
    main()
