"""Do something on one process or all, and let every process know how it went.

A process that raises alone leaves the others waiting in their next collective call for ever. These
functions turn a failure anywhere into the same value or the same error everywhere.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object

from ucip_adapt.errors import CheckpointError

__all__ = [
    "ask_main",
    "attempt",
    "finish_training",
    "first_message",
    "leave_process_group",
    "with_patience",
]

_T = TypeVar("_T")
_PATIENCE = timedelta(days=7)


def with_patience() -> InitProcessGroupKwargs:
    """Processes that wait for each other for days, to be given to ``Accelerator``.

    torch ends a run in which one process waits for another for ten minutes (NCCL) or thirty (gloo).
    Images are shared out, not minutes: where one process has larger ones, or those that a slow
    encoder has not made yet, hours of scores would be lost. A process that fails is none that is
    waited for: its launcher ends all that it has started.

    Returns:
        For ``Accelerator(kwargs_handlers=[...])``.

    Example:
        >>> with_patience().timeout.days
        7
    """
    return InitProcessGroupKwargs(timeout=_PATIENCE)


def first_message(accelerator: Accelerator, message: str | None) -> str | None:
    """The message of the lowest process that has one, on all processes; None if none has."""
    if accelerator.num_processes == 1:
        return message
    return next((m for m in gather_object([message]) if m), None)


def attempt(
    accelerator: Accelerator,
    action: Callable[[], None],
    *,
    errors: tuple[type[Exception], ...],
    main_only: bool = False,
) -> str | None:
    """Run an action on all processes, or on the main one only.

    Args:
        accelerator: The run's accelerator.
        action: What to do.
        errors: Exceptions that count as a failure; others are bugs and end the run.
        main_only: Leave the other processes out of the action, though not out of its outcome.

    Returns:
        The first failure as a message, the same on all processes, or None.
    """
    problem = None
    if accelerator.is_main_process or not main_only:
        try:
            action()
        except errors as error:
            known = isinstance(error, CheckpointError)
            problem = str(error) if known else f"{type(error).__name__}: {error}"
    return first_message(accelerator, problem)


def ask_main(accelerator: Accelerator, ask: Callable[[], _T]) -> _T:
    """Call a function on the main process and give its result to all.

    Raises:
        CheckpointError: On all processes, if the function raised it.
    """
    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            answer[0] = ask()
        except CheckpointError as error:
            answer[1] = str(error)
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    if answer[1] is not None:
        raise CheckpointError(answer[1])
    result: _T = answer[0]
    return result


def finish_training(accelerator: Accelerator) -> None:
    """Wait for every process and close the trackers: the last collective call of a run.

    ``Accelerator.end_training`` would also take the process group out of its table while the
    wrapped model still holds it; that is :func:`leave_process_group`'s work, later.

    Args:
        accelerator: The run's accelerator.
    """
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()


def leave_process_group() -> None:
    """End the default process group and its threads; nothing happens where there is none.

    To be called when nothing holds the wrapped model any more, that is after the function that
    made it has returned. A gloo thread that still has a tensor of the last collective call needs
    the interpreter to let it go; if the interpreter is closing down by then, the process aborts
    ("terminate called without an active exception") after all its work is done.

    Example:
        >>> leave_process_group()
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    group = dist.group.WORLD
    dist.destroy_process_group()
    # The wrapped model is a cycle that holds the group. It has to go first: released from there,
    # the group would wait for its threads while it keeps the interpreter that they wait for.
    gc.collect()
    del group  # the last one: waits for the threads, without the interpreter's lock
