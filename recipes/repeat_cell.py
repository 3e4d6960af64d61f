"""Make a finished cell of the ledger once more, and say how far the two lie apart.

    python recipes/repeat_cell.py --cell ucip-tiny-v3_webp_dpm+offset_small_seed0 --data DATA

Trains and measures it anew in runs/repeat, beside the finished one, which stays; prints both and
their difference, and writes <cell>.json there. A run that is stopped goes on where it was. The exit
code is 1 if the two differ by more than the seeds of the cell do, and 3 if it could not be made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ucip_adapt.config import option, run_recipe
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.errors import unknown_name
from ucip_adapt.experiments.compare import Finished, read_cells
from ucip_adapt.experiments.groups import read_experiments
from ucip_adapt.experiments.ledger import Ledger
from ucip_adapt.experiments.plan import read_locations
from ucip_adapt.experiments.repeat import Repetition, lay_out
from ucip_adapt.experiments.runner import Runner
from ucip_adapt.training.results import command_line, read_results, write_results

RECIPES = Path(__file__).parent
EXIT_CODE_APART = 1
EXIT_CODE_FAILED = 3


@dataclass(frozen=True)
class Options:
    """Options of the recipe."""

    cell: str = option(
        "ucip-tiny-v3_webp_dpm+offset_small_seed0", "Name of the cell: its file without .json."
    )
    data: Path | None = option(
        None, "Folder with the benchmark sets; default: the environment variable UCIP_DATA."
    )
    output_dir: Path = option(Path("runs/repeat"), "Folder that it is made in.")
    results_dir: Path = option(Path("results/cells"), "Folder with the finished cells.")
    experiments: Path = option(RECIPES / "experiments.toml", "File with the groups of cells.")
    base: tuple[str, ...] = option((), "NAME=PATH: where a base is that is not shipped.")


def main(cfg: Options) -> int:
    """Make the cell and compare; returns the exit code."""
    ledger = Ledger(read_experiments(cfg.experiments), cfg.results_dir, read_locations(cfg.base))
    known = ledger.cells()
    if cfg.cell not in known:
        raise unknown_name("cell", cfg.cell, known)
    cell = known[cfg.cell]
    beside = lay_out(ledger, cell, cfg.output_dir / "results")
    runner = Runner(
        beside,
        RECIPES,
        cfg.output_dir / "cells",
        data=data_root(cfg.data),
        say=lambda line: print(line, flush=True),
    )
    seconds = ledger.estimate(cell)
    if seconds is not None:
        print(f"about {seconds / 60:.0f} minutes, as it took where it was made", flush=True)
    failed = runner.run(only=(cell.id,)).failed
    for name, text in failed.items():
        print(f"failed    {name}: {text}")
    if beside.record(cell) is None:
        if not failed:
            print("stopped; the same command goes on")
        return EXIT_CODE_FAILED if failed else 0
    again = read_results(beside.path(cell))
    first = Finished.from_record(read_results(ledger.path(cell)))
    both = Repetition.of(first, Finished.from_record(again), read_cells(cfg.results_dir))
    record = {
        "kind": "repeat",
        "command": command_line(),
        "config": {"cell": cell.id},
        "environment": again["environment"],
        "seconds": again["seconds"],
        "scores": both.scores(),
    }
    path = cfg.output_dir / f"{cell.id}.json"
    write_results(path, record)
    print(f"\n{both.table().text()}\n{both.verdict()}\nwrote {path}")
    return EXIT_CODE_APART if both.within is False else 0


if __name__ == "__main__":
    codes: list[int] = []
    code = run_recipe(lambda cfg: codes.append(main(cfg)), Options, description=__doc__ or "")
    raise SystemExit(code or sum(codes))
