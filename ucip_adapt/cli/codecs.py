"""List the codecs: what quality means for each, and whether it works on this machine."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from ucip_adapt.cli.table import render_table
from ucip_adapt.codecs import Availability, Codec, CodecSpec, all_codecs, get_codec, list_codecs
from ucip_adapt.codecs.check import Check, check_codec
from ucip_adapt.errors import ConfigError

__all__ = ["add_arguments", "run"]

_EXIT_CODE_FAILED_CHECK = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt codecs`."""
    parser.add_argument("--json", action="store_true", help="Print one JSON list, for programs.")
    parser.add_argument(
        "--check",
        nargs="*",
        action="extend",
        metavar="NAME",
        help="Code an embedded picture at every quality: the same result twice, and rate and PSNR "
        "that rise. Without names, with all codecs that work here.",
    )
    parser.add_argument(
        "--qualities",
        nargs="+",
        action="extend",
        type=int,
        default=[],
        metavar="Q",
        help="Qualities to check, from the worst picture to the best; default: the codec's own.",
    )
    parser.add_argument(
        "--allow-command",
        action="store_true",
        help="Let NAME be a program of yours: 'command:cwebp -q {q} {in} -o {out}'.",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the table; a codec that does not work here is a row like any other, not an error."""
    if arguments.check is None:
        if arguments.qualities or arguments.allow_command:
            raise ConfigError("--qualities and --allow-command belong to --check NAME")
        _print_table(as_json=arguments.json)
        return 0
    names: list[str] = arguments.check
    codecs = [get_codec(name, allow_command=arguments.allow_command) for name in names]
    return _check(codecs or list(all_codecs().values()), arguments, named=bool(names))


def _print_table(*, as_json: bool) -> None:
    codecs = list_codecs()
    if as_json:
        _print_json([_plain(*entry) for entry in codecs])
        return
    header = ["codec", "knob", "qualities", "range", "stand-in", "here"]
    sys.stdout.write(render_table(header, [_row(*entry) for entry in codecs]))


def _plain(spec: CodecSpec, availability: Availability) -> dict[str, Any]:
    return {
        "name": spec.name,
        "family": spec.family,
        "parameter": spec.parameter,
        "qualities": list(spec.qualities),
        "available": availability.ok,
        "reason": availability.reason,
        "install": availability.install,
        "version": availability.version,
        "faithful": spec.faithful,
    }


def _print_json(objects: Sequence[dict[str, Any]]) -> None:
    sys.stdout.write(json.dumps(objects, indent=2, allow_nan=False) + "\n")


def _row(spec: CodecSpec, availability: Availability) -> list[str]:
    low, high = spec.quality_range
    return [
        spec.name,
        spec.parameter,
        " ".join(map(str, spec.qualities)),
        f"{low} to {high}",
        "no" if spec.faithful else "yes",
        _state(availability),
    ]


def _state(availability: Availability) -> str:
    if availability.ok:
        return f"yes: {availability.version}" if availability.version else "yes"
    install = f"; {availability.install}" if availability.install else ""
    return f"no: {availability.reason}{install}"


def _check(codecs: Sequence[Codec], arguments: argparse.Namespace, *, named: bool) -> int:
    rows: list[list[str]] = []
    plain: list[dict[str, Any]] = []
    failed = False
    for codec in codecs:
        availability = codec.available()
        found = check_codec(codec, arguments.qualities) if availability.ok else None
        failed |= named if found is None else not found.ok
        rows += _check_rows(codec.spec, found, availability)
        entry = {**_plain(codec.spec, availability), "check": found and _plain_check(found)}
        plain.append(entry)
    if arguments.json:
        _print_json(plain)
    else:
        header = ["codec", "knob", "bpp", "PSNR dB", "encode ms", "result"]
        sys.stdout.write(render_table(header, rows))
    return _EXIT_CODE_FAILED_CHECK if failed else 0


def _plain_check(check: Check) -> dict[str, Any]:
    return {
        "ok": check.ok,
        "problem": check.problem,
        "points": [
            # JSON has no infinity: a picture that came back unchanged has no PSNR.
            {**vars(point), "psnr_db": point.psnr_db if math.isfinite(point.psnr_db) else None}
            for point in check.points
        ],
    }


def _check_rows(
    spec: CodecSpec, check: Check | None, availability: Availability
) -> list[list[str]]:
    if check is None:
        return [[spec.name, "", "", "", "", f"not here: {availability.reason}"]]
    result = "ok" if check.ok else f"FAILED: {check.problem}"
    rows = [
        [
            spec.name,
            f"{spec.parameter} {point.quality}",
            f"{point.bpp:.3f}",
            f"{point.psnr_db:.2f}",
            "" if point.seconds is None else f"{1000 * point.seconds:.1f}",
            "",
        ]
        for point in check.points
    ] or [[spec.name, "", "", "", "", ""]]
    rows[-1][-1] = result
    return rows
