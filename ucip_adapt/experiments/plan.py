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

__all__ = ["current", "planned_config", "read_locations", "table_cells", "with_trials"]


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
    groups: Mapping[str, Group], codec: str, *, prompts: str, seeds: int, evaluate_on: str = "full"
) -> list[Cell]:
    """The cells of Table 3 for a codec.

    Args:
        groups: Groups of the experiments.
        codec: The codec.
        prompts: The set that rows ii and iv train.
        seeds: Seeds 0, 1, ... of each trained row.
        evaluate_on: Sets that they are measured on.

    Returns:
        The experiments' own cells for it. A codec that they do not have gets those of another one,
        with the rates that were chosen there: they are steps of the same networks.

    Raises:
        UnknownNameError: If there is no such codec.
        ConfigError: If the experiments have no such table for any codec.
    """
    if codec not in all_codecs():
        raise unknown_name("codec", codec, all_codecs())
    cells = {
        cell.id: cell
        for group in groups.values()
        for cell in group.cells
        if cell.evaluate_on == evaluate_on
        and not cell.qualities
        and cell.seed < seeds
        and row_of(planned_config(cell), prompts)
    }
    own = [cell for cell in cells.values() if cell.codec == codec]
    if own:
        return own
    others = list(dict.fromkeys(cell.codec for cell in cells.values()))
    if not others:
        raise ConfigError(
            f"the experiments have no cell of Table 3 with prompts '{prompts}' on {evaluate_on} "
            "sets: give --prompts another set, or --experiments another file"
        )
    return [
        dataclasses.replace(
            cell,
            codec=codec,
            also_measure=tuple(other for other in cell.also_measure if other != codec),
            rate_codec=(cell.rate_codec or cell.codec)
            if cell.trained and cell.learning_rate is None
            else None,
        )
        for cell in cells.values()
        if cell.codec == others[0]
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
