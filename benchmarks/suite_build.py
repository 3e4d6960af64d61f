"""What a build of a suite costs beyond its encoders, how it scales, and how far a plan reaches.

    python benchmarks/suite_build.py --hr FOLDER --out results/suite_build.json

Four parts: where the CPU time of a JPEG and WebP build goes; how quick and small PNG settings are
on its pictures; wall time with one worker and with two, of local processes and of a Dask cluster,
and of a cluster that loses one of its two workers in the middle; and time and memory of a dry run
on a million files times 23 settings.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ucip_adapt.data import bicubic_down4
from ucip_adapt.data.degrade import read_gt
from ucip_adapt.data.images import image_names
from ucip_adapt.suites import fill_suite, load_suite, worker
from ucip_adapt.suites.build import build_suite
from ucip_adapt.suites.engines import Engine, open_engine
from ucip_adapt.suites.plan import BuildPlan
from ucip_adapt.training.results import command_line, environment, read_results, write_results

QUICK = """
[[slots]]
codec = "jpeg"
qualities = [10, 20, 30, 40]

[[slots]]
codec = "webp"
qualities = [10, 20, 30, 40]
"""
SLOW = """
[[slots]]
codec = "hevc-x265"
qualities = [47, 42, 37, 32]
"""
# Every codec is a wheel's: a dry run asks for fingerprints only.
WIDE = """
[[slots]]
codec = "jpeg"
qualities = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]

[[slots]]
codec = "webp"
qualities = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
"""
PARTS_OF_THE_RESULT = ("dry_run", "profile", "png", "scaling")
"""Each may be measured on its own; the others stay in the file."""

PARTS = {
    "resize": "bicubic_down4",
    "codecs": "code_image",
    "read": "read_gt",
    "png": "png_bytes",
    "hash": "sha256_of",
}
"""Parts of the work by the function of `ucip_adapt.suites.worker` that does them."""


def plan_for(text: str, hr: Path, folder: Path, images: int) -> BuildPlan:
    """A plan for the first images of a folder."""
    file = folder / "suite.toml"
    file.write_text(text, encoding="utf-8")
    return BuildPlan.make(fill_suite(load_suite(file)), image_names(hr)[:images])


@contextmanager
def cpu_seconds_of_parts() -> Iterator[dict[str, float]]:
    """Book the CPU time of this process on the parts while the block runs."""
    spent = dict.fromkeys(PARTS, 0.0)
    originals = {name: getattr(worker, name) for name in PARTS.values()}

    def watched(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever it takes
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                spent[part] += time.process_time() - start

        return call

    for part, name in PARTS.items():
        setattr(worker, name, watched(part, originals[name]))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(worker, name, function)


def profile(hr: Path, images: int) -> dict[str, Any]:
    """CPU time of a quick build in one process, by part; libraries are loaded beforehand."""
    with tempfile.TemporaryDirectory() as name, open_engine(workers=0) as engine:
        folder = Path(name)
        warm = plan_for(QUICK, hr, folder, 1)
        build_suite(warm, hr, folder / "warm", engine)
        plan = plan_for(QUICK, hr, folder, images)
        with cpu_seconds_of_parts() as spent:
            start = time.process_time()
            build_suite(plan, hr, folder / "out", engine, check_space=False)
            total = time.process_time() - start
    parts = {**spent, "rest": total - sum(spent.values())}
    share = {part: round(seconds / total, 4) for part, seconds in parts.items()}
    return {
        "images": len(plan.images),
        "settings": len(plan.settings),
        "cpu_seconds": round(total, 3),
        "cpu_seconds_by_part": {part: round(seconds, 3) for part, seconds in parts.items()},
        "share_by_part": share,
        "share_codecs_and_resize": round(share["codecs"] + share["resize"], 4),
        "share_encoders_decoders_and_resize": round(
            sum(share[part] for part in ("codecs", "resize", "png", "read")), 4
        ),
    }


def png_settings(hr: Path, images: int) -> list[dict[str, Any]]:
    """CPU time and size of ways to write the decoded pictures, WebP at quality 20."""
    from ucip_adapt.codecs import get_codec

    pictures = [
        get_codec("webp").roundtrip(bicubic_down4(read_gt(hr / name)), 20).pixels
        for name in image_names(hr)[:images]
    ]
    raw = sum(picture.nbytes for picture in pictures)
    rows = []
    for level, strategy in ((1, "default"), (1, "rle"), (6, "default")):
        kind = {"default": 0, "rle": 3}[strategy]
        size, best = 0, float("inf")
        for _ in range(5):
            start, size = time.process_time(), 0
            for picture in pictures:
                buffer = io.BytesIO()
                Image.fromarray(np.asarray(picture)).save(
                    buffer, "PNG", compress_level=level, compress_type=kind
                )
                size += buffer.getbuffer().nbytes
            best = min(best, time.process_time() - start)
        rows.append(
            {
                "level": level,
                "strategy": strategy,
                "cpu_ms_per_megapixel": round(1e3 * best / (raw / 3e6), 1),
                "bytes_per_raw_byte": round(size / raw, 4),
            }
        )
    return rows


def shard_digest(out: Path) -> str:
    """One hash over the names and bytes of all shards."""
    found = hashlib.sha256()
    for path in sorted((out / "data").rglob("*.parquet")):
        found.update(path.relative_to(out).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def timed_build(plan: BuildPlan, hr: Path, out: Path, engine: Engine) -> dict[str, Any]:
    """Wall time of a build by workers that have their libraries loaded."""
    start = time.perf_counter()
    build_suite(plan, hr, out, engine, check_space=False)
    return {"seconds": round(time.perf_counter() - start, 2), "shards": shard_digest(out)}


def ready() -> int:
    """Load what a build needs; a worker's number."""
    import av  # noqa: F401 - for its time
    import pyarrow.parquet  # noqa: F401

    time.sleep(1.0)  # so that each worker gets one of these
    return os.getpid()


def scaling(hr: Path, images: int, rounds: int) -> dict[str, Any]:
    """One worker and two, of each engine, taking turns; and two of which one is killed."""
    from distributed import LocalCluster

    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = plan_for(SLOW, hr, folder, images)
        for _ in range(rounds):
            for workers in (1, 2):
                with open_engine(workers=workers) as engine:
                    for job in [engine.executor.submit(ready) for _ in range(workers)]:
                        job.result()
                    out = folder / "out"
                    key = f"processes, {workers}"
                    found.setdefault(key, []).append(timed_build(plan, hr, out, engine))
                    shutil.rmtree(out)
                for killed in (False, True)[:workers]:
                    with (
                        LocalCluster(
                            n_workers=workers,
                            threads_per_worker=1,
                            processes=True,
                            dashboard_address=None,
                        ) as cluster,
                        open_engine("dask", scheduler=cluster.scheduler_address) as engine,
                    ):
                        jobs = [engine.executor.submit(ready) for _ in range(workers)]
                        pids = {job.result() for job in jobs}
                        if killed:
                            kill_in_the_middle(engine, out, plan.num_shards // 2, min(pids))
                        key = f"dask, {workers}{', one killed' if killed else ''}"
                        found.setdefault(key, []).append(timed_build(plan, hr, out, engine))
                        shutil.rmtree(out)
    digests = {run["shards"] for runs in found.values() for run in runs}
    best = {key: min(run["seconds"] for run in runs) for key, runs in found.items()}
    return {
        "codec": "hevc-x265 at 4 QPs",
        "images": len(plan.images),
        "shards": plan.num_shards,
        "seconds": {key: [run["seconds"] for run in runs] for key, runs in found.items()},
        "speed_up_of_two": {
            engine: round(best[f"{engine}, 1"] / best[f"{engine}, 2"], 3)
            for engine in ("processes", "dask")
        },
        "all_hashes_equal": len(digests) == 1,
    }


def kill_in_the_middle(engine: Engine, out: Path, shards: int, pid: int) -> None:
    """Kill a worker once half of the shards are there."""
    import threading

    def watch() -> None:
        while len(list((out / ".build" / "done").rglob("[!.]*.json"))) < shards:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def dry_run(files: int) -> dict[str, Any]:
    """Wall time and peak memory of the command on a folder of so many empty files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite = folder / "suite.toml"
        suite.write_text(WIDE, encoding="utf-8")
        for number in range(files):
            inner = folder / "hr" / f"{number // 1000:04d}"
            if number % 1000 == 0:
                inner.mkdir(parents=True)
            os.mknod(inner / f"{number % 1000:03d}.png")
        words = ["build-suite", "--suite", suite, "--hr", folder / "hr", "--out", folder / "out"]
        start = time.perf_counter()
        done = subprocess.run(  # noqa: S603 - our own words
            [sys.executable, "-m", "ucip_adapt", *map(str, words), "--dry-run"],
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    shards = next(line for line in done.stdout.splitlines() if line.startswith("shards"))
    return {
        "files": files,
        "settings": 23,
        "seconds": round(seconds, 1),
        "peak_memory_mib": round(peak),
        "said": shards,
    }


def main() -> None:
    """Measure all and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hr", type=Path, nargs="+", required=True, help="image folders")
    parser.add_argument("--images", type=int, default=200, help="images of the profile")
    parser.add_argument("--scaling_images", type=int, default=64, help="images of timed builds")
    parser.add_argument("--rounds", type=int, default=2, help="timed builds of each kind")
    parser.add_argument("--files", type=int, default=1_000_000, help="files of the dry run")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS_OF_THE_RESULT, default=PARTS_OF_THE_RESULT
    )
    parser.add_argument("--out", type=Path, default=Path("results/suite_build.json"))
    options = parser.parse_args()
    hr = options.hr[0]
    scores: dict[str, Any] = read_results(options.out)["scores"] if options.out.exists() else {}
    makers: dict[str, Callable[[], Any]] = {
        # The first one, so that the peak memory of the children is this one's.
        "dry_run": lambda: dry_run(options.files),
        "profile": lambda: {folder.name: profile(folder, options.images) for folder in options.hr},
        "png": lambda: png_settings(hr, options.scaling_images),
        "scaling": lambda: scaling(hr, options.scaling_images, options.rounds),
    }
    for part in PARTS_OF_THE_RESULT:
        if part in options.parts:
            scores[part] = makers[part]()
            scores[f"load_average_{part}"] = round(os.getloadavg()[0], 1)
    write_results(
        options.out,
        {
            "kind": "suite_build",
            "command": command_line(),
            "config": {name: value for name, value in vars(options).items() if name != "out"},
            "environment": environment(),
            "scores": scores,
        },
    )


if __name__ == "__main__":
    main()
