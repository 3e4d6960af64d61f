"""The report of a leak check as a file: names and scores, no pixels and no paths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ucip_adapt.errors import DataError
from ucip_adapt.leaks.search import CANDIDATE, LeakReport
from ucip_adapt.training.atomic import write_atomically
from ucip_adapt.training.results import environment

__all__ = ["FORMAT_VERSION", "write_report"]

FORMAT_VERSION = "1.0"


def write_report(
    path: Path,
    report: LeakReport,
    *,
    command: str,
    counts: Mapping[str, Mapping[str, int]],
    unreadable: Sequence[tuple[str, str]],
    threshold: float,
    seconds: float,
) -> None:
    """Write the report as JSON, atomically.

    Args:
        path: The file.
        report: What was found.
        command: The command line, without paths of this machine.
        counts: Number of pictures by folder, under ``"train"`` and ``"test"``.
        unreadable: Name and reason of files that could not be read.
        threshold: The threshold used.
        seconds: Wall-clock time of everything, reading included.

    Raises:
        DataError: If it cannot be written.
    """
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "kind": "leaks",
        "command": command,
        "environment": environment(),
        "seconds": {"all": round(seconds, 1), "search": round(report.seconds, 1)},
        "pictures": {side: dict(folders) for side, folders in counts.items()},
        "thresholds": {"squares": CANDIDATE, "aligned": threshold},
        "pairs": {"compared": report.compared, "compared_closely": report.compared_closely},
        "leaks": [asdict(leak) for leak in report.leaks],
        "nearest_other": asdict(report.nearest_other) if report.nearest_other else None,
        "unreadable": [{"name": name, "reason": reason} for name, reason in unreadable],
    }
    try:
        write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise DataError(f"cannot write the report {path}: {error}") from error
