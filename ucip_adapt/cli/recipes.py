"""The training scripts of the package: list them, or copy them to a folder of your own."""

from __future__ import annotations

import argparse
import ast
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import ucip_adapt
from ucip_adapt.cli.table import render_table
from ucip_adapt.errors import ConfigError, DataError

__all__ = ["add_arguments", "recipe_files", "recipes_folder", "run"]

_SUFFIXES = {".py", ".toml", ".md"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the two actions of `ucip-adapt recipes`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|copy")
    actions.add_parser("list", help="show each script with its first line")
    copy = actions.add_parser("copy", help="write scripts and configurations to a folder")
    copy.add_argument("folder", type=Path, metavar="DIR", help="Folder; made if it is not there.")
    copy.add_argument(
        "--overwrite", action="store_true", help="Replace files of the same name that are there."
    )


def run(arguments: argparse.Namespace) -> int:
    """Do one of the two actions."""
    if arguments.action == "list":
        return _list()
    return _copy(arguments.folder, overwrite=arguments.overwrite)


def recipes_folder() -> Path:
    """Folder of the recipes: inside an installed wheel, beside the package in a clone.

    Raises:
        DataError: If the installation holds none.
    """
    package = Path(ucip_adapt.__file__).resolve().parent
    for folder in (package / "_recipes", package.parent / "recipes"):
        if any(folder.glob("*.py")):
            return folder
    raise DataError(f"there are no recipes in or beside {package}; install ucip-adapt again")


def recipe_files(folder: Path) -> Iterator[Path]:
    """Yield the files that make up the recipes, relative to their folder, in a fixed order."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        # A clone may hold the results of runs and Python's caches beside the scripts.
        if path.suffix in _SUFFIXES and path.is_file() and relative.parts[0] != "runs":
            yield relative


def _list() -> int:
    folder = recipes_folder()
    rows = [[path.name, _first_line(path)] for path in sorted(folder.glob("*.py"))]
    sys.stdout.write(render_table(["recipe", "purpose"], rows))
    sys.stdout.write("\n`ucip-adapt recipes copy DIR` writes them to a folder.\n")
    return 0


def _first_line(script: Path) -> str:
    """First line of the docstring, without running or importing the script."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _copy(target: Path, *, overwrite: bool) -> int:
    source = recipes_folder()
    files = list(recipe_files(source))
    present = [path.as_posix() for path in files if (target / path).exists()]
    if present and not overwrite:
        raise ConfigError(
            f"{target} already holds {', '.join(present)}; nothing was copied. "
            "Name another folder, or add --overwrite"
        )
    for path in files:
        try:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, target / path)
        except OSError as error:  # whose file name, on a full disk, is that of the source
            raise DataError(f"cannot write {target / path}: {error.strerror}") from error
    sys.stdout.write(f"{len(files)} files in {target}\n")
    return 0
