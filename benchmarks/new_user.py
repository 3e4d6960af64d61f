"""A new user's path, timed from the clone.

    python benchmarks/new_user.py --work DIR --out results/new_user.json

Clones this repository into DIR (an empty or new folder), sets it up with `make setup`, enlarges
one file, makes a folder of ten pictures, tunes an adapter for AVIF on it, uses it, and publishes it
to a Hub on this machine, from which a second user takes it by name. Every step is a command line,
and is run as it would be typed. The cache of pip is used as it is found.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

from ucip_adapt.training.results import environment, write_results

ROOT = Path(__file__).resolve().parents[1]

STEPS = {
    "set up": "make setup",
    "enlarge one file": "ucip-adapt upscale photo.webp -o photo_x4.png",
    "ten pictures": "python docs/examples/make_photos.py photos 256",
    "tune for AVIF": 'make tune CODEC=avif OUTPUT_DIR=runs/avif ARGS="--train_data_dir photos"',
    "look at it": "ucip-adapt adapters show runs/avif",
    "use it": "ucip-adapt upscale photo.avif -o photo.avif_x4.png --adapter runs/avif",
    "publish, dry run": (
        "ucip-adapt adapters publish runs/avif --repo-id user/ucip-avif --dry_run"
    ),
    "publish": "ucip-adapt adapters publish runs/avif --repo-id user/ucip-avif",
    "somebody else uses it": (
        "HF_HOME=another ucip-adapt upscale photo.avif -o theirs.png --adapter user/ucip-avif"
    ),
}
"""What is typed, in order, in the clone with its environment active."""

PICTURES = """
from PIL import Image
with Image.open("ucip_adapt/assets/images/validation/house.webp") as image:
    small = image.convert("RGB").resize((144, 144), Image.Resampling.BICUBIC)
small.save("photo.webp", quality=20)
small.save("photo.avif", quality=40)
"""
"""The user's own files: a picture that is in no training list, as WebP and as AVIF."""


def load_hub() -> ModuleType:
    """The Hub that the tests use; it is no part of the package."""
    path = ROOT / "tests" / "hub" / "loopback.py"
    spec = importlib.util.spec_from_file_location("loopback", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: there is no {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(command: str, clone: Path, env: dict[str, str]) -> tuple[float, list[str]]:
    """Run one command line; wall seconds, and what it printed last on standard output."""
    print(f"$ {command}", flush=True)
    start = time.perf_counter()
    done = subprocess.run(  # noqa: S603
        ["bash", "-c", command],  # noqa: S607
        cwd=clone,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    print(done.stdout, f"[{seconds:.1f} s]", sep="", flush=True)
    if done.returncode != 0:
        raise SystemExit(f"error: {command} ended with exit code {done.returncode}")
    return seconds, [line.rstrip() for line in done.stdout.splitlines()]


def main() -> None:
    """Do all steps and write their times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--out", type=Path, required=True, help="results.json to write")
    args = parser.parse_args()
    if args.work.exists() and any(args.work.iterdir()):
        raise SystemExit(f"error: {args.work} is not empty")
    args.work.mkdir(parents=True, exist_ok=True)
    clone = args.work.resolve() / "clone"

    seconds, printed, load = {}, {}, {}
    load["before"] = round(os.getloadavg()[0], 1)
    seconds["clone"], _ = run(
        f"git clone -q {shlex.quote(ROOT.as_posix())} {shlex.quote(clone.as_posix())}",
        args.work,
        dict(os.environ),
    )
    hub = load_hub().LoopbackHub()
    env = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "PATH": f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "UCIP_CACHE": str(clone.parent / "cache"),
        "HF_HOME": str(clone.parent / "hub"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HUB_DISABLE_XET": "1",
    }
    for name, command in STEPS.items():
        if name == "enlarge one file":  # the environment is there from here on
            python = clone / ".venv" / "bin" / "python"
            subprocess.run([python, "-c", PICTURES], cwd=clone, check=True)  # noqa: S603
        seconds[name], lines = run(command, clone, env)
        printed[name] = [line for line in lines if line][-3:]
    load["after"] = round(os.getloadavg()[0], 1)
    same = (clone / "theirs.png").read_bytes() == (clone / "photo.avif_x4.png").read_bytes()
    if not same:
        raise SystemExit("error: the published adapter gives another picture than the local one")
    files = hub.resolve("user/ucip-avif", "main")[1]
    total = sum(seconds.values())
    record = {
        "kind": "benchmark",
        "command": "python benchmarks/new_user.py --work DIR --out results/new_user.json",
        "config": {"steps": STEPS, "load_average": load, "nice": os.nice(0)},
        "environment": environment(),
        "seconds": {name: round(value, 1) for name, value in {**seconds, "total": total}.items()},
        "scores": {"printed": printed, "same_picture_from_the_hub": same},
        "files": {name: len(content) for name, content in sorted(files.items())},
    }
    write_results(args.out, record)
    print(f"wrote {args.out}: {total:.0f} s in all")


if __name__ == "__main__":
    sys.exit(main())
