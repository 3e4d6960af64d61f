"""The file of experiments: groups of cells, written as matrices.

A group is a table of keys of :class:`~ucip_adapt.experiments.cells.Cell`. A list stands for one
cell each, several lists for all combinations; rows under ``matrix`` change keys for a part of the
group:

>>> text = '''
... [defaults]
... base = "ucip-tiny-v3"
... [groups.table3-webp]
... priority = 20
... codec = "webp"
... learning_rate = 1e-2
... matrix = [{ method = "base" }, { method = ["dpm", "everything"], seed = [0, 1] }]
... '''
>>> [cell.id for cell in read_groups(text, "here")["table3-webp"].cells][:2]
['ucip-tiny-v3_webp_base_full', 'ucip-tiny-v3_webp_dpm_full_rate-0.01_seed0']
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ucip_adapt.errors import ConfigError, unknown_name
from ucip_adapt.experiments.cells import Cell, make_cell

__all__ = ["Group", "read_experiments", "read_groups", "trials_of"]

_LISTS = ("qualities", "also_measure")
_OWN_KEYS = {"priority": 50, "repeats_priority": 80, "text": "", "matrix": [{}]}


@dataclass(frozen=True)
class Group:
    """Cells that one table, or one choice of rates, is made of.

    Attributes:
        name: Its name.
        text: One line on what it is for.
        priority: Of cells with seed 0; the lowest number goes first.
        repeats_priority: Of cells with other seeds.
        cells: Its cells, in the order of the file.
    """

    name: str
    text: str
    priority: int
    repeats_priority: int
    cells: tuple[Cell, ...]

    def priority_of(self, cell: Cell) -> int:
        """When a cell of the group is to be made."""
        return self.repeats_priority if cell.seed else self.priority


def read_experiments(path: str | Path) -> dict[str, Group]:
    """Read the groups of a file.

    Args:
        path: The TOML file.

    Returns:
        Groups by name, in the order of the file.

    Raises:
        ConfigError: If it cannot be read, holds an unknown key, name or value, or asks for the best
            rate of something that no rate is tried for.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the experiments {path}: {error}") from error
    return read_groups(text, str(path))


def read_groups(text: str, source: str) -> dict[str, Group]:
    """As :func:`read_experiments`, from the text itself.

    Args:
        text: TOML.
        source: What messages call it.

    Raises:
        ConfigError: As there.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not valid TOML: {error}") from error
    for key in table:
        if key not in {"defaults", "groups"}:
            raise unknown_name(f"key of {source}:", key, ("defaults", "groups"))
    defaults = _table(table.get("defaults", {}), f"{source}: defaults", "[defaults]")
    named = _table(table.get("groups", {}), f"{source}: groups", "[groups.NAME]")
    groups = {
        name: _read_group(
            name,
            _table(values, f"{source}: groups.{name}", f"[groups.{name}]"),
            defaults,
            f"{source}: {name}",
        )
        for name, values in named.items()
    }
    if not any(group.cells for group in groups.values()):
        raise ConfigError(f"{source} has no cell: it needs a [groups.NAME] with codec and method")
    _check_rates(groups, source)
    return groups


def _table(value: object, where: str, header: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a table, such as below {header}, got {value!r}")
    return value


def _read_group(
    name: str, values: Mapping[str, Any], defaults: Mapping[str, Any], source: str
) -> Group:
    own = {key: values.get(key, default) for key, default in _OWN_KEYS.items()}
    shared = {key: value for key, value in values.items() if key not in _OWN_KEYS}
    for key, default in _OWN_KEYS.items():
        if type(own[key]) is not type(default):
            kind = {int: "a whole number", str: "a text", list: "a list of tables"}[type(default)]
            raise ConfigError(f"{source}: {key}: expected {kind}, got {own[key]!r}")
    cells: dict[str, Cell] = {}
    for number, row in enumerate(own["matrix"], 1):
        if not isinstance(row, Mapping):
            raise ConfigError(f"{source}: matrix: expected tables, got {row!r}")
        where = f"{source}, row {number} of matrix" if "matrix" in values else source
        for combination in _product({**defaults, **shared, **row}, where):
            cell = make_cell(combination, where)
            cells[cell.id] = cell
    return Group(name, own["text"], own["priority"], own["repeats_priority"], tuple(cells.values()))


def _product(keys: Mapping[str, Any], source: str) -> Iterator[dict[str, Any]]:
    choices = []
    for key, value in keys.items():
        alternatives = value if isinstance(value, list) and key not in _LISTS else [value]
        if not alternatives:
            raise ConfigError(f"{source}: {key} is an empty list")
        choices.append([(key, alternative) for alternative in alternatives])
    for combination in itertools.product(*choices):
        yield dict(combination)


def trials_of(cell: Cell, groups: Mapping[str, Group]) -> list[Cell]:
    """The cells that try rates for another one: same base, codec and method.

    Args:
        cell: A cell that takes the best rate.
        groups: All groups.

    Returns:
        Cells with a rate of their own that are measured on the validation images alone.
    """
    wanted = (cell.base, cell.rate_codec or cell.codec, cell.method)
    found = {
        one.id: one
        for group in groups.values()
        for one in group.cells
        if one.trial and (one.base, one.codec, one.method) == wanted
    }
    return list(found.values())


def _check_rates(groups: Mapping[str, Group], source: str) -> None:
    """Rates can be compared only where nothing else differs."""
    for group in groups.values():
        for cell in group.cells:
            if not cell.trained or cell.learning_rate is not None:
                continue
            trials = trials_of(cell, groups)
            if not trials:
                raise ConfigError(
                    f"{source}: {group.name}: {cell.id} takes the best rate, but no group tries "
                    f"rates of {cell.method} on {cell.base} for {cell.rate_codec or cell.codec}: "
                    'give learning_rate, or add a group with evaluate_on = "validation"'
                )
            alike = {dataclasses.replace(trial, learning_rate=1.0, seed=0) for trial in trials}
            if len(alike) > 1:
                raise ConfigError(
                    f"{source}: the rates of {cell.method} on {cell.base} for {cell.codec} are "
                    f"tried in different ways: {', '.join(sorted(one.id for one in alike))}"
                )
