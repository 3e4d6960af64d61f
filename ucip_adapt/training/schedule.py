"""Learning rate as a pure function of the optimizer step.

A scheduler object given to ``accelerator.prepare`` advances once per process, so that a milestone
at 4 fires after 2 updates on 2 processes, and it has to be saved and restored. A function of the
step has neither trouble.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from ucip_adapt.errors import ConfigError, unknown_name

__all__ = ["Schedule", "learning_rate_at", "set_learning_rate"]

Schedule = Literal["constant", "cosine", "multistep"]


class _HasParamGroups(Protocol):
    @property
    def param_groups(self) -> list[dict[str, object]]: ...


def learning_rate_at(
    step: int,
    *,
    schedule: Schedule,
    learning_rate: float,
    warmup_steps: int,
    max_steps: int,
    milestones: Sequence[int] = (),
    gamma: float = 0.5,
) -> float:
    """Learning rate for one optimizer step.

    With ``w = warmup_steps`` and ``n = max_steps``:

    - any schedule, ``step < w``: ``learning_rate * (step + 1) / w``, so the first step already
      moves;
    - ``constant``: ``learning_rate``;
    - ``cosine``: ``learning_rate * (1 + cos(pi * (step - w) / (n - w))) / 2``, 0 at ``step = n``
      and later;
    - ``multistep``: ``learning_rate * gamma ** (number of milestones <= step)``. The paper trains
      with 3e-4 halved at step 200,000 of 400,000: ``milestones=(200_000,)``.

    Args:
        step: Optimizer steps already done, from 0 (micro-batches and processes do not count).
        schedule: Shape of the curve.
        learning_rate: The peak.
        warmup_steps: Steps of the linear rise, 0 for none.
        max_steps: Optimizer steps of the whole run.
        milestones: Optimizer steps, rising, from which on the rate is multiplied by ``gamma``; only
            for multistep.
        gamma: Factor at each milestone, in (0, 1].

    Returns:
        The rate to set before the update of this step.

    Raises:
        ConfigError: If a value is out of range or milestones are given to (or missing from) the
            wrong schedule.

    Example:
        >>> learning_rate_at(4, schedule="cosine", learning_rate=1.0, warmup_steps=2, max_steps=6)
        0.5
    """
    if schedule not in get_args(Schedule):
        raise unknown_name("schedule", schedule, get_args(Schedule))
    if step < 0 or learning_rate < 0 or not math.isfinite(learning_rate):
        raise ConfigError(
            f"step and learning_rate must be finite and not negative: {step} and {learning_rate}"
        )
    if not 0 <= warmup_steps <= max_steps:
        raise ConfigError(
            f"warmup_steps {warmup_steps} must lie between 0 and max_steps {max_steps}"
        )
    if bool(milestones) != (schedule == "multistep"):
        raise ConfigError(
            f"milestones belong to schedule 'multistep', got {tuple(milestones)} for {schedule!r}"
        )
    if list(milestones) != sorted(set(milestones)) or not 0 < gamma <= 1:
        raise ConfigError(
            f"milestones must rise and gamma lie in (0, 1], got {tuple(milestones)} and {gamma}"
        )
    if step < warmup_steps:
        return learning_rate * (step + 1) / warmup_steps
    if schedule == "cosine":
        if step >= max_steps:
            return 0.0
        done = (step - warmup_steps) / (max_steps - warmup_steps)
        return learning_rate * (1 + math.cos(math.pi * done)) / 2
    if schedule == "multistep":
        return learning_rate * gamma ** sum(milestone <= step for milestone in milestones)
    return learning_rate


def set_learning_rate(optimizer: _HasParamGroups, learning_rate: float) -> None:
    """Set the rate of every parameter group; call it before each update.

    Args:
        optimizer: A torch optimizer, also one that Accelerate has wrapped.
        learning_rate: The value of :func:`learning_rate_at`.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> set_learning_rate(optimizer, 0.25)
        >>> optimizer.param_groups[0]["lr"]
        0.25
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
