"""Fixtures for every test: where the real test images are, and a clean state around each test."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# One thread: tiny tensors gain nothing from more, and results do not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test may reach for the network by accident; a test marked `hub` sets it back itself.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the public test sets (Set5, Set14, BSD100, ...), from the variable UCIP_DATA."""
    value = os.environ.get("UCIP_DATA")
    if not value:
        pytest.skip("UCIP_DATA is unset: it names the folder with Set5, Set14, BSD100 and CID22")
    root = Path(value).expanduser().resolve()
    if not root.is_dir():
        pytest.fail(f"UCIP_DATA={value} is not a folder")
    return root


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Top folder of the clone: the one with pyproject.toml."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _clean_state() -> Iterator[None]:
    """Run torch on one thread, and forget process-wide state after each test.

    Only where a test has imported the library: a test of the command line stays fast.
    """
    _limit_threads()
    table = dict(getattr(sys.modules.get("ucip_adapt.codecs"), "CODECS", {}))
    yield
    if table:  # recipes let HM and VTM read stored streams
        codecs = sys.modules["ucip_adapt.codecs"].CODECS
        codecs.clear()
        codecs.update(table)
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def _this_machine_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to other machines, but for tests marked `hub`."""
    if request.node.get_closest_marker("hub") is not None:
        return
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            pytest.fail(f"the test wants to reach {address}, a machine of the network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture
def on_two_processes() -> Callable[..., None]:
    """``on_two_processes(function, *arguments)`` calls it as two ranks, which no one has joined.

    ``debug_launcher`` joins them itself, before what the function would join them with is known.
    """
    from torch import multiprocessing

    def run(function: Callable[..., object], *arguments: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        multiprocessing.start_processes(
            _as_rank, (port, function, arguments), nprocs=2, start_method="fork"
        )

    return run


def _as_rank(
    rank: int, port: int, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # of a run before the fork
    GradientState._reset_state()
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="1")
    function(*arguments)


def _is_here(host: str) -> bool:
    return host in {"localhost", "::1", ""} or host.startswith("127.")


def _limit_threads() -> None:
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip GPU tests by name where there is no GPU."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")
