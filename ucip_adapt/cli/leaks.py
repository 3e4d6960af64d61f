"""Find test pictures in training folders: equal, resized, cropped or mirrored.

Exit code 1 if any is found, so that a script stops; 3 if none is found but files were unreadable;
0 if all is well.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ucip_adapt.cli.table import render_table
from ucip_adapt.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ucip_adapt.leaks import Leak
    from ucip_adapt.leaks.pictures import Picture

__all__ = ["EXIT_LEAKS", "EXIT_UNREADABLE", "add_arguments", "run"]

EXIT_LEAKS = 1
EXIT_UNREADABLE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt leaks`."""
    folders = "Folders, searched with all below them; 'embedded' (training) and 'GB82-val' (test) "
    parser.add_argument(
        "--train",
        nargs="+",
        action="extend",
        required=True,
        metavar="FOLDER",
        help=folders + "are inside the package; names under DATA/train (CID22) work with --data.",
    )
    parser.add_argument(
        "--test",
        nargs="+",
        action="extend",
        required=True,
        metavar="FOLDER",
        help=folders + "are inside the package; Set5, Set14, ... work with --data.",
    )
    parser.add_argument("--data", type=Path, metavar="PATH", help="Data root; default: UCIP_DATA.")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="Write a report.")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.6,
        metavar="FLOAT",
        help="Correlation of the aligned pictures from which on a pair is reported, if their "
        "perceptual hashes agree as well [default: 0.6].",
    )
    parser.add_argument("--quiet", action="store_true", help="No progress bar.")


def run(arguments: argparse.Namespace) -> int:
    """Search, print the pairs, write the report."""
    from ucip_adapt.leaks import find_leaks, write_report
    from ucip_adapt.leaks.search import require_imagehash

    require_imagehash()
    started, cpu_started = time.perf_counter(), time.process_time()
    root = _data_root(arguments.data)
    pictures: dict[str, list[Picture]] = {}
    counts: dict[str, dict[str, int]] = {}
    unreadable: list[tuple[str, str]] = []
    for side in ("train", "test"):
        pictures[side], counts[side], bad = _read(getattr(arguments, side), root, side)
        unreadable += bad
    report = find_leaks(
        pictures["train"],
        pictures["test"],
        threshold=arguments.threshold,
        progress=not arguments.quiet,
    )
    seconds = {
        "wall": round(time.perf_counter() - started, 1),
        "cpu": round(time.process_time() - cpu_started, 1),
    }
    if arguments.out is not None:
        write_report(
            arguments.out,
            report,
            command=_command(arguments),
            counts=counts,
            unreadable=unreadable,
            threshold=arguments.threshold,
            seconds=seconds,
        )
    for name, reason in unreadable:
        sys.stderr.write(f"not read: {name}: {reason}\n")
    if report.leaks:
        header = ["test", "train", "kind", "correlation", "hash bits off", "zoom"]
        sys.stdout.write(render_table(header, [_row(leak) for leak in report.leaks]))
    sys.stdout.write(
        f"{len(report.leaks)} leaks among {len(pictures['train'])} training and "
        f"{len(pictures['test'])} test pictures, "
        f"{seconds['wall']:.0f} s ({seconds['cpu']:.0f} s of processor time)\n"
    )
    return EXIT_LEAKS if report.leaks else EXIT_UNREADABLE if unreadable else 0


def _row(leak: Leak) -> list[str]:
    kind = f"{leak.kind}, mirrored" if leak.mirrored else leak.kind
    return [
        leak.test,
        leak.train,
        kind,
        f"{leak.correlation:.3f}",
        f"{leak.hash_distance} of 256",
        f"{leak.zoom:.3f}",
    ]


def _command(arguments: argparse.Namespace) -> str:
    """The command as one would type it again, without paths of this machine."""
    from ucip_adapt.training.results import portable

    words = ["ucip-adapt", "leaks"]
    for flag in ("train", "test", "data", "threshold"):
        value = getattr(arguments, flag)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"--{flag}", *(str(portable(one)) for one in values)]
    return shlex.join(words)


def _data_root(option: Path | None) -> Path | None:
    from ucip_adapt.data import data_root

    return data_root(option)


def _read(
    names: list[str], root: Path | None, side: str
) -> tuple[list[Picture], dict[str, int], list[tuple[str, str]]]:
    """Pictures of all folders of one side, their number by folder, and the unreadable files."""
    from ucip_adapt.data import list_images
    from ucip_adapt.leaks.pictures import read_pictures

    files: list[tuple[str, Path]] = []
    counts: dict[str, int] = {}
    for folder, label in _labelled([_folder(name, root, side) for name in names], side):
        paths = list_images(folder)
        counts[label] = len(paths)
        files += [(f"{label}/{path.relative_to(folder).as_posix()}", path) for path in paths]
    pictures, unreadable = read_pictures(files)
    return pictures, counts, unreadable


def _labelled(folders: list[tuple[Path, str]], side: str) -> list[tuple[Path, str]]:
    """Folders with what reports call them: of folders of one name, as many parents as tell them."""
    places = [folder.resolve() for folder, _ in folders]
    labels = [label for _, label in folders]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise ConfigError(f"--{side}: the folder '{labels[index]}' is given twice")
    depth = 1
    while len(set(labels)) < len(labels):
        depth += 1
        alike = {label for label in labels if labels.count(label) > 1}
        labels = [
            "/".join(place.parts[-depth:]).lstrip("/") if label in alike else label
            for label, place in zip(labels, places, strict=True)
        ]
    return [(folder, label) for (folder, _), label in zip(folders, labels, strict=True)]


def _folder(name: str, root: Path | None, side: str) -> tuple[Path, str]:
    """The folder that a name stands for, and what reports call it."""
    from ucip_adapt.assets import image_folder
    from ucip_adapt.data import EMBEDDED

    inside = {"embedded": "train", EMBEDDED: "validation"}
    if name in inside:
        return image_folder(inside[name]), name
    # A plain name means a set of the data root; a folder of the same name is meant by "./name".
    if root is not None and os.path.basename(name) == name:
        for folder in (root / name / "HR", root / "train" / name):
            if folder.is_dir():
                return folder, name
    if Path(name).is_dir():
        return Path(name), Path(name).resolve().name
    where = f", nor is it a set under {root}" if root else "; --data or UCIP_DATA is not set"
    raise DataError(f"--{side} {name}: there is no such folder{where}")
