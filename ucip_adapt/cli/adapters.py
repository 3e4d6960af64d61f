"""Adapters: list the shipped ones; show, pull, verify or publish any."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ucip_adapt.cli.table import render_table
from ucip_adapt.errors import DataError

if TYPE_CHECKING:
    from ucip_adapt.hub.library import AdapterInfo

__all__ = ["add_arguments", "run"]

_EXIT_CODE_NOT_WHOLE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of `ucip-adapt adapters`."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|show|pull|verify|publish"
    )
    listing = actions.add_parser("list", help="the adapters that come with the package")
    listing.add_argument("--json", action="store_true", help="Print a list of objects.")
    for name, summary in (
        ("show", "what an adapter says of itself"),
        ("verify", "whether an adapter is whole and fits its base; exit code 1 if not"),
        ("pull", "download an adapter into a folder, and verify it"),
    ):
        action = actions.add_parser(name, help=summary)
        action.add_argument("adapter", metavar="ADAPTER", help="Name, folder, or user/repository.")
        action.add_argument("--revision", help="Branch, tag or commit on the Hub.")
        action.add_argument("--subfolder", help="Folder inside the repository.")
        action.add_argument("--json", action="store_true", help="Print JSON, for programs.")
        if name != "show":
            action.add_argument("--base", help="Base to load it on. Default: the one it names.")
        if name == "pull":
            action.add_argument(
                "-o", "--output", type=Path, required=True, metavar="DIR", help="Target folder."
            )
    publish = actions.add_parser("publish", help="upload a verified adapter to the Hub")
    publish.add_argument("folder", type=Path, metavar="DIR", help="Folder of the adapter.")
    publish.add_argument(
        "--repo-id", metavar="ID", help="user/name. Default: UCIP_HUB_NAMESPACE/ucip-CODEC."
    )
    publish.add_argument("--dry-run", action="store_true", help="Show what would be uploaded.")


def run(arguments: argparse.Namespace) -> int:
    """Do one of the actions."""
    actions = {
        "list": _list,
        "show": _show,
        "pull": _pull,
        "verify": _verify,
        "publish": _publish,
    }
    return actions[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    from ucip_adapt.assets import shipped_adapters
    from ucip_adapt.hub.library import describe_adapter, locate_adapter

    infos = [describe_adapter(locate_adapter(name)) for name in shipped_adapters()]
    if arguments.json:
        sys.stdout.write(json.dumps([info.to_dict() for info in infos], indent=2) + "\n")
        return 0
    header = ["adapter", "codec", "qualities", "base", "set", "bytes", "gain over the base"]
    sys.stdout.write(render_table(header, [_row(info) for info in infos]))
    return 0


def _row(info: AdapterInfo) -> list[str]:
    return [
        info.name,
        info.codec,
        " ".join(map(str, info.qualities)),
        info.base,
        info.trainable_set,
        f"{info.num_bytes:,}",
        _gains(info),
    ]


def _gains(info: AdapterInfo) -> str:
    return ", ".join(f"{gain:+.2f} dB on {dataset}" for dataset, gain in info.gains.items())


def _show(arguments: argparse.Namespace) -> int:
    from ucip_adapt.hub.library import describe_adapter, locate_adapter

    folder = locate_adapter(
        arguments.adapter, revision=arguments.revision, subfolder=arguments.subfolder
    )
    info = describe_adapter(folder, name=arguments.adapter)
    if arguments.json:
        sys.stdout.write(json.dumps(info.to_dict(), indent=2) + "\n")
        return 0
    shown = {
        **info.to_dict(),
        "qualities": " ".join(map(str, info.qualities)),
        "gains": _gains(info) or "none recorded",
    }
    rows = [[key.replace("_", " "), _plain(value)] for key, value in shown.items()]
    sys.stdout.write(render_table(["item", "value"], rows))
    return 0


def _plain(value: object) -> str:
    """What a stranger's file says, without characters that could steer the terminal."""
    return "".join(char if char.isprintable() else "?" for char in str(value))


def _verify(arguments: argparse.Namespace) -> int:
    from ucip_adapt.hub.library import locate_adapter

    folder = locate_adapter(
        arguments.adapter, revision=arguments.revision, subfolder=arguments.subfolder
    )
    return _report(folder, arguments)


def _pull(arguments: argparse.Namespace) -> int:
    from ucip_adapt.hub.library import describe_adapter, locate_adapter

    target: Path = arguments.output
    if target.exists() and target.resolve() == Path.cwd():
        raise DataError(f"{target} is the folder you are in, which cannot be made anew: name one")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{target} is not an empty folder; give a new one")
    source = locate_adapter(
        arguments.adapter, revision=arguments.revision, subfolder=arguments.subfolder
    )
    describe_adapter(source)  # what is no adapter is not copied
    _copy_whole(source, target)
    return _report(target, arguments)


def _copy_whole(source: Path, target: Path) -> None:
    """Copy an adapter into a new folder that appears with all files, or not at all.

    Of two commands that write the same folder one wins: their files are never mixed.
    """
    from ucip_adapt.hub.fetch import ADAPTER_FILES

    target = target.resolve()  # of a link to an empty folder, the folder is made anew
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=".tmp-") as temporary:
            stage = Path(temporary, "adapter")
            stage.mkdir()
            for name in ADAPTER_FILES:
                if (source / name).is_file():
                    (stage / name).write_bytes((source / name).read_bytes())
            if target.is_dir():
                target.rmdir()
            stage.rename(target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error


def _report(folder: Path, arguments: argparse.Namespace) -> int:
    from ucip_adapt.hub.library import verify_adapter

    checks = verify_adapter(folder, base=arguments.base)
    whole = all(check.ok is not False for check in checks)
    if arguments.json:
        listed = [{"check": c.name, "ok": c.ok, "detail": c.detail} for c in checks]
        sys.stdout.write(
            json.dumps({"folder": str(folder), "ok": whole, "checks": listed}, indent=2) + "\n"
        )
    else:
        words = {True: "ok", False: "WRONG", None: "not checked"}
        rows = [[_plain(c.name), words[c.ok], _plain(c.detail)] for c in checks]
        sys.stdout.write(render_table(["check", "result", "found"], rows))
    return 0 if whole else _EXIT_CODE_NOT_WHOLE


def _publish(arguments: argparse.Namespace) -> int:
    from huggingface_hub import constants

    from ucip_adapt.codecs.base import short_name
    from ucip_adapt.hub.fetch import ADAPTER_FILES
    from ucip_adapt.hub.folders import push_folder, repository_name
    from ucip_adapt.hub.library import describe_adapter, verify_adapter

    folder: Path = arguments.folder
    info = describe_adapter(folder)
    name = f"ucip-{short_name(info.codec)}"
    wrong = [check for check in verify_adapter(folder) if check.ok is False]
    if wrong:
        what = _plain(f"{wrong[0].name}: {wrong[0].detail}")
        raise DataError(f"{folder} is not published: {what}")
    if not (folder / "README.md").is_file():
        raise DataError(f"{folder} has no card (README.md): tune_prompts.py writes one")
    if arguments.dry_run:
        named = arguments.repo_id or os.environ.get("UCIP_HUB_NAMESPACE")
        target = repository_name(arguments.repo_id, default_name=name) if named else ""
        rows = [
            [file, f"{(folder / file).stat().st_size:,}"]
            for file in ADAPTER_FILES
            if (folder / file).is_file()
        ]
        sys.stdout.write(render_table(["would be uploaded", "bytes"], rows))
        if target:
            sys.stdout.write(f"to {constants.ENDPOINT}/{target}\n")
        return 0
    target = push_folder(folder, arguments.repo_id, default_name=name, only=ADAPTER_FILES)
    sys.stdout.write(f"published {target}: {constants.ENDPOINT}/{target}\n")
    return 0
