"""The report of a leak check as a results file: names and scores, no pixels and no paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ucip_adapt.leaks.search import CANDIDATE, HASH_BITS, LeakReport
from ucip_adapt.training.results import environment, write_results

__all__ = ["write_report"]


def write_report(
    path: Path,
    report: LeakReport,
    *,
    command: str,
    counts: Mapping[str, Mapping[str, int]],
    unreadable: Sequence[tuple[str, str]],
    threshold: float,
    seconds: Mapping[str, float],
) -> None:
    """Write the report in the schema of :mod:`ucip_adapt.training.results`, atomically.

    Args:
        path: The file.
        report: What was found.
        command: The command line, without paths of this machine.
        counts: Number of pictures by folder, under ``"train"`` and ``"test"``.
        unreadable: Name and reason of files that could not be read.
        threshold: The threshold used.
        seconds: Time of everything, reading included: ``"wall"`` and ``"cpu"``.

    Raises:
        DataError: If it cannot be written.
    """
    other = report.nearest_other
    record = {
        "kind": "leaks",
        "command": command,
        "config": {
            "pictures": {side: dict(folders) for side, folders in counts.items()},
            "correlation_of_squares": CANDIDATE,
            "correlation_aligned": threshold,
            "hash_bits": HASH_BITS,
        },
        "environment": environment(),
        "seconds": {**seconds, "cpu_search": round(report.cpu_seconds, 1)},
        "scores": {
            "compared": report.compared,
            "compared_closely": report.compared_closely,
            "leaks": [asdict(leak) for leak in report.leaks],
            "nearest_other": None if other is None else asdict(other),
            "unreadable": [{"name": name, "reason": reason} for name, reason in unreadable],
        },
    }
    write_results(path, record)
