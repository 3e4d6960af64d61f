"""How a base came about: every training stage that led to it, for its card and its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ucip_adapt.assets import shipped_base_folder
from ucip_adapt.training.results import read_results

__all__ = [
    "SUITE",
    "crops_per_step",
    "damage_of",
    "describe_stage",
    "image_sets",
    "previous_stages",
    "stage_summary",
]

SUITE = "the images of the suite "
"""What stands before the folder of a built suite where image sets are named."""


def crops_per_step(config: Mapping[str, Any], environment: Mapping[str, Any]) -> int:
    """Effective batch of a run: over all processes and micro-batches.

    Args:
        config: The run's options.
        environment: Where it ran; one process if it does not say.

    Returns:
        Crops of one optimizer step.

    Example:
        >>> crops_per_step({"train_batch_size": 4, "gradient_accumulation_steps": 2}, {})
        8
    """
    batch: int = config["train_batch_size"] * config["gradient_accumulation_steps"]
    return batch * int(environment.get("processes", 1))


def damage_of(config: Mapping[str, Any]) -> list[str]:
    """Codecs and qualities that a run trained on.

    Args:
        config: The run's options: ``settings``, or ``codec`` and ``qualities``.

    Returns:
        Each as ``codec:quality``.

    Example:
        >>> damage_of({"codec": "webp", "qualities": [10, 40]})
        ['webp:10', 'webp:40']
    """
    if "settings" in config:
        return list(config["settings"])
    return [f"{config['codec']}:{quality}" for quality in config["qualities"]]


def image_sets(config: Mapping[str, Any]) -> list[str]:
    """Names of the image sets that a run, or one stage of it, was trained on.

    Args:
        config: The run's options, or what :func:`stage_summary` gave.

    Returns:
        As ``--train_data_dir`` named them; with ``--suite_dir`` the suite, whose manifest does not
        say which sets its images are of.

    Example:
        >>> image_sets({"train_data_dir": ["embedded"], "suite_dir": "runs/webp"})
        ['the images of the suite runs/webp']
    """
    suite = config.get("suite_dir")
    return [f"{SUITE}{suite}"] if suite is not None else list(config["train_data_dir"])


def stage_summary(
    config: Mapping[str, Any], seconds: Mapping[str, float], environment: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of one stage, from the parts of a results file.

    Args:
        config: The run's options.
        seconds: Seconds by phase, ``training`` among them.
        environment: Where it ran.

    Returns:
        Images (with the built suite, where there was one), settings, steps, crops, rate, seed,
        seconds and hardware.

    Raises:
        KeyError: If one of them is missing.
    """
    suite = config.get("suite_dir")
    names = ("train_data_dir", "max_train_steps", "train_batch_size", "patch_size")
    return {
        **{name: config[name] for name in (*names, "learning_rate", "ema_decay", "seed")},
        **({"suite_dir": suite} if suite is not None else {}),
        "settings": damage_of(config),
        "crops_per_step": crops_per_step(config, environment),
        "training_seconds": seconds["training"],
        "hardware": environment["gpu"] or f"{environment['cpu']}, {environment['cpu_cores']} cores",
        "threads": environment["torch_threads"],
    }


def previous_stages(start: str | None) -> list[dict[str, Any]]:
    """Stages behind the base that a run starts from; none for random weights or unknown bases.

    Args:
        start: The base's name; its stages are known if it is shipped, or a folder with a
            ``results.json``.

    Returns:
        A summary (:func:`stage_summary`) per stage, the first one first.

    Raises:
        ResultsError: If the results are there but cannot be read.

    Example:
        >>> previous_stages(None)
        []
    """
    if start is None:
        return []
    path = (shipped_base_folder(start) or Path(start)) / "results.json"
    if not path.is_file():
        return []
    record = read_results(path)
    stages: list[dict[str, Any]] | None = record["parameters"].get("stages")
    return stages or [stage_summary(record["config"], record["seconds"], record["environment"])]


def describe_stage(stage: Mapping[str, Any]) -> str:
    """One line of a card.

    Args:
        stage: What :func:`stage_summary` gave.

    Returns:
        Steps, crops, rate, hours and hardware.

    Example:
        >>> stage = {"max_train_steps": 3000, "train_batch_size": 8, "patch_size": 32}
        >>> about = {"learning_rate": 1e-3, "training_seconds": 5400, "hardware": "a CPU"}
        >>> describe_stage({**stage, **about, "threads": 2})
        '3,000 steps of 8 crops of 32 x 32 LQ pixels, rate 0.001: 1.50 h on a CPU, 2 threads'
    """
    rate = stage["learning_rate"]
    crops = stage.get("crops_per_step", stage["train_batch_size"])
    return (
        f"{stage['max_train_steps']:,} steps of {crops} crops of "
        f"{stage['patch_size']} x {stage['patch_size']} LQ pixels"
        f"{f', rate {rate:g}' if rate else ''}: {stage['training_seconds'] / 3600:.2f} h on "
        f"{stage['hardware']}, {stage['threads']} threads"
    )
