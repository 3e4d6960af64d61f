"""What a run leaves behind, as folders that the Hub and PEFT understand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ucip_adapt.hub.cards import base_card, weights_licence
from ucip_adapt.models import UCIP
from ucip_adapt.training.atomic import write_atomically
from ucip_adapt.training.results import write_results

__all__ = ["publish_base"]


def publish_base(base: UCIP, folder: Path, record: Mapping[str, Any], *, name: str) -> None:
    """Write a base with its card, licence and results.

    Args:
        base: The network.
        folder: Output folder; files of an earlier run are replaced one by one.
        record: Results in the schema of :mod:`ucip_adapt.training.results`.
        name: The base's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    write_results(results, record)
    write_atomically(folder / "README.md", base_card(name, base.config, record).encode())
    write_atomically(folder / "LICENSE", weights_licence(record["config"]).encode())
    base.save_pretrained(folder)
