"""Stop a run politely: finish the step, publish a checkpoint, leave."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import torch
from accelerate import Accelerator

__all__ = ["StopRequest"]


class StopRequest:
    """Context manager in which SIGTERM and SIGINT (Ctrl-C) ask for a stop after this step.

    The first signal sets :attr:`requested`; the loop sees it through :meth:`agreed` and publishes a
    checkpoint. A second Ctrl-C raises :class:`KeyboardInterrupt` at once, for the impatient; a
    repeated SIGTERM changes nothing, because launchers send it more than once. Handlers are set on
    entry and restored on exit, only in the main thread (Python allows it nowhere else); elsewhere
    the object works without handlers. Nothing happens at import, so that spawned data workers are
    not touched.

    Example:
        >>> with StopRequest() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop.requested
        True
    """

    def __init__(self) -> None:
        self.requested = False
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
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
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
