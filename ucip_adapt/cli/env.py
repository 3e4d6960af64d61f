"""Versions and hardware of this installation; put them into a bug report."""

from __future__ import annotations

import argparse
import json
import sys

from ucip_adapt.cli.table import render_table
from ucip_adapt.training.results import environment

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt env`."""
    parser.add_argument("--json", action="store_true", help="Print one JSON object, for programs.")


def run(arguments: argparse.Namespace) -> int:
    """Print what `results.json` also records; neither host name nor paths are in it."""
    import torch

    found = environment("cuda" if torch.cuda.is_available() else "cpu")  # what a run could use
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return 0
    versions: dict[str, str | None] = found.pop("versions")
    rows = [[name, version or "not installed"] for name, version in versions.items()]
    rows += [[name, "none" if value is None else str(value)] for name, value in found.items()]
    sys.stdout.write(render_table(["item", "value"], rows))
    return 0
