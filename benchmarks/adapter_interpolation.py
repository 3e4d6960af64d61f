"""What lies between two adapters: tuned at one quality each, measured at all qualities.

    python benchmarks/adapter_interpolation.py --out results/adapter_interpolation.json

Tunes one adapter per end quality by recipes/tune_prompts.py, under equal seed, images, steps and
rate, and measures the interpolated parameters, ``(1 - t) * first + t * second``, on validation
images at every quality. Adapters and scores that are in --work already are used again: take another
folder for other options.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import parser, write

from ucip_adapt import ArrayCache, evaluate_sets, interpolate, load, load_eval_set, parse_settings
from ucip_adapt.assets import ALIASES
from ucip_adapt.evaluation import Upscale, bicubic, network_upscaler
from ucip_adapt.models import UCIP
from ucip_adapt.upscaler import Upscaler

RECIPE = Path(__file__).parent.parent / "recipes" / "tune_prompts.py"


def tune(options: argparse.Namespace, quality: int, folder: Path) -> None:
    """Tune one adapter at one quality."""
    subprocess.run(  # noqa: S603 - our own recipe
        [
            sys.executable,
            str(RECIPE),
            *("--codec", options.codec, "--qualities", str(quality)),
            *("--pretrained_model_name_or_path", options.base),
            *("--train_data_dir", *options.train_data_dir),
            *("--trainable", options.trainable),
            *("--max_train_steps", str(options.steps)),
            *("--train_batch_size", str(options.batch_size)),
            *("--patch_size", str(options.patch_size)),
            *("--seed", str(options.seed)),
            *("--evaluate_on", options.evaluate_on, "--max_eval_images", "1"),
            *("--output_dir", str(folder)),
        ],
        check=True,
    )


def restorer(model: Upscaler) -> Upscale:
    """The network of a model, as its base applies it, for 8-bit images."""
    network = model.network
    base = network if isinstance(network, UCIP) else network.get_base_model()
    return network_upscaler(base.upscale, torch.device("cpu"))


def measured(
    options: argparse.Namespace, name: str, make: Callable[[], Upscale]
) -> list[dict[str, Any]]:
    """A method's scores; those that are in --work already are read from there."""
    file = options.work / f"{name}.json"
    if not file.is_file():
        rows = evaluate_sets(
            {name: make()},
            [load_eval_set(options.evaluate_on, limit=options.max_eval_images)],
            parse_settings(options.codec, tuple(options.qualities)),
            ["y-c4"],
            cache=ArrayCache(options.work / "cache"),
        )
        file.write_text(json.dumps([row.to_dict() for row in rows]), encoding="utf-8")
        sys.stdout.write(f"measured {name}\n")
        sys.stdout.flush()
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Tune, measure, write."""
    options_of = parser(__doc__, "adapter_interpolation.json")
    options_of.set_defaults(out=Path("results/adapter_interpolation.json"))
    options_of.add_argument("--base", default="ucip-tiny")
    options_of.add_argument("--codec", default="webp")
    options_of.add_argument("--ends", nargs=2, type=int, default=[10, 40])
    options_of.add_argument("--qualities", nargs="+", type=int, default=[10, 20, 30, 40])
    options_of.add_argument("--ts", nargs="+", type=float, default=[0.0, 0.25, 0.5, 0.75, 1.0])
    options_of.add_argument("--trainable", default="dpm+offset")
    options_of.add_argument("--train_data_dir", nargs="+", default=["embedded"])
    options_of.add_argument("--steps", type=int, default=300)
    options_of.add_argument("--batch_size", type=int, default=2)
    options_of.add_argument("--patch_size", type=int, default=48)
    options_of.add_argument("--seed", type=int, default=0)
    options_of.add_argument("--evaluate_on", default="GB82-val")
    options_of.add_argument("--max_eval_images", type=int)
    options_of.add_argument("--work", type=Path, default=Path("runs/adapter_interpolation"))
    options = options_of.parse_args()
    torch.set_num_threads(options.threads)
    first, second = folders = tuple(options.work / f"{options.codec}-{q}" for q in options.ends)
    for quality, folder in zip(options.ends, folders, strict=True):
        if not (folder / "adapter_model.safetensors").is_file():
            tune(options, quality, folder)
    base = load(base=options.base)
    methods = {"bicubic": lambda: bicubic, "base": lambda: restorer(base)}
    methods |= {
        f"t={t:g}": partial(lambda t: restorer(interpolate(first, second, t)), t)
        for t in options.ts
    }
    rows = [row for name, make in methods.items() for row in measured(options, name, make)]
    options.work = options.work.name
    network = base.network
    scores = {
        "base": ALIASES.get(options.base, options.base),
        "base_fingerprint": network.fingerprint,
        "rows": rows,
    }
    write(options, scores)


if __name__ == "__main__":
    main()
