"""Memory and time of large images: whole, exact strips, tiles; windows together and one by one.

    python benchmarks/large_images.py --out results/benchmarks/large_images.json

Every point is a process of its own, so that its peak is its own: the resident memory that enlarging
adds to a process which has loaded the network (Linux). Points take turns over the rounds and the
fastest counts. ``--only 12mp`` measures some points and keeps the others in the file.
Rows of the result are dropped as they come, as if written to a file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ucip_adapt.models import UCIP, LargePlan, UCIPConfig, plan_large, upscale_rows, upscale_windows
from ucip_adapt.training.results import command_line, environment

TILE = 192

LIMIT = "500MB"
"""What exact points and tiles may add; whole images may take what they need."""

SIZES = {"0.06": (200, 300), "0.25": (408, 612), "1": (816, 1224), "12": (3000, 4000)}
"""Megapixels of the LQ image -> height and width."""

POINTS: list[dict[str, Any]] = [
    *(
        {"group": "tiny", "network": "ucip-tiny-v1", "megapixels": size, "mode": mode}
        for size in ("0.06", "0.25", "1")
        for mode in ("whole", "exact", "tiles")
    ),
    {"group": "12mp", "network": "ucip-tiny-v1", "megapixels": "12", "mode": "exact"},
    *(
        {"group": "full", "network": "full", "megapixels": "0.06", "mode": mode}
        for mode in ("whole", "exact")
    ),
    *(
        {"group": "windows", "network": "ucip-tiny-v1", "megapixels": "0.06", "mode": f"batch {n}"}
        for n in ("1", "auto")
    ),
]


def build(name: str) -> UCIP:
    """A shipped base, or a preset with random weights: speed does not depend on them."""
    if name.startswith("ucip-"):
        return UCIP.from_pretrained(name)
    torch.manual_seed(0)
    return UCIP(UCIPConfig.preset(name)).eval()


def status(key: str) -> int:
    """A value of this process in bytes, from the kernel."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def measure(point: dict[str, Any], threads: int) -> dict[str, Any]:
    """Enlarge one image of noise; the network has seen a small one before."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # that tiles are approximate is known here
    model = build(point["network"])
    height, width = SIZES[point["megapixels"]]
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mode = point["mode"]
    plan: LargePlan | None = None
    limit = "999GB" if mode == "whole" else LIMIT
    tile = TILE if mode == "tiles" else None
    if not mode.startswith("batch"):
        list(upscale_rows(model, image[:64, :64], mode=mode))
        plan = plan_large(model.config, height, width, max_memory=limit, mode=mode, tile=tile)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start, cpu = time.perf_counter(), time.process_time()
    if plan is None:
        size = None if mode == "batch auto" else int(mode.split()[1])
        lq = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            upscale_windows(model, lq, window=48, batch_size=size)
    else:
        for _ in upscale_rows(model, image, mode=mode, max_memory=limit, tile=tile):
            pass
    return {
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - start,
        "added_mb": (status("VmHWM") - before) / 1e6,
        "planned_mb": None if plan is None else plan.peak_bytes / 1e6,
        "file_mb": None if plan is None else plan.file_bytes / 1e6,
        "strip": None if plan is None else [plan.rows, plan.columns, plan.tail_rows],
        "tile": None if plan is None else plan.tile,
    }


def in_process(point: dict[str, Any], threads: int) -> dict[str, Any]:
    """Measure a point in a process of its own."""
    words = [sys.executable, __file__, "--point", json.dumps(point), "--threads", str(threads)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603 - own words
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(point: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest round of a point, and the highest memory of all."""
    best = min(found, key=lambda item: item["cpu_seconds"])
    height, width = SIZES[point["megapixels"]]
    numbers = {
        key: None if value is None or isinstance(value, list) else round(value, 2)
        for key, value in best.items()
    }
    return {
        **point,
        "commit": environment()["commit"],
        "height": height,
        "width": width,
        **numbers,
        "strip": best["strip"],
        "added_mb": round(max(item["added_mb"] for item in found), 1),
        "microseconds_per_pixel": round(1e6 * best["cpu_seconds"] / (height * width), 2),
        "rounds": len(found),
    }


def key(point: dict[str, Any]) -> str:
    """What ``--only`` is looked for in, such as ``tiny 0.25 exact``."""
    return f"{point['group']} {point['megapixels']} {point['mode']}"


def write(path: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write rows in the order of the points, and keep those of other points."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    new = {key(r): r for r in [*old.get("scores", []), *rows]}
    record = {
        "format_version": "1.0",
        "kind": "benchmark",
        "command": command_line(),
        "config": {"threads": options.threads, "max_memory": LIMIT},
        "environment": environment(),
        "scores": [new[key(point)] for point in POINTS if key(point) in new],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="words of points, such as 'tiny 0.25'")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/large_images.json"))
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(json.loads(options.point), options.threads)))
        return
    chosen = [point for point in POINTS if options.only in key(point)]
    found: dict[str, list[dict[str, Any]]] = {key(point): [] for point in chosen}
    for turn in range(options.rounds):
        for point in chosen:
            if turn and point["group"] == "12mp":  # minutes long: once
                continue
            values = found[key(point)]
            values.append(in_process(point, options.threads))
            print(row(point, values), flush=True)
            # After every point: the largest take minutes, and what was measured stays.
            write(options.out, [row(point, values)], options)


if __name__ == "__main__":
    main()
