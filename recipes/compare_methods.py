"""Compare ways of adapting a base to one codec under equal images, crops, order and steps.

    python recipes/compare_methods.py rates --codec webp
    python recipes/compare_methods.py final --codec webp --data DATA

``rates`` tunes each method at several learning rates for a few steps and keeps, in
``results/<codec>_rates.json``, the one that is best on the validation images. ``final`` tunes each
method at its rate on the embedded images and on CID22, measures all of them together, and writes
``results/<codec>_methods.json``. Runs that are finished are not repeated.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from ucip_adapt.config import option, run_recipe
from ucip_adapt.errors import UcipError
from ucip_adapt.training.results import read_results, write_results

RECIPES = Path(__file__).parent


class Method(NamedTuple):
    """One way of tuning: its recipe, its flags and the learning rates that are tried."""

    recipe: str
    flags: tuple[str, ...]
    rates: tuple[float, ...]


METHODS = {
    "dpm": Method("tune_prompts.py", ("--trainable", "dpm"), (1e-2, 3e-2)),
    "dpm+offset": Method("tune_prompts.py", ("--trainable", "dpm+offset"), (3e-3, 1e-2, 3e-2)),
    "dpm+offset+spade": Method(
        "tune_prompts.py", ("--trainable", "dpm+offset+spade"), (3e-4, 1e-3, 3e-3)
    ),
    "lora": Method(
        "tune_prompts.py",
        ("--trainable", "dpm+offset", "--peft_method", "lora"),
        (3e-3, 1e-2, 3e-2),
    ),
    "everything": Method("tune_full.py", (), (1e-4, 3e-4, 1e-3)),
}
"""What is compared; LoRA has the parameter budget of ``dpm+offset``, everything is protocol v."""


@dataclass(frozen=True)
class Options:
    """Options of the recipe."""

    codec: str = option("webp", "Codec to adapt to.")
    base: str = option("ucip-tiny-v1", "Base network, with prompts.")
    data: Path | None = option(None, "Data root; default: UCIP_DATA. Without it: embedded only.")
    rate_steps: int = option(100, "Steps of a run that tries a rate.", minimum=1)
    rate_images: int = option(2, "Validation images that a rate is judged by.", minimum=1)
    final_steps: int = option(200, "Steps of a final run.", minimum=1)
    train_on: tuple[str, ...] = option(("embedded", "CID22"), "Training images of the final runs.")
    evaluate_on: tuple[str, ...] = option(
        ("GB82-val", "Set5", "Set14", "BSD100"), "Sets that the final runs are measured on."
    )
    window: str = option("config", "Inference: config, whole, or a side in LQ pixels.")
    jobs: int = option(1, "Runs at the same time, and processes that measure.", minimum=1)
    runs_dir: Path = option(Path("runs/compare"), "Folder for the single runs.")
    results_dir: Path = option(Path("results"), "Folder for the tables.")


def launch(script: str, arguments: Sequence[str], log: Path, *, processes: int = 1) -> None:
    """Run a recipe in a process of its own, or in several that share its work; keep its output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, str(RECIPES / script), *arguments]
        if processes > 1:
            command[1:1] = [
                *("-m", "torch.distributed.run", "--nproc_per_node", str(processes)),
                *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
            ]
        # Without it Accelerate takes processes without a GPU for unrelated single ones.
        cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "1"}
        done = subprocess.run(  # noqa: S603 - own recipe
            command, stdout=file, stderr=subprocess.STDOUT, check=False, env={**os.environ, **cpu}
        )
    if done.returncode:
        raise UcipError(f"{script} failed with exit code {done.returncode}: see {log}")


def tune(
    cfg: Options,
    name: str,
    images: str,
    rate: float,
    steps: int,
    folder: Path,
    *extra: str,
) -> None:
    """Tune one method unless its results are there."""
    if (folder / "results.json").is_file():
        return
    method = METHODS[name]
    shared = [
        *("--codec", cfg.codec, "--pretrained_model_name_or_path", cfg.base),
        *("--train_data_dir", images, "--max_train_steps", str(steps)),
        *("--learning_rate", f"{rate:g}", "--output_dir", str(folder)),
        *("--loss", "l1"),  # the only one when the first base was measured
        *(("--data", str(cfg.data)) if cfg.data else ()),
    ]
    log = folder.with_name(folder.name + ".log")
    launch(method.recipe, [*method.flags, *shared, *extra], log)
    print(f"{folder.name}: {validation_gain(folder):+.3f} dB on the validation images", flush=True)


def validation_gain(folder: Path) -> float:
    """Mean gain over the base on the validation images (y-c4), in dB."""
    rows = read_results(folder / "results.json")["scores"]["rows"]
    own = [row for row in rows if row["protocol"] == "y-c4" and row["dataset"] == "GB82-val"]
    tuned = [row["psnr_db"] for row in own if row["method"] not in {"bicubic", "base"}]
    base = [row["psnr_db"] for row in own if row["method"] == "base"]
    return fmean(tuned) - fmean(base)


def rates(cfg: Options) -> None:
    """Try every rate of every method; keep the best of each."""
    trials = [(name, rate) for name, method in METHODS.items() for rate in method.rates]
    folders = {(n, r): cfg.runs_dir / "rates" / f"{cfg.codec}-{n}-{r:g}" for n, r in trials}
    with ThreadPoolExecutor(cfg.jobs) as pool:
        list(pool.map(lambda trial: try_rate(cfg, trial, folders[trial]), trials))
    gains = {trial: round(validation_gain(folder), 4) for trial, folder in folders.items()}
    table = {
        name: {f"{rate:g}": gains[name, rate] for rate in method.rates}
        for name, method in METHODS.items()
    }
    best = {name: max(gain, key=gain.__getitem__) for name, gain in table.items()}
    first = read_results(next(iter(folders.values())) / "results.json")
    write_results(
        cfg.results_dir / f"{cfg.codec}_rates.json",
        {
            "kind": "rates",
            "command": f"python recipes/compare_methods.py rates --codec {cfg.codec}",
            "config": {"base": cfg.base, "steps": cfg.rate_steps, "images": "embedded"},
            "environment": first["environment"],
            "scores": {"gain_db": table, "best": {k: float(v) for k, v in best.items()}},
        },
    )
    print(json.dumps(best, indent=2))


def try_rate(cfg: Options, trial: tuple[str, float], folder: Path) -> None:
    """Tune one method at one rate, on the embedded images."""
    limit = ("--max_eval_images", str(cfg.rate_images))
    tune(cfg, trial[0], "embedded", trial[1], cfg.rate_steps, folder, *limit)


def final(cfg: Options) -> None:
    """Tune every method at its rate on every set of images, and measure all of them."""
    chosen = read_results(cfg.results_dir / f"{cfg.codec}_rates.json")["scores"]["best"]
    runs = {
        f"{name}@{images}": (name, images, cfg.runs_dir / f"{cfg.codec}-{images}-{name}")
        for images in cfg.train_on
        for name in METHODS
    }
    # All runs are measured together afterwards; what each measures by itself is a first look.
    limit = ("--max_eval_images", str(cfg.rate_images))
    with ThreadPoolExecutor(cfg.jobs) as pool:
        list(
            pool.map(
                lambda run: tune(
                    cfg, run[0], run[1], chosen[run[0]], cfg.final_steps, run[2], *limit
                ),
                runs.values(),
            )
        )
    scores = measure(cfg, runs)
    methods = {label: describe_run(run[2], run[1]) for label, run in runs.items()}
    write_results(
        cfg.results_dir / f"{cfg.codec}_methods.json",
        {
            "kind": "methods",
            "command": f"python recipes/compare_methods.py final --codec {cfg.codec}",
            "config": {"base": cfg.base, "steps": cfg.final_steps, "window": cfg.window},
            "environment": scores["environment"],
            "parameters": {"methods": methods, "base": scores["parameters"]["base_fingerprint"]},
            "scores": {"rows": scores["rows"]},
        },
    )
    for label, run in runs.items():
        target = cfg.results_dir / "runs" / f"{run[2].name}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run[2] / "results.json", target)
        print(f"{label}: {target}")


def measure(cfg: Options, runs: dict[str, tuple[str, str, Path]]) -> dict[str, Any]:
    """Measure the base and every run; one evaluation for each set and each training images."""
    merged: dict[str, Any] = {"rows": []}
    for dataset in cfg.evaluate_on:
        for images in cfg.train_on:
            labels = {label: run[2] for label, run in runs.items() if run[1] == images}
            folder = cfg.runs_dir / f"{cfg.codec}-evaluation-{images}-{dataset}"
            record = measure_set(cfg, dataset, labels, folder, base=images == cfg.train_on[0])
            merged |= {"environment": record["environment"], "parameters": record["parameters"]}
            merged["rows"] += record["scores"]["rows"]
    return merged


def measure_set(
    cfg: Options, dataset: str, labels: dict[str, Path], folder: Path, *, base: bool
) -> dict[str, Any]:
    """Measure runs on one set, with bicubic and the base or without, unless that was done."""
    if not (folder / "results.json").is_file():
        arguments = [
            *("--codec", cfg.codec, "--pretrained_model_name_or_path", cfg.base),
            *("--evaluate_on", dataset, "--window", cfg.window, "--metric_protocols", "y-c4"),
            *("--adapter", *(f"{label}={path}" for label, path in labels.items())),
            *(() if base else ("--skip_base",)),
            *(("--data", str(cfg.data)) if cfg.data else ()),
            *("--output_dir", str(folder)),
        ]
        log = folder.with_name(folder.name + ".log")
        launch("evaluate.py", arguments, log, processes=cfg.jobs)
    return read_results(folder / "results.json")


def describe_run(folder: Path, images: str) -> dict[str, Any]:
    """The figures of a run besides its scores."""
    record = read_results(folder / "results.json")
    weights = next(
        folder / name
        for name in ("adapter_model.safetensors", "model.safetensors")
        if (folder / name).is_file()
    )
    return {
        "images": images,
        "learning_rate": record["config"]["learning_rate"],
        "trained": record["parameters"]["trained"],
        "bytes": weights.stat().st_size,
        "seconds_per_step": round(record["seconds"]["per_step"], 3),
        "peak_memory_mib": round(record["peak_memory_mib"]),
    }


def main(cfg: Options) -> None:
    """Run the phase that the command line names first."""
    PHASES[PHASE](cfg)


PHASES = {"rates": rates, "final": final}
PHASE = "final"

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PHASES:
        sys.stderr.write(
            f"usage: {Path(__file__).name} {{{'|'.join(PHASES)}}} [options]; "
            "options: final --help\n"
        )
        raise SystemExit(0 if sys.argv[1:] in (["-h"], ["--help"]) else 2)
    PHASE = sys.argv[1]
    raise SystemExit(run_recipe(main, Options, description=__doc__ or "", argv=sys.argv[2:]))
