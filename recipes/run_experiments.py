"""Make the missing cells of the experiments, for as long as there is time.

    python recipes/run_experiments.py --list
    python recipes/run_experiments.py --budget 90m --jobs 2 --data DATA
    python recipes/run_experiments.py --only ucip-tiny-v3_webp_dpm_full_seed0 --data DATA

``recipes/experiments.toml`` says which cells there are. Each is trained and measured by the recipes
beside this one, in runs/cells/<cell>, and ends as results/cells/<cell>.json. A run that is stopped
(Ctrl-C, SIGTERM, the end of its budget) goes on where it was when it is started again. The exit
code is 3 if a cell failed; the others were made nevertheless.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ucip_adapt.config import option, run_recipe
from ucip_adapt.data.benchmarks import data_root
from ucip_adapt.experiments.groups import read_experiments
from ucip_adapt.experiments.ledger import Ledger
from ucip_adapt.experiments.plan import read_locations
from ucip_adapt.experiments.runner import Runner
from ucip_adapt.experiments.status import duration, listing, read_duration, summary, waiting

RECIPES = Path(__file__).parent
EXIT_CODE_FAILED = 3


@dataclass(frozen=True)
class Options:
    """Options of the recipe."""

    experiments: Path = option(RECIPES / "experiments.toml", "File with the groups of cells.")
    budget: str | None = option(None, "Time to work for: 90m, 2h30m, 45s; default: to the end.")
    only: tuple[str, ...] = option((), "Only these cells, by their names.")
    group: tuple[str, ...] = option((), "Only cells of these groups.")
    jobs: int = option(1, "Cells at the same time; each takes its share of the cores.", minimum=1)
    list: bool = option(False, "Print what is done and what is missing, and stop.")
    dry_run: bool = option(False, "The same.")
    data: Path | None = option(
        None, "Folder with the benchmark sets; default: the environment variable UCIP_DATA."
    )
    base: tuple[str, ...] = option((), "NAME=PATH: where a base is that is not shipped.")
    runs_dir: Path = option(Path("runs/cells"), "Folder that cells are made in.")
    results_dir: Path = option(Path("results/cells"), "Folder for finished cells.")


def main(cfg: Options) -> int:
    """Make cells; returns the exit code."""
    groups = read_experiments(cfg.experiments)
    ledger = Ledger(groups, cfg.results_dir, read_locations(cfg.base))
    budget = None if cfg.budget is None else read_duration(cfg.budget)
    cells = ledger.queue(only=cfg.only, groups=cfg.group)
    if cfg.list or cfg.dry_run:
        print("\n".join(listing(ledger, cells, cfg.group)))
        return 0
    root = data_root(cfg.data)
    runner = Runner(
        ledger,
        RECIPES,
        cfg.runs_dir,
        data=root,
        jobs=cfg.jobs,
        say=lambda line: print(line, flush=True),
    )
    print(f"{summary(ledger, cells)}; budget {duration(budget)}", flush=True)
    report = runner.run(budget_seconds=budget, only=cfg.only, groups=cfg.group)
    print(
        f"made {len(report.finished)}, failed {len(report.failed)}, stopped "
        f"{len(report.stopped)}; {summary(ledger, cells)}"
    )
    for line in waiting(ledger, cells):
        print(line)
    for name, text in report.failed.items():
        print(f"failed    {name}: {text}")
    return EXIT_CODE_FAILED if report.failed else 0


if __name__ == "__main__":
    codes: list[int] = []
    code = run_recipe(lambda cfg: codes.append(main(cfg)), Options, description=__doc__ or "")
    raise SystemExit(code or sum(codes))
