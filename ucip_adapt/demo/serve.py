"""Serve the page from this machine until Ctrl-C, and leave nothing behind."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

from ucip_adapt.demo.app import LAUNCH_OPTIONS, build_app, look
from ucip_adapt.demo.files import ResultFiles
from ucip_adapt.demo.session import Session
from ucip_adapt.errors import ConfigError

__all__ = ["is_local", "serve"]


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone.

    Args:
        host: Name or number.

    Example:
        >>> is_local("127.0.0.1"), is_local("localhost"), is_local("0.0.0.0")
        (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check_address(host: str, port: int) -> None:
    """Raise OSError where no address of the host can be listened on; port 0 is any free one."""
    found = socket.getaddrinfo(
        host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    refused = OSError("no address")
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":  # as servers do: a port whose last user is gone is free
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            refused = error
        else:
            return
    raise refused


def serve(session: Session, *, host: str, port: int | None) -> int:
    """Serve the page and print its address; returns after Ctrl-C or SIGTERM.

    Args:
        session: Does the work.
        host: Address to listen on.
        port: Port; None takes the first free one from 7860 on.

    Returns:
        Exit code 0.

    Raises:
        ConfigError: If gradio is not installed, or the address cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="ucip-demo-", ignore_cleanup_errors=True) as root:
        # Otherwise what visitors upload stays in the system's temporary folder for good.
        os.environ["GRADIO_TEMP_DIR"] = str(Path(root, "gradio"))
        app = build_app(session, ResultFiles(Path(root)))
        try:
            _check_address(host, port or 0)  # gradio would wait for seconds at each of 100 ports
            _, address, _ = app.launch(
                **LAUNCH_OPTIONS,
                **look(),
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
            )
        except OSError as error:
            where = host if port is None else f"{host}, port {port}"
            raise ConfigError(
                f"cannot listen on {where}: it is in use, or no address of this machine; choose "
                "another --port or --host"
            ) from error
        except ValueError as error:  # gradio's own request to the page it has just started
            raise ConfigError(f"the page does not answer on {host}: {error}") from error
        sys.stdout.write(f"{address}  (Ctrl-C stops it)\n")
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.stdout.write("stopped\n")
        finally:
            app.close(verbose=False)
    return 0
