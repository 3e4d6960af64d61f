"""How a base came about: every training stage that led to it, for its card and its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ucip_adapt.training.results import read_results

__all__ = ["describe_stage", "previous_stages", "stage_summary"]


def stage_summary(
    config: Mapping[str, Any], seconds: Mapping[str, float], environment: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of one stage, from the parts of a results file."""
    names = ("train_data_dir", "settings", "max_train_steps", "train_batch_size", "patch_size")
    return {
        **{name: config[name] for name in (*names, "learning_rate", "ema_decay", "seed")},
        "training_seconds": seconds["training"],
        "hardware": environment["gpu"] or f"{environment['cpu']}, {environment['cpu_cores']} cores",
        "threads": environment["torch_threads"],
    }


def previous_stages(start: str | None) -> list[dict[str, Any]]:
    """Stages behind the base that a run starts from; none for random weights or unknown bases.

    Args:
        start: The base's name; its stages are known if it is a folder with a ``results.json``.
    """
    if start is None or not (Path(start) / "results.json").is_file():
        return []
    record = read_results(Path(start) / "results.json")
    stages: list[dict[str, Any]] | None = record["parameters"].get("stages")
    return stages or [stage_summary(record["config"], record["seconds"], record["environment"])]


def describe_stage(stage: Mapping[str, Any]) -> str:
    """One line of a card."""
    rate = stage["learning_rate"]
    return (
        f"{stage['max_train_steps']:,} steps of {stage['train_batch_size']} crops of "
        f"{stage['patch_size']} x {stage['patch_size']} LQ pixels"
        f"{f', rate {rate:g}' if rate else ''}: {stage['training_seconds'] / 3600:.2f} h on "
        f"{stage['hardware']}, {stage['threads']} threads"
    )
