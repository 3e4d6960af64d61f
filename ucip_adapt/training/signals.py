"""Stop a run politely: finish the step, publish a checkpoint, leave."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator

__all__ = ["StopRequest", "isolate_worker"]

_SAME_KEYSTROKE_SECONDS = 0.5


class StopRequest:
    """Context manager in which SIGTERM and SIGINT (Ctrl-C) ask for a stop after this step.

    The first signal sets :attr:`requested`; the loop sees it through :meth:`agreed` and publishes a
    checkpoint. Another Ctrl-C, half a second later or more, raises :class:`KeyboardInterrupt` at
    once, for the impatient; sooner it counts as the same, since terminal and launcher may both
    pass one on. A repeated SIGTERM changes nothing. Handlers are set on entry and restored on exit,
    only in the main thread (Python allows it nowhere else); elsewhere the object works without.
    Nothing happens at import, so that spawned data workers are not touched.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.requested
        True
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self.signal_name: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not set from Python and cannot be given back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested:
            if number == signal.SIGINT and now - self._since >= _SAME_KEYSTROKE_SECONDS:
                raise KeyboardInterrupt
            return
        self.requested, self._since = True, now
        self.signal_name = signal.Signals(number).name

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; the same answer on all of them.

        A signal may reach only one process, or all at different steps, and a checkpoint needs every
        process at the same step. Collective: call it on all processes, once per optimizer step.
        """
        if accelerator.num_processes == 1:
            return self.requested
        flag = torch.tensor(int(self.requested), device=accelerator.device)
        return bool(accelerator.reduce(flag, reduction="sum").item())


def isolate_worker(worker_id: int) -> None:
    """Keep signals for the whole process group from a data worker; a ``worker_init_fn``.

    Ctrl-C, ``timeout`` and many launchers signal the group. A data worker dies of that, and the
    main process then raises in the middle of a step instead of publishing its checkpoint. The
    worker still ends with the main process.

    Args:
        worker_id: Given by the ``DataLoader``; not used.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    else:  # Windows
        signal.signal(signal.SIGINT, signal.SIG_IGN)
