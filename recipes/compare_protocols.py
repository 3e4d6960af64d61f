"""Rows i to v of the paper's Table 3 for a codec, and the control, as one table with a summary.

    python recipes/compare_protocols.py --codec webp --budget 60m --data DATA
    python recipes/compare_protocols.py --codec webp --print_only
    python recipes/compare_protocols.py --allow_command --data DATA \
        --codec "mine=command:my_codec -q {q} {in} {out}" --qualities 10 20 30 40

Starts the cells that are missing (recipes/experiments.toml; a codec that is not there gets the
cells of one that is), and prints what is finished, the paper's numbers beside ours. What is missing
is a dash; a run that is stopped goes on where it was. The exit code is 3 if a cell failed.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from ucip_adapt.config import option, run_recipe
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.data.degrade import parse_settings
from ucip_adapt.experiments.compare import Finished, read_cells
from ucip_adapt.experiments.groups import read_experiments
from ucip_adapt.experiments.ledger import Ledger
from ucip_adapt.experiments.own_codec import OwnCodec, read_own_codec
from ucip_adapt.experiments.plan import (
    borrowed_rates,
    current,
    planned_config,
    read_locations,
    table_cells,
    with_trials,
)
from ucip_adapt.experiments.runner import Runner, command_of
from ucip_adapt.experiments.status import duration, read_duration
from ucip_adapt.experiments.status import summary as progress
from ucip_adapt.experiments.tables import (
    Matrix,
    belongs,
    choose_rows,
    matrices,
    paper_cells,
    row_of,
    summary,
    table_3,
)
from ucip_adapt.training.results import command_line

RECIPES = Path(__file__).parent
EXIT_CODE_FAILED = 3


@dataclass(frozen=True)
class Options:
    """Options of the recipe."""

    codec: str = option(
        "webp",
        "Codec to adapt to: a name, or, with --allow_command, NAME=command:... or "
        "NAME=folder:PATH.",
    )
    allow_command: bool = option(
        False, "CODEC may be a program or a folder of this machine.", flag_only=True
    )
    qualities: tuple[int, ...] = option((), "Its qualities; default: those of its suite.")
    prompts: str = option("dpm+offset", "The set that rows ii and iv train.")
    seeds: int = option(
        3, "Seeds to make of every row that trains something; all finished ones count.", minimum=1
    )
    evaluate_on: str = option("full", "Sets that are measured: full or short.")
    budget: str | None = option(None, "Time to work for: 90m, 2h30m, 45s; default: to the end.")
    print_only: bool = option(False, "Print what is finished; start nothing.")
    jobs: int = option(1, "Cells at the same time; each takes its share of the cores.", minimum=1)
    data: Path | None = option(
        None, "Folder with the benchmark sets; default: the environment variable UCIP_DATA."
    )
    base: tuple[str, ...] = option((), "NAME=PATH: where a base is that is not shipped.")
    experiments: Path = option(RECIPES / "experiments.toml", "File with the groups of cells.")
    runs_dir: Path = option(Path("runs/cells"), "Folder that cells are made in.")
    results_dir: Path = option(Path("results"), "Folder with cells/ and paper.json.")


def make(cfg: Options, ledger: Ledger, listed: Container[str]) -> int:
    """Make the missing cells; returns the number of those that failed.

    Args:
        cfg: The options.
        ledger: The table's cells.
        listed: Ids of the cells of the experiments, which another command makes one by one.
    """
    if ledger.own_codec is not None:
        ledger.own_codec.check_available()
    budget = None if cfg.budget is None else read_duration(cfg.budget)
    print(f"{progress(ledger, ledger.queue())}; budget {duration(budget)}", flush=True)
    runner = Runner(
        ledger,
        RECIPES,
        cfg.runs_dir,
        data=data_root(cfg.data),
        jobs=cfg.jobs,
        command=lambda cell: command_of(cell) if cell.id in listed else command_line(),
        say=lambda line: print(line, flush=True),
    )
    failed = runner.run(budget_seconds=budget).failed
    for name, text in failed.items():
        print(f"failed    {name}: {text}")
    states = [ledger.state(cell) for cell in ledger.queue()]
    for reason in dict.fromkeys(state.reason for state in states if state.name == "waiting"):
        print(f"waiting   {reason}")
    return len(failed)


def show(cfg: Options, ledger: Ledger, codec: str) -> None:
    """Print the table and the summary of what is finished for a codec."""
    cells, stale = current(read_cells(ledger.folder), ledger)
    planned = [planned_config(cell) for cell in ledger.groups["table"].cells]
    asked = matrices(planned, codec)
    if cfg.print_only:  # also tables on other sets or of other lengths, as far as there are cells
        groups = read_experiments(cfg.experiments).values()
        planned += [planned_config(cell) for group in groups for cell in group.cells]
        asked += [
            matrix
            for matrix in matrices(planned, codec)
            if matrix not in asked and _has_rows(cells, matrix, cfg.prompts)
        ]
    paper = paper_cells(cfg.results_dir / "paper.json", codec)
    for matrix in asked:
        rows = choose_rows(cells, matrix, cfg.prompts)
        print()
        print(table_3(rows, matrix, paper=paper, planned=planned, prompts=cfg.prompts).text())
        print(summary(rows, codec, paper=paper).text(), end="")
    for name in stale:
        print(f"left out  {name}: made on another base, at another rate or by another program")


def _has_rows(cells: Sequence[Finished], matrix: Matrix, prompts: str) -> bool:
    """Whether something that was trained is finished."""
    own = (cell.config for cell in cells if belongs(cell.config, matrix))
    return any(row_of(config, prompts) not in {None, "i"} for config in own)


def chosen_qualities(cfg: Options, own: OwnCodec | None) -> tuple[int, ...]:
    """Qualities that cells are restricted to; none where they are those of the codec's suite."""
    if own is not None:
        settings = parse_settings(own.location, cfg.qualities or None)
        return tuple(one.quality for one in settings)
    if not cfg.qualities:
        return ()
    asked = {one.quality for one in parse_settings(cfg.codec, cfg.qualities)}
    suite = {one.quality for one in parse_settings(cfg.codec)}
    return () if asked == suite else tuple(asked)  # finished cells of the whole suite are found


def main(cfg: Options) -> int:
    """Make and print; returns the exit code."""
    groups = read_experiments(cfg.experiments)
    own = read_own_codec(cfg.codec, allow_command=cfg.allow_command)
    codec = cfg.codec if own is None else own.name
    qualities = chosen_qualities(cfg, own)
    cells = table_cells(
        groups,
        codec,
        prompts=cfg.prompts,
        seeds=cfg.seeds,
        evaluate_on=cfg.evaluate_on,
        qualities=qualities,
        own=own is not None,
    )
    locations = read_locations(cfg.base)
    ledger = Ledger(with_trials(cells, groups), cfg.results_dir / "cells", locations, own)
    listed = {cell.id for group in groups.values() for cell in group.cells}
    for line in borrowed_rates(cells):
        print(f"rate      {line}")
    failed = 0 if cfg.print_only else make(cfg, ledger, listed)
    show(cfg, ledger, codec)
    return EXIT_CODE_FAILED if failed else 0


if __name__ == "__main__":
    codes: list[int] = []
    code = run_recipe(lambda cfg: codes.append(main(cfg)), Options, description=__doc__ or "")
    raise SystemExit(code or sum(codes))
