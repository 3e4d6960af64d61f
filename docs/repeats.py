"""The tables of docs/results.md on making a cell again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ucip_adapt.experiments.compare import Finished
from ucip_adapt.experiments.repeat import mean_psnr_of, signed
from ucip_adapt.experiments.statistics import spread
from ucip_adapt.experiments.tables import HOLE, Table, belongs, matrices
from ucip_adapt.training.results import read_results


def several_seeds(
    cells: Sequence[Finished], planned: Sequence[Mapping[str, Any]], codecs: Iterable[str]
) -> str:
    """For the rows of Table 3 with several seeds: a cell, its time, its number, the spread."""
    lines = []
    for codec in codecs:
        for matrix in matrices(planned, codec):
            for method in dict.fromkeys(cell.config["method"] for cell in cells):
                runs = [
                    cell
                    for cell in cells
                    if belongs(cell.config, matrix)
                    and cell.config["method"] == method
                    and cell.config["base_kind"] == "prompted"
                    and cell.seed is not None
                ]
                if len(runs) > 1:
                    lines.append(_line(sorted(runs, key=lambda cell: cell.seed or 0)))
    if not lines:
        return "No cell is finished with more than one seed yet."
    header = ("cell", "seconds, training + evaluation", "mean PSNR", "of all seeds", "seeds")
    note = (
        "Mean PSNR in dB over the sets and qualities of the cell, and smallest to largest over the "
        "seeds that are finished: what another machine may differ by. Other versions of encoders "
        "compress to other pictures; each file names the versions that it was made with."
    )
    return "\n\n".join([Table("", header, tuple(lines)).markdown(), note])


def _line(runs: Sequence[Finished]) -> tuple[str, ...]:
    """The first seed, and the spread of all."""
    first = runs[0]
    means = spread([mean_psnr_of(run) for run in runs])
    return (
        f"`{first.id}`",
        _made_in(first.record["seconds"], first.record["environment"]),
        f"{mean_psnr_of(first):.3f}",
        f"{means.low:.3f} to {means.high:.3f}",
        str(means.count),
    )


def _made_in(seconds: Mapping[str, float], environment: Mapping[str, Any]) -> str:
    """Seconds of training and evaluation, and the hardware."""
    times = f"{seconds['training']:.0f} + {seconds['evaluation']:.0f}"
    return f"{times}, {environment['cpu']}, {environment['cpu_cores']} cores"


def made_again(folder: Path) -> str:
    """Cells that were made once more: where, and how far from the finished ones."""
    lines = []
    for path in sorted(folder.glob("*.json")):
        record = read_results(path)
        scores = record["scores"]
        first, seeds = scores["finished"], scores["seeds"]
        lines.append(
            (
                f"`{record['config']['cell']}`",
                _made_in(first["seconds"], first["environment"]),
                _made_in(record["seconds"], record["environment"]),
                signed(scores["again"]["psnr_db"] - first["psnr_db"]),
                f"{scores['largest_difference_db']:.4f}",
                "yes" if scores["same_weights"] else "no",
                f"{seeds['high_db'] - seeds['low_db']:.4f}" if seeds["count"] > 1 else HOLE,
            )
        )
    if not lines:
        return "No cell was made once more yet."
    header = (
        *("cell", "finished", "again", "again - finished", "largest, one image"),
        *("same weights", "range of seeds"),
    )
    note = (
        "Seconds of training and evaluation, and hardware; then dB. Same weights: what was trained "
        "is the same bit for bit, which one kind of processor gives and another may not."
    )
    return "\n\n".join([Table("", header, tuple(lines)).markdown(), note])
