"""A web page on this machine: damage a picture, restore it, compare."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ucip_adapt.errors import ConfigError

__all__ = ["add_arguments", "run"]


_MAX_PIXELS = 512 * 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `ucip-adapt demo`."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="Address to listen on. Default: this machine alone.")
    add("--port", type=int, metavar="N", help="Default: the first free one from 7860 on.")
    add("--base", help="Base network: name, folder or Hub id. Default: the adapter's own.")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 or mps. Default: cpu.")
    add(
        "--max-pixels",
        type=int,
        default=_MAX_PIXELS,
        metavar="N",
        help="Most pixels that are enlarged at once; the page refuses or crops larger pictures. "
        "Default: 262144.",
    )
    add(
        "--export-space",
        type=Path,
        metavar="DIR",
        help="Write the page as a folder that can be pushed as a Space, and stop.",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or write it as a Space."""
    if arguments.export_space is not None:
        from ucip_adapt.demo.space import export_space

        if arguments.base is not None or arguments.max_pixels != _MAX_PIXELS:
            raise ConfigError(
                "--base and --max-pixels are of a page that runs; a Space has the defaults: edit "
                "its app.py"
            )
        for path in export_space(arguments.export_space):
            sys.stdout.write(f"{path}{'/' if path.is_dir() else ''}\n")
        return 0
    from ucip_adapt.demo.library import load_gradio

    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        raise ConfigError(f"--port must lie between 0 and 65535, not {arguments.port}")
    load_gradio()  # its absence is said before seconds go into importing torch
    from ucip_adapt.demo.serve import is_local, serve
    from ucip_adapt.demo.session import Session
    from ucip_adapt.upscaler import load

    load(base=arguments.base, device=arguments.device)  # or a slip would be found by a visitor
    session = Session(
        base=arguments.base,
        device=arguments.device,
        max_pixels=arguments.max_pixels,
        own_adapters=is_local(arguments.host),
    )
    return serve(session, host=arguments.host, port=arguments.port)
