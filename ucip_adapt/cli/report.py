"""Show all results on one HTML page that needs nothing else: tables, plots, pictures, provenance.

Exit code 0; 3 if the page was written but some files could not be shown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

__all__ = ["EXIT_INCOMPLETE", "add_arguments", "run"]

EXIT_INCOMPLETE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt report`."""
    parser.add_argument(
        "folder", type=Path, metavar="RESULTS", help="Folder of JSON files, with all below it."
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.html", help="The page; it is replaced."
    )
    parser.add_argument(
        "--pictures",
        metavar="FOLDER",
        help="Pictures to show: a folder, in which CODEC-QUALITY.png form a grid, or 'make' to "
        "damage an embedded image and restore it with base and adapter.",
    )
    parser.add_argument(
        "--adapters",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="Adapters to make pictures with: names or folders; default: all shipped ones.",
    )
    parser.add_argument("--title", default="Results of ucip_adapt", help="Title of the page.")


def run(arguments: argparse.Namespace) -> int:
    """Read the files, write the page, name what could not be shown."""
    from ucip_adapt.report import build_report

    report = build_report(
        arguments.folder,
        arguments.out,
        pictures=arguments.pictures,
        adapters=arguments.adapters,
        title=arguments.title,
    )
    for problem in report.problems:
        sys.stderr.write(f"not shown: {problem.name}: {problem.reason}\n")
    sys.stdout.write(
        f"wrote {report.path}: {report.files} files, {report.sections} sections, "
        f"{report.num_bytes:,} bytes\n"
    )
    return EXIT_INCOMPLETE if report.problems else 0
