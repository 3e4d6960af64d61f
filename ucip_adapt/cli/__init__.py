"""The command `ucip-adapt`; each sub-command is one small module, imported only when it runs.

>>> main(["--version"])
ucip-adapt 0.1.0
0
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ucip_adapt import __version__
from ucip_adapt._argv import StrictParser
from ucip_adapt.errors import UcipError, unknown_name

__all__ = ["COMMANDS", "Command", "main"]

_EXIT_CODE_KNOWN_ERROR = 2
_EXIT_CODE_INTERRUPTED = 130
_EXIT_CODE_BROKEN_PIPE = 141


@dataclass(frozen=True)
class Command:
    """One sub-command: where it lives and what the list of commands says about it.

    The module has ``add_arguments(parser)`` and ``run(arguments) -> int``.
    """

    module: str
    summary: str


COMMANDS = {
    "adapters": Command("ucip_adapt.cli.adapters", "list, show, pull, verify, publish adapters"),
    "build-suite": Command(
        "ucip_adapt.cli.build_suite", "compress a folder of images by every codec of a suite"
    ),
    "codecs": Command("ucip_adapt.cli.codecs", "list the codecs and whether they work here"),
    "demo": Command("ucip_adapt.cli.demo", "a web page to try it on this machine"),
    "env": Command("ucip_adapt.cli.env", "show versions and hardware, for a bug report"),
    "export": Command("ucip_adapt.cli.export", "write base and adapter as ONNX or safetensors"),
    "leaks": Command("ucip_adapt.cli.leaks", "find test pictures in training folders"),
    "rd": Command("ucip_adapt.cli.rd", "plot rate and distortion of codecs on a folder"),
    "recipes": Command("ucip_adapt.cli.recipes", "list the training scripts, or copy them out"),
    "report": Command("ucip_adapt.cli.report", "show all results on one HTML page"),
    "upscale": Command("ucip_adapt.cli.upscale", "restore and enlarge pictures four times"),
}
"""Every sub-command by its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: Arguments without the program's name; ``sys.argv[1:]`` by default.

    Returns:
        Exit code: 0; 2 after a known error, whose text is then one line on stderr; 130 after
        Ctrl-C or SIGTERM; what else a command returns is in `docs/exit_codes.md`.

    Example:
        >>> main(["recipes", "--help"])
        Traceback (most recent call last):
            ...
        SystemExit: 0
    """
    try:
        with _stopped_by_sigterm():
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UcipError as error:
        sys.stderr.write(f"error: {error}\n")
        return _EXIT_CODE_KNOWN_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return _EXIT_CODE_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone (`| head`); the interpreter must not try to flush it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_CODE_BROKEN_PIPE


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: with what is half written taken away."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread set handlers
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in {"-h", "--help", "help"}:
        sys.stdout.write(_overview())
        return 0
    if argv[0] == "--version":
        sys.stdout.write(f"ucip-adapt {__version__}\n")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    parser = StrictParser(prog=f"ucip-adapt {name}", description=module.__doc__)
    module.add_arguments(parser)
    code: int = module.run(parser.parse_args(rest))
    return code


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: ucip-adapt COMMAND [OPTIONS]",
            "",
            "Adapt a compressed-image super-resolution network to a new codec.",
            "",
            *lines,
            "",
            "`ucip-adapt COMMAND --help` shows the options of a command; --version the version.",
            "",
        ]
    )
