"""What training data cost: batches of crops from the cache, and degrading images the first time.

    python benchmarks/data_loading.py --out results/benchmarks/data_loading.json

Batches are timed by the clock, the loader alone: with worker processes most of this passes while
the network computes. The training step beside them is a full one of the tiny network on the same
batch.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import parser, write
from torch.utils.data import DataLoader

from ucip_adapt.assets import image_folder
from ucip_adapt.data import (
    ArrayCache,
    PairedCrops,
    degrade_images,
    list_images,
    parse_settings,
)
from ucip_adapt.data.degrade import DegradedImage
from ucip_adapt.data.paired import CropSample
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.training.sampler import StepBatchSampler
from ucip_adapt.training.signals import isolate_worker

CODECS = ("jpeg", "webp")
BATCHES = ((8, 32), (2, 64))
"""Crops of a batch and their side in LQ pixels, as the recipes draw them."""
WORKERS = (0, 1, 2)


def degrading(codec: str, cache: ArrayCache, images: int) -> tuple[dict[str, Any], Any]:
    """Seconds per image at all qualities of a codec: decoding, reducing, coding; then cached."""
    paths = list_images(image_folder("train"))[:images]
    settings = parse_settings(codec)
    seconds = []
    degraded: list[DegradedImage] = []
    for _ in range(2):
        start = time.perf_counter()
        degraded = degrade_images(paths, settings, cache, workers=1)
        seconds.append((time.perf_counter() - start) / len(paths))
    first, again = seconds
    return {
        "images": len(paths),
        "megapixels": round(sum(i.gt.shape[0] * i.gt.shape[1] for i in degraded) / 1e6, 2),
        "qualities": len(settings),
        "first_seconds": round(first, 4),
        "cached_seconds": round(again, 5),
    }, degraded


def batches(crops: PairedCrops, count: int, workers: int) -> Iterator[CropSample]:
    """A loader as the recipes make it."""
    sampler = StepBatchSampler(count, num_processes=1, process_index=0, stop_step=10**6)
    return iter(
        DataLoader(
            crops,
            batch_sampler=sampler,
            num_workers=workers,
            worker_init_fn=isolate_worker,
            generator=torch.Generator(),
        )
    )


def seconds_per_batch(crops: PairedCrops, count: int, workers: int, rounds: int) -> dict[str, Any]:
    """Median and spread over rounds of 20 batches; the first one apart, as it starts workers."""
    start = time.perf_counter()
    loader = batches(crops, count, workers)
    next(loader)
    first = time.perf_counter() - start
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        drawn = sum(1 for _ in islice(loader, 20))
        seconds.append((time.perf_counter() - start) / drawn)
    return {
        "first_seconds": round(first, 4),
        "seconds": round(median(seconds), 5),
        "spread": [round(min(seconds), 5), round(max(seconds), 5)],
    }


def step_seconds(crops: PairedCrops, count: int, rounds: int) -> float:
    """CPU seconds of a full training step of the tiny network on one batch.

    Not by the clock: on a busy machine that would make the share of loading look smaller.
    """
    torch.manual_seed(0)
    model = UCIP(UCIPConfig.preset("tiny"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    batch = next(batches(crops, count, 0))
    seconds = []
    for _ in range(rounds + 1):
        start = time.process_time()
        optimizer.zero_grad()
        (model(batch["lq"]) - batch["gt"]).abs().mean().backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
    return round(median(seconds[1:]), 4)


def main() -> None:
    """Measure and write."""
    options_of = parser(__doc__, "data_loading.json")
    options_of.add_argument("--images", type=int, default=12, help="embedded images to degrade")
    options = options_of.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        images: list[DegradedImage] = []
        for codec in CODECS:
            # A cache for each, so that both pay for decoding the truth.
            cache = ArrayCache(Path(folder, codec))
            found[codec], images = degrading(codec, cache, options.images)
            sys.stdout.write(f"{codec} {found[codec]}\n")
        for count, side in BATCHES:
            crops = PairedCrops(images, patch_size=side, seed=0)
            step = step_seconds(crops, count, options.rounds)
            for workers in WORKERS:
                row = seconds_per_batch(crops, count, workers, options.rounds)
                row |= {"crops": count, "side": side, "workers": workers, "step_seconds": step}
                row["share"] = round(row["seconds"] / step, 4)
                rows.append(row)
                sys.stdout.write(f"{row}\n")
    write(options, {"degrading": found, "batches": rows})


if __name__ == "__main__":
    main()
