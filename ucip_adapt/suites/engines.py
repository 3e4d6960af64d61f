"""Who does the work: this process, local processes, or a Dask cluster; all are executors."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from typing import Any, Literal

from ucip_adapt.errors import ConfigError

__all__ = ["Engine", "EngineName", "InProcess", "open_engine"]

EngineName = Literal["processes", "dask"]


@dataclass(frozen=True)
class Engine:
    """An executor and how much it does at a time.

    Attributes:
        executor: Takes the work; as in :mod:`concurrent.futures`.
        capacity: Tells how many tasks it works on at a time, now.
        lost: What it raises when workers died.
    """

    executor: Executor
    capacity: Callable[[], int]
    lost: tuple[type[BaseException], ...] = (BrokenExecutor,)


class InProcess(Executor):
    """Does the work at once, in this process.

    Example:
        >>> InProcess().submit(max, 3, 4).result()
        4
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        """Call a function; what it returns or raises is in the future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def open_engine(
    name: EngineName = "processes", *, workers: int = 1, scheduler: str | None = None
) -> Iterator[Engine]:
    """Start an engine, and end it with the block.

    Args:
        name: ``"processes"`` of this machine, or a ``"dask"`` cluster.
        workers: Local processes; 0 works in this one. A Dask cluster has its own.
        scheduler: Address of Dask's scheduler, such as ``tcp://10.0.0.1:8786``.

    Raises:
        ConfigError: If the engine's library is missing, or no scheduler answers.

    Example:
        >>> with open_engine(workers=0) as engine:
        ...     engine.executor.submit(abs, -2).result()
        2
    """
    if name == "dask":
        with _dask(scheduler) as engine:
            yield engine
    elif scheduler is not None:
        raise ConfigError("--scheduler belongs to --engine dask")
    elif workers == 0:
        yield Engine(InProcess(), lambda: 1)
    else:
        # Started anew rather than forked: a fork of a process with threads may never end.
        pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
        )
        try:
            yield Engine(pool, lambda: workers)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """One thread per process; Ctrl-C is the main process's; no life without that one."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _dask(scheduler: str | None) -> Iterator[Engine]:
    if scheduler is None:
        raise ConfigError("--engine dask needs --scheduler ADDRESS, such as tcp://10.0.0.1:8786")
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError:
        raise ConfigError('--engine dask needs Dask: pip install "ucip-adapt[cluster]"') from None
    try:
        client = distributed.Client(scheduler, timeout=30, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {scheduler}: {error}") from error
    try:
        with client.get_executor(pure=False) as executor:
            yield Engine(
                executor,
                lambda: max(1, sum(client.ncores().values())),
                lost=(BrokenExecutor, distributed.KilledWorker),
            )
    finally:
        client.close()
