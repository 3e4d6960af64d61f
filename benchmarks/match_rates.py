"""Settings of other codecs that spend the bits of WebP.

    UCIP_DATA=... python benchmarks/match_rates.py --out results/matched_rates.json

The rate of a setting is the mean bpp over the low-resolution images of BSD100, whole files counted.
For each WebP quality of the suite, each codec's whole-numbered setting with the nearest mean rate
is found by bisection; the specs of the codecs hold what this found.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np

from ucip_adapt.codecs import Codec
from ucip_adapt.codecs.base import code_image
from ucip_adapt.data import load_eval_set
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.data.degrade import require_codec
from ucip_adapt.training.results import command_line, environment

CODECS = ("avif", "jpeg2000", "jpegxl", "heic")
TARGET = "webp"


def psnr_db(preds: np.ndarray, target: np.ndarray) -> float:
    """PSNR of two uint8 images over all channels, in dB."""
    error = np.mean((preds.astype(np.float64) - target) ** 2)
    return float(10 * np.log10(255**2 / error))


def measurer(codec: Codec, images: list[np.ndarray]) -> Callable[[int], tuple[float, float]]:
    """Mean bpp and PSNR of a setting; each setting is measured once."""

    @functools.cache
    def measure(quality: int) -> tuple[float, float]:
        coded = [code_image(codec, image, quality, name="") for image in images]
        psnr = fmean(psnr_db(one.pixels, image) for one, image in zip(coded, images, strict=True))
        return fmean(one.bpp for one in coded), psnr

    return measure


def nearest(
    measure: Callable[[int], tuple[float, float]], bounds: tuple[int, int], bpp: float
) -> int:
    """Setting whose rate is nearest; the rate rises with the setting."""
    low, high = bounds
    while high - low > 1:
        middle = (low + high) // 2
        if measure(middle)[0] < bpp:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda quality: abs(measure(quality)[0] - bpp))


def row(
    measure: Callable[[int], tuple[float, float]], quality: int, bpp: float
) -> dict[str, float]:
    """What the file says of one setting."""
    rate, psnr = measure(quality)
    return {
        "setting": quality,
        "bpp": round(rate, 4),
        "off_percent": round(100 * (rate / bpp - 1), 2),
        "psnr_rgb_db": round(psnr, 3),
    }


def main() -> None:
    """Search and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codecs", nargs="+", default=list(CODECS))
    parser.add_argument("--set", default="BSD100", help="set whose stored LRbicx4 is coded")
    parser.add_argument("--limit", type=int, default=None, help="only the first images")
    parser.add_argument("--out", type=Path, default=Path("results/matched_rates.json"))
    options = parser.parse_args()
    loaded = load_eval_set(options.set, data_root(), limit=options.limit)
    images = [image.lr for image in loaded.images]
    webp = require_codec(TARGET)
    measure_webp = measurer(webp, images)
    targets = {quality: measure_webp(quality)[0] for quality in webp.spec.qualities}
    scores = {TARGET: {str(q): row(measure_webp, q, bpp) for q, bpp in targets.items()}}
    fingerprints = {TARGET: webp.fingerprint()}
    for name in options.codecs:
        codec = require_codec(name)
        measure = measurer(codec, images)
        scores[name] = {
            str(quality): row(measure, nearest(measure, codec.spec.quality_range, bpp), bpp)
            for quality, bpp in targets.items()
        }
        fingerprints[name] = codec.fingerprint()
        print(name, *(f"{entry['setting']}: {entry['bpp']}" for entry in scores[name].values()))
    record = {
        "format_version": "1.0",
        "kind": "matched_rates",
        "command": command_line(),
        "config": {"set": options.set, "lr": loaded.lr_source, "images": len(images)},
        "environment": environment(),
        "scores": {"settings": scores, "fingerprints": fingerprints},
    }
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
