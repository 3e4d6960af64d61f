"""What is done and what is missing, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ucip_adapt.errors import ConfigError
from ucip_adapt.experiments.cells import Cell
from ucip_adapt.experiments.ledger import Ledger

__all__ = ["duration", "listing", "read_duration", "summary", "waiting"]

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def read_duration(text: str) -> float:
    """Read a time such as ``90m``.

    Args:
        text: Hours, minutes and seconds, each a whole number with its letter.

    Returns:
        Seconds.

    Raises:
        ConfigError: If it is not of this form, or no time at all.

    Example:
        >>> read_duration("2h30m")
        9000.0
    """
    match = _DURATION.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise ConfigError(f"'{text}' is not a time: write 90m, 2h30m or 45s")
    return float(total)


def duration(seconds: float | None) -> str:
    """Show a time, to a minute where it is long.

    Example:
        >>> duration(9010), duration(75), duration(None)
        ('2h30m', '1m15s', 'without end')
    """
    if seconds is None:
        return "without end"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def summary(ledger: Ledger, cells: Sequence[Cell]) -> str:
    """One phrase: how many cells are finished, and the time that the others will take.

    Args:
        ledger: The ledger.
        cells: The cells that are asked about.

    Example:
        >>> from pathlib import Path
        >>> from ucip_adapt.experiments.groups import read_groups
        >>> text = 'groups.g = { codec = "webp", method = "bicubic" }'
        >>> ledger = Ledger(read_groups(text, "here"), Path("no/such/folder"))
        >>> summary(ledger, ledger.queue())
        '0 of 1 cells finished'
    """
    missing = [cell for cell in cells if ledger.state(cell).name != "finished"]
    text = f"{len(cells) - len(missing)} of {len(cells)} cells finished"
    times = [ledger.estimate(cell) for cell in missing]
    known = [time for time in times if time is not None]
    if known:
        text += (
            f", about {duration(sum(known))} of work for {len(known)} of the {len(missing)} left"
        )
    return text


def waiting(ledger: Ledger, cells: Sequence[Cell]) -> list[str]:
    """Lines on why cells can not be made now, one for each reason.

    Args:
        ledger: The ledger.
        cells: The cells that are asked about.
    """
    states = [ledger.state(cell) for cell in cells]
    reasons = Counter(state.reason for state in states if state.name == "waiting")
    return [f"waiting   {count} cells: {reason}" for reason, count in reasons.items()]


def listing(ledger: Ledger, cells: Sequence[Cell], groups: Sequence[str] = ()) -> list[str]:
    """Lines on every group and on every cell that is missing, in the order they will be made.

    Args:
        ledger: The ledger.
        cells: The cells that are asked about.
        groups: The groups to count; empty means all that one of the cells is in.
    """
    lines = []
    names = set(groups) or {group for cell in cells for group in ledger.groups_of(cell)}
    for name, (finished, count) in ledger.counts().items():
        if name in names:
            lines.append(
                f"{name}: {finished} of {count} cells  {ledger.groups[name].text}".rstrip()
            )
    for cell in cells:
        state = ledger.state(cell)
        if state.name == "finished":
            continue
        time = ledger.estimate(cell)
        took = "" if time is None else f", about {duration(time)}"
        rate = "" if state.learning_rate is None else f", rate {state.learning_rate:g}"
        reason = f": {state.reason}" if state.reason else ""
        lines.append(f"  {state.name:<8} {cell.id}{rate}{took}{reason}")
    return [*lines, summary(ledger, cells)]
