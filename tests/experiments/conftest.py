"""Ledgers for tests: a base that need not be loaded, and finished cells written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ucip_adapt.errors import ConfigError
from ucip_adapt.experiments.groups import read_groups
from ucip_adapt.experiments.ledger import BaseFacts, Ledger
from ucip_adapt.training.results import write_results

BASES = {
    "tiny": BaseFacts("tiny", "prompted", "dynamic", "a" * 64, 1000),
    "plain": BaseFacts("plain", "prompt-free", "none", "b" * 64, 900),
}


def _look(location: str) -> BaseFacts:
    """Facts of one of two bases."""
    if location not in BASES:
        raise ConfigError(f"no base '{location}'")
    return BASES[location]


def _ledger_of(text: str, folder: Path) -> Ledger:
    return Ledger(read_groups(text, "here.toml"), folder, look=_look)


def _finish(ledger: Ledger, name: str, **changes: Any) -> None:
    """Write the file of a cell."""
    cell = ledger.cells()[name]
    facts = BASES.get(cell.base or "")
    values = {
        "gain": 0.1,
        "rate": cell.learning_rate,
        "fingerprint": facts.fingerprint if facts else None,
        "training": 100.0,
        "evaluation": 10.0,
        **changes,
    }
    ledger.folder.mkdir(parents=True, exist_ok=True)
    record = {
        "kind": "cell",
        "config": {"cell": name, "learning_rate": values["rate"]},
        "seconds": {"training": values["training"], "evaluation": values["evaluation"]},
        "parameters": {"base_fingerprint": values["fingerprint"]},
        "scores": {"rows": [], "validation_gain_db": values["gain"]},
    }
    write_results(ledger.path(cell), record)


@pytest.fixture
def ledger_of() -> Callable[..., Ledger]:
    """``ledger_of(text, folder)``: a ledger of the groups in a TOML text."""
    return _ledger_of


@pytest.fixture
def finish() -> Callable[..., None]:
    """``finish(ledger, name, gain=0.2)`` writes the file of a cell."""
    return _finish
