"""What is done and what is missing: groups of cells against the folder of finished ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from ucip_adapt.errors import ConfigError, UcipError, unknown_name
from ucip_adapt.experiments.cells import Cell
from ucip_adapt.experiments.groups import Group, trials_of
from ucip_adapt.experiments.own_codec import OwnCodec
from ucip_adapt.training.results import ResultsError, read_results

__all__ = ["BaseFacts", "Ledger", "State", "facts_of_base"]


@dataclass(frozen=True)
class BaseFacts:
    """What the ledger has to know of a base.

    Attributes:
        location: What recipes are told: a shipped name, a folder or a Hub repository.
        kind: ``"prompted"`` or ``"prompt-free"``.
        prompt: Its prompt design.
        fingerprint: Its identity.
        total: Number of its parameters.
    """

    location: str
    kind: str
    prompt: str
    fingerprint: str
    total: int


def facts_of_base(location: str) -> BaseFacts:
    """Load a base once and look at it.

    Args:
        location: A shipped name, a folder or a Hub repository.

    Raises:
        UcipError: If there is no such base.

    Example:
        >>> facts_of_base("ucip-tiny-noprompt").kind
        'prompt-free'
    """
    from ucip_adapt.models import UCIP  # here: reading a ledger without bases needs no torch
    from ucip_adapt.tuning.protocols import base_kind

    base = UCIP.from_pretrained(location)
    return BaseFacts(
        location, base_kind(base), base.config.prompt, base.fingerprint, base.num_parameters()
    )


@dataclass(frozen=True)
class State:
    """Where a cell stands.

    Attributes:
        name: ``"finished"``; ``"ready"`` to be made; ``"waiting"`` for something else.
        reason: What it waits for, or why a file of its name does not count.
        learning_rate: The rate it is to be made at; None where nothing is trained.
    """

    name: Literal["finished", "ready", "waiting"]
    reason: str = ""
    learning_rate: float | None = None


@dataclass
class Ledger:
    """Groups of cells, and the files of those that are finished.

    Attributes:
        groups: Groups by name.
        folder: Folder of the finished cells, one ``<cell>.json`` each.
        locations: Where bases are that are not found by their own names.
        own_codec: A codec of the user's own that cells are for.
        look: Looks at a base; a test may replace it.

    Example:
        >>> from ucip_adapt.experiments.groups import read_groups
        >>> text = 'groups.g = { codec = "webp", method = "bicubic" }'
        >>> ledger = Ledger(read_groups(text, "here"), Path("no/such/folder"))
        >>> [(cell.id, ledger.state(cell).name) for cell in ledger.queue()]
        [('webp_bicubic_full', 'ready')]
    """

    groups: Mapping[str, Group]
    folder: Path
    locations: Mapping[str, str] = field(default_factory=dict)
    own_codec: OwnCodec | None = None
    look: Callable[[str], BaseFacts] = facts_of_base
    _bases: dict[str, BaseFacts | str] = field(default_factory=dict, init=False, repr=False)
    _read: dict[Path, tuple[int, dict[str, Any]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def cells(self) -> dict[str, Cell]:
        """All cells by id; one that is in several groups is there once."""
        return {cell.id: cell for group in self.groups.values() for cell in group.cells}

    def groups_of(self, cell: Cell) -> list[str]:
        """Names of the groups that a cell is in."""
        return [name for name, group in self.groups.items() if cell in group.cells]

    def queue(self, *, only: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> list[Cell]:
        """Cells in the order in which they are to be made, finished ones among them.

        Args:
            only: Ids; empty means all.
            groups: Names of groups; empty means all.

        Raises:
            UnknownNameError: If there is no such cell or group.
            ConfigError: If a cell is in none of the groups.
        """
        for name in groups:
            if name not in self.groups:
                raise unknown_name("group", name, self.groups)
        known = self.cells()
        for name in only:
            if name not in known:
                raise unknown_name("cell", name, known)
        first: dict[str, int] = {}
        for name, group in self.groups.items():
            for cell in group.cells if not groups or name in groups else ():
                priority = group.priority_of(cell)
                first[cell.id] = min(priority, first.get(cell.id, priority))
        for name in only:
            if name not in first:
                raise ConfigError(
                    f"cell {name} is in none of the groups {', '.join(groups)}; it is in "
                    f"{', '.join(self.groups_of(known[name]))}"
                )
        ordered = sorted(first, key=first.__getitem__)  # stable: the file's order within a priority
        return [known[name] for name in ordered if not only or name in only]

    def base(self, name: str) -> BaseFacts:
        """Facts of a base.

        Raises:
            ConfigError: If it is not here.
        """
        if name not in self._bases:
            try:
                self._bases[name] = self.look(self.locations.get(name, name))
            except UcipError as error:
                self._bases[name] = str(error)
        facts = self._bases[name]
        if isinstance(facts, str):
            raise ConfigError(facts)
        return facts

    def codec_of(self, cell: Cell) -> OwnCodec | None:
        """The user's own codec where a cell is for it."""
        own = self.own_codec
        return own if own is not None and own.name == cell.codec else None

    def path(self, cell: Cell) -> Path:
        """File of a finished cell."""
        return self.folder / f"{cell.id}.json"

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """What a finished cell's file holds; None without one.

        Raises:
            ResultsError: If it cannot be read, or lacks what is used of it.
        """
        path = self.path(cell)
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if self._read.get(path, (None,))[0] != changed:
            record = read_results(path)
            if record.get("kind") != "cell":
                raise ResultsError(f"{path} is no cell: its kind is '{record.get('kind')}'")
            _check_record(record, cell, path)
            self._read[path] = (changed, record)
        return self._read[path][1]

    def state(self, cell: Cell) -> State:
        """Whether a cell is finished, can be made, or has to wait.

        Raises:
            ResultsError: If a cell's file cannot be read.
        """
        fingerprint = None
        if cell.base is not None:
            try:
                fingerprint = self.base(cell.base).fingerprint
            except ConfigError:
                return State("waiting", f"base {cell.base} is not here")
        rate, missing = self._rate(cell)
        record = self.record(cell)
        if record is None:
            return State("waiting", missing) if missing else State("ready", "", rate)
        made_on = record["parameters"].get("base_fingerprint")
        made_at = record["config"].get("learning_rate")
        reason = ""
        if made_on != fingerprint:
            reason = f"its file was made on another {cell.base} ({str(made_on)[:12]})"
        elif cell.trained and not missing and made_at != rate:
            made = "no rate" if made_at is None else f"rate {made_at:g}"
            reason = f"its file was made at {made}, the best is now {rate:g}"
        own = self.codec_of(cell)
        if not reason and own and own.digest not in {None, record["config"].get("codec_digest")}:
            reason = f"its file was made with another program, or other words, as {cell.codec}"
        if not reason:
            return State("finished", "", made_at)
        return State("waiting", f"{reason}; {missing}") if missing else State("ready", reason, rate)

    def _rate(self, cell: Cell) -> tuple[float | None, str]:
        """The rate of a cell, and what it waits for where that is not known yet."""
        if not cell.trained or cell.learning_rate is not None:
            return cell.learning_rate, ""
        gains = self.rates_tried(cell)
        missing = sum(gain is None for gain in gains.values())
        if missing:
            return None, f"waits for {missing} of {len(gains)} cells that try its rate"
        # The lower of two equal ones.
        best = max(sorted(gains), key=lambda rate: gains[rate] or 0.0)
        return best, ""

    def rates_tried(self, cell: Cell) -> dict[float, float | None]:
        """Mean gain on the validation images over seeds, by the rates tried for a cell, in dB.

        Args:
            cell: A cell that takes the best rate.

        Returns:
            None for a rate as long as one of its cells is not finished.
        """
        trials = trials_of(cell, self.groups)
        gains: dict[float, float | None] = {}
        for rate in sorted({trial.learning_rate or 0.0 for trial in trials}):
            own = [trial for trial in trials if trial.learning_rate == rate]
            values = [
                (self.record(trial) or {})["scores"]["validation_gain_db"]
                for trial in own
                if self.state(trial).name == "finished"
            ]
            gains[rate] = fmean(values) if len(values) == len(own) else None
        return gains

    def counts(self) -> dict[str, tuple[int, int]]:
        """Finished cells and all cells, by group."""
        return {
            name: (
                sum(self.state(cell).name == "finished" for cell in group.cells),
                len(group.cells),
            )
            for name, group in self.groups.items()
        }

    def estimate(self, cell: Cell) -> float | None:
        """Seconds that a cell will take, from finished ones like it; None where there is none.

        Cells of the same method on the same sets count, then those of the same recipe.
        """
        from ucip_adapt.experiments.cells import read_method

        def work(one: Cell) -> float:
            return one.max_train_steps * one.train_batch_size * one.patch_size**2

        def kind(one: Cell) -> tuple[object, ...]:
            recipe = one.method if not one.trained else read_method(one.method)[0].recipe
            return recipe, one.evaluate_on, len(one.also_measure), len(one.qualities)

        done = [(one, self.record(one)) for one in self.cells().values()]
        for alike in (lambda one: one.method == cell.method, lambda one: True):
            times = [
                record["seconds"]["training"] * work(cell) / work(one)
                + record["seconds"]["evaluation"]
                for one, record in done
                if record is not None and alike(one) and kind(one) == kind(cell)
            ]
            if times:
                return float(median(times))
        return None


def _check_record(record: Mapping[str, Any], cell: Cell, path: Path) -> None:
    """Refuse the file of a cell that lacks what a ledger uses, whatever else it holds."""
    remedy = "delete the file, and the cell is made again"
    for table in ("config", "parameters", "scores", "seconds"):
        if not isinstance(record.get(table), dict):
            raise ResultsError(f"{path}: '{table}' is missing or no table; {remedy}")
    needed = [("seconds", "training"), ("seconds", "evaluation")]
    if cell.trial:
        needed.append(("scores", "validation_gain_db"))
    if record["config"].get("learning_rate") is not None:
        needed.append(("config", "learning_rate"))
    for table, key in needed:
        if type(record[table].get(key)) not in {int, float}:
            raise ResultsError(f"{path}: '{table}.{key}' is missing or no number; {remedy}")


def read_marker(path: Path) -> dict[str, Any] | None:
    """What a folder of a cell says of itself; None if it says nothing that can be read."""
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None
