"""Compare ways of adapting a base to one codec under equal images, crops, order and steps.

    python recipes/compare_methods.py rates --codec webp
    python recipes/compare_methods.py final --codec webp --data DATA

``rates`` tunes each method at several learning rates for a few steps and keeps, in
``results/<codec>_rates.json``, the one that is best on the validation images. ``final`` tunes each
method at its rate on the embedded images and on CID22, measures all of them together, and writes
``results/<codec>_methods.json``. Runs that are finished are not repeated; one that was made with
other options than those asked for is an error.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from ucip_adapt.config import option, run_recipe
from ucip_adapt.errors import ConfigError, UcipError
from ucip_adapt.models import UCIP
from ucip_adapt.training.results import portable, read_results, write_results

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


def as_words(options: dict[str, Any]) -> list[str]:
    """Options as a command line has them."""
    words = []
    for name, value in options.items():
        if isinstance(value, bool):
            words += [f"--{name}"] if value else []
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{name}", *(f"{v:g}" if isinstance(v, float) else str(v) for v in values)]
    return words


def tune_options(cfg: Options, images: str, rate: float, steps: int) -> dict[str, Any]:
    """What a run of any method is made with, in the names of the tuning recipes."""
    return {
        "codec": cfg.codec,
        "train_data_dir": [images],
        "max_train_steps": steps,
        "learning_rate": rate,
        "loss": "l1",  # the only one when the first base was measured
        # Final runs are measured together afterwards; what each measures itself is a first look.
        "max_eval_images": cfg.rate_images,
    }


def measure_options(
    cfg: Options, dataset: str, images: str, labels: dict[str, Path]
) -> dict[str, Any]:
    """What runs are measured with, in the names of ``evaluate.py``."""
    return {
        "codec": cfg.codec,
        "evaluate_on": [dataset],
        "window": cfg.window,
        "metric_protocols": ["y-c4"],
        "adapter": [f"{label}={path}" for label, path in labels.items()],
        "skip_base": images != cfg.train_on[0],  # bicubic and the base are measured once
    }


@functools.cache
def fingerprint_of(base: str) -> str:
    """What a base is, whatever its name stands for."""
    return UCIP.from_pretrained(base).fingerprint


def refuse_others(cfg: Options, folder: Path, asked: dict[str, Any]) -> None:
    """Refuse a finished run that would be taken for one with other options.

    Its folder's name says method, images and codec only.

    Raises:
        ConfigError: If there is one; the message names its folder and the options.
    """
    if not (folder / "results.json").is_file():
        return
    record = read_results(folder / "results.json")
    config = record["config"]
    other = [
        f"{name} {config[name]}, not {value}"
        for name, value in portable(asked).items()
        if name in config and config[name] != value  # earlier versions had fewer options
    ]
    if record["parameters"]["base_fingerprint"] != fingerprint_of(cfg.base):
        made_on = config["pretrained_model_name_or_path"]
        other.append(f"base {made_on}, not {cfg.base} as it is now")
    if other:
        raise ConfigError(
            f"{folder} holds a run of {'; '.join(other)}: delete the folder to have it made again, "
            "or give another --runs_dir"
        )


def refuse_older(folder: Path, runs: Sequence[Path]) -> None:
    """Refuse a finished measurement of what was trained again since, or is going to be.

    Raises:
        ConfigError: If it is one.
    """
    measured, made = folder / "results.json", [run / "results.json" for run in runs]
    if not measured.is_file():
        return
    for path in made:
        if not path.is_file() or path.stat().st_mtime > measured.stat().st_mtime:
            raise ConfigError(
                f"{folder} was measured before {path.parent} was trained: delete {folder} to have "
                "it measured again, or give another --runs_dir"
            )


def tune(cfg: Options, name: str, folder: Path, options: dict[str, Any]) -> None:
    """Tune one method unless its results are there."""
    if (folder / "results.json").is_file():
        return
    method = METHODS[name]
    arguments = [
        *method.flags,
        *("--pretrained_model_name_or_path", cfg.base, *as_words(options)),
        *("--output_dir", str(folder)),
        *(("--data", str(cfg.data)) if cfg.data else ()),
    ]
    launch(method.recipe, arguments, folder.with_name(folder.name + ".log"))
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
    options = {(n, r): tune_options(cfg, "embedded", r, cfg.rate_steps) for n, r in trials}
    for trial in trials:
        refuse_others(cfg, folders[trial], options[trial])
    with ThreadPoolExecutor(cfg.jobs) as pool:
        list(pool.map(lambda t: tune(cfg, t[0], folders[t], options[t]), trials))
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


def final(cfg: Options) -> None:
    """Tune every method at its rate on every set of images, and measure all of them."""
    tried = read_results(cfg.results_dir / f"{cfg.codec}_rates.json")
    if tried["config"]["base"] != portable(cfg.base):
        raise ConfigError(
            f"{cfg.results_dir / f'{cfg.codec}_rates.json'} holds rates for base "
            f"{tried['config']['base']}, not {cfg.base}: run 'rates' with that first, or give "
            "another --results_dir"
        )
    chosen = tried["scores"]["best"]
    runs = {
        f"{name}@{images}": (name, images, cfg.runs_dir / f"{cfg.codec}-{images}-{name}")
        for images in cfg.train_on
        for name in METHODS
    }
    options = {
        label: tune_options(cfg, images, chosen[name], cfg.final_steps)
        for label, (name, images, _) in runs.items()
    }
    for label, run in runs.items():
        refuse_others(cfg, run[2], options[label])
    for dataset, images in product(cfg.evaluate_on, cfg.train_on):
        folder, labels = measurement(cfg, runs, dataset, images)
        refuse_others(cfg, folder, measure_options(cfg, dataset, images, labels))
        refuse_older(folder, list(labels.values()))
    with ThreadPoolExecutor(cfg.jobs) as pool:
        list(
            pool.map(lambda item: tune(cfg, item[1][0], item[1][2], options[item[0]]), runs.items())
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


def measurement(
    cfg: Options, runs: dict[str, tuple[str, str, Path]], dataset: str, images: str
) -> tuple[Path, dict[str, Path]]:
    """Folder of one evaluation, and the runs that it measures by their labels."""
    folder = cfg.runs_dir / f"{cfg.codec}-evaluation-{images}-{dataset}"
    return folder, {label: run[2] for label, run in runs.items() if run[1] == images}


def measure(cfg: Options, runs: dict[str, tuple[str, str, Path]]) -> dict[str, Any]:
    """Measure the base and every run; one evaluation for each set and each training images."""
    merged: dict[str, Any] = {"rows": []}
    for dataset, images in product(cfg.evaluate_on, cfg.train_on):
        folder, labels = measurement(cfg, runs, dataset, images)
        record = measure_set(cfg, folder, measure_options(cfg, dataset, images, labels))
        merged |= {"environment": record["environment"], "parameters": record["parameters"]}
        merged["rows"] += record["scores"]["rows"]
    return merged


def measure_set(cfg: Options, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Measure runs on one set unless that was done."""
    if not (folder / "results.json").is_file():
        arguments = [
            *("--pretrained_model_name_or_path", cfg.base, *as_words(options)),
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
