"""List the codecs: what quality means for each, and whether it works on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from ucip_adapt.cli.table import render_table
from ucip_adapt.codecs import Availability, CodecSpec, list_codecs

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt codecs`."""
    parser.add_argument("--json", action="store_true", help="Print one JSON list, for programs.")


def run(arguments: argparse.Namespace) -> int:
    """Print the table; a codec that does not work here is a row like any other, not an error."""
    codecs = list_codecs()
    if arguments.json:
        plain = [
            {**dataclasses.asdict(spec), "available": dataclasses.asdict(availability)}
            for spec, availability in codecs
        ]
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
    else:
        header = ["codec", "knob", "qualities", "range", "like the paper's", "here"]
        sys.stdout.write(render_table(header, [_row(*entry) for entry in codecs]))
    return 0


def _row(spec: CodecSpec, availability: Availability) -> list[str]:
    low, high = spec.quality_range
    return [
        spec.name,
        spec.parameter,
        " ".join(map(str, spec.qualities)),
        f"{low} to {high}",
        "yes" if spec.faithful else "stand-in",
        _state(availability),
    ]


def _state(availability: Availability) -> str:
    if availability.ok:
        return f"yes: {availability.version}" if availability.version else "yes"
    install = f"; {availability.install}" if availability.install else ""
    return f"no: {availability.reason}{install}"
