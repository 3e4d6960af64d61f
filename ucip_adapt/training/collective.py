"""Do something on one process or all, and let every process know how it went.

A process that raises alone leaves the others waiting in their next collective call for ever. These
functions turn a failure anywhere into the same value or the same error everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ucip_adapt.errors import CheckpointError

__all__ = ["ask_main", "attempt", "first_message"]

_T = TypeVar("_T")


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
