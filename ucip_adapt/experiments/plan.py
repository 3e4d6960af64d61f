"""Which cells a table of Table 3's kind needs, and which finished ones still count."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ucip_adapt.codecs import all_codecs
from ucip_adapt.config import to_dict
from ucip_adapt.errors import ConfigError, unknown_name
from ucip_adapt.experiments.cells import Cell, row_of_table_3
from ucip_adapt.experiments.compare import Finished
from ucip_adapt.experiments.groups import Group, trials_of
from ucip_adapt.experiments.ledger import Ledger
from ucip_adapt.experiments.tables import row_of
from ucip_adapt.tuning.targets import TRAINABLE_SETS

__all__ = [
    "borrowed_rates",
    "current",
    "planned_config",
    "read_locations",
    "table_cells",
    "with_trials",
]


def planned_config(cell: Cell) -> dict[str, Any]:
    """A cell that is not finished, in the form that finished ones have.

    Args:
        cell: Its specification. The kind of its base is read off the base's name: the base itself
            may not be here yet.

    Example:
        >>> planned_config(Cell("webp", "everything", "ucip-tiny-noprompt-v3"))["protocol"]
        'iii'
    """
    kind = "prompt-free" if "noprompt" in (cell.base or "") else "prompted"
    row = row_of_table_3(cell.method, kind)
    return {"cell": cell.id, **to_dict(cell), "base_kind": kind, "protocol": row}


def read_locations(texts: Iterable[str]) -> dict[str, str]:
    """Where bases are that are not found by their own names.

    Args:
        texts: ``NAME=PATH`` each, the path being the folder of a base.

    Returns:
        Folders by name, for :class:`~ucip_adapt.experiments.ledger.Ledger`.

    Raises:
        ConfigError: If a text is not of that form, or there is no base in the folder.

    Example:
        >>> from ucip_adapt.assets import shipped_base_folder
        >>> list(read_locations([f"mine={shipped_base_folder('ucip-tiny')}"]))
        ['mine']
    """
    locations = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not (Path(path) / "config.json").is_file():
            raise ConfigError(f"--base {text}: write NAME=PATH, PATH being the folder of a base")
        locations[name] = path
    return locations


def table_cells(
    groups: Mapping[str, Group],
    codec: str,
    *,
    prompts: str,
    seeds: int,
    evaluate_on: str = "full",
    qualities: tuple[int, ...] = (),
    own: bool = False,
) -> list[Cell]:
    """The cells of Table 3 for a codec.

    Args:
        groups: Groups of the experiments.
        codec: The codec.
        prompts: The set that rows ii and iv train.
        seeds: Seeds 0, 1, ... of each trained row.
        evaluate_on: Sets that they are measured on.
        qualities: Of the codec, which takes them; empty is those of its suite.
        own: Whether the codec is one of the user's own.

    Returns:
        Every row with every seed. Rows that the experiments have for the codec are theirs; others
        are those of another codec, and take its rates where none were tried for this one.

    Raises:
        UnknownNameError: If there is no such codec or set of prompts.
        ConfigError: If the experiments have no such table for any codec.
    """
    if not own and codec not in all_codecs():
        raise unknown_name("codec", codec, all_codecs())
    if prompts not in TRAINABLE_SETS:
        raise unknown_name("set of prompts", prompts, TRAINABLE_SETS)
    cells = {
        cell.id: cell
        for group in groups.values()
        for cell in group.cells
        if cell.evaluate_on == evaluate_on
        and not cell.qualities
        and row_of(planned_config(cell), prompts)
    }
    # The codec with most rows shows which there are.
    rows = {name: _rows(cells.values(), name) for name in {c.codec for c in cells.values()}}
    complete = max(sorted(rows), key=lambda name: (len(rows[name]), name == "webp"), default=None)
    shown = rows[complete] if complete is not None else []
    if not any(row_of(planned_config(row), prompts) in {"ii", "iv"} for row in shown):
        raise ConfigError(
            f"the experiments have no cell of Table 3 with prompts '{prompts}' on {evaluate_on} "
            "sets: give --prompts another set, or --experiments another file"
        )
    planned = rows.get(codec, []) if not qualities else []
    there = {(row.base, row.method) for row in planned}
    missing = [row for row in shown if (row.base, row.method) not in there]
    return [
        dataclasses.replace(row, seed=seed, qualities=tuple(sorted(qualities)))
        for row in [*planned, *(_on_another_codec(row, codec, groups) for row in missing)]
        for seed in (range(seeds) if row.trained else [row.seed])
    ]


def _rows(cells: Iterable[Cell], codec: str) -> list[Cell]:
    """Cells of a codec that differ in more than their seeds, each with its lowest seed."""
    lowest: dict[Cell, Cell] = {}
    for cell in cells:
        row = dataclasses.replace(cell, seed=0)
        if cell.codec == codec and cell.seed <= lowest.get(row, cell).seed:
            lowest[row] = cell
    return list(lowest.values())


def _on_another_codec(cell: Cell, codec: str, groups: Mapping[str, Group]) -> Cell:
    """The same row for a codec of which the experiments do not have it."""
    here = dataclasses.replace(
        cell,
        codec=codec,
        also_measure=tuple(other for other in cell.also_measure if other != codec),
        rate_codec=None,
    )
    if not cell.trained or cell.learning_rate is not None or trials_of(here, groups):
        return here
    return dataclasses.replace(here, rate_codec=cell.rate_codec or cell.codec)


def borrowed_rates(cells: Iterable[Cell]) -> list[str]:
    """Say which rows take the learning rate that was best for another codec.

    Args:
        cells: Cells of one codec.

    Returns:
        A sentence for each codec that rates are taken from.

    Example:
        >>> borrowed_rates([Cell("gif", "control", "ucip-tiny-v3", rate_codec="webp")])
        ['ucip-tiny-v3 control: at the rate that was best for webp; none was tried for gif']
    """
    rows: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        if cell.rate_codec not in {None, cell.codec}:
            name = f"{cell.base} {cell.method}"
            rows.setdefault((str(cell.rate_codec), cell.codec), {})[name] = None
    return [
        f"{', '.join(names)}: at the rate that was best for {lender}; none was tried for {codec}"
        for (lender, codec), names in rows.items()
    ]


def with_trials(cells: Sequence[Cell], groups: Mapping[str, Group]) -> dict[str, Group]:
    """Groups with the cells of a table, and with those that try its rates.

    Args:
        cells: See :func:`table_cells`.
        groups: Groups of the experiments.

    Returns:
        Two groups, ``rates`` before ``table``.
    """
    trials = {
        trial.id: trial
        for cell in cells
        if cell.trained and cell.learning_rate is None
        for trial in trials_of(cell, groups)
    }
    return {
        "rates": Group("rates", "rates on validation images", 10, 10, tuple(trials.values())),
        "table": Group("table", "rows of Table 3", 50, 80, tuple(cells)),
    }


def current(cells: Iterable[Finished], ledger: Ledger) -> tuple[list[Finished], list[str]]:
    """Part finished cells that still count from those made on another base, or at another rate.

    Args:
        cells: Finished cells.
        ledger: The ledger. What it does not list, or what has a base that is not here, counts.

    Returns:
        The cells that count, and the names of the others.
    """
    known = ledger.cells()
    kept, stale = [], []
    for cell in cells:
        spec = known.get(cell.id)
        if spec is None or not _is_here(ledger, spec) or ledger.state(spec).name == "finished":
            kept.append(cell)
        else:
            stale.append(cell.id)
    return kept, stale


def _is_here(ledger: Ledger, cell: Cell) -> bool:
    try:
        return cell.base is None or bool(ledger.base(cell.base))
    except ConfigError:
        return False
