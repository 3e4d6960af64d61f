"""Keep NaN and infinity out of the weights.

``clip_grad_norm_`` lets NaN through, and one such update ruins every weight. Losses and gradients
are therefore checked before the update, on all processes together, so that all of them skip or stop
alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor, nn

from ucip_adapt.errors import ConfigError, NonFiniteError, unknown_name

__all__ = ["GuardedStep", "NonFinitePolicy", "check_finite"]

NonFinitePolicy = Literal["skip", "stop"]
_MEMORY = 0.98  # of the running loss, per step


def check_finite(named_tensors: Iterable[tuple[str, Tensor]], *, what: str) -> None:
    """Refuse tensors that hold NaN or infinity.

    Args:
        named_tensors: Names and tensors; those of integer type are always finite.
        what: What they are together, for the message.

    Raises:
        NonFiniteError: Naming up to five of the tensors concerned.

    Example:
        >>> check_finite([("a", torch.zeros(2)), ("b", torch.tensor(float("nan")))], what="weights")
        Traceback (most recent call last):
        ucip_adapt.errors.NonFiniteError: weights hold NaN or infinite values in 1 tensor: b
    """
    bad = [name for name, tensor in named_tensors if not bool(torch.isfinite(tensor).all())]
    if bad:
        count = f"{len(bad)} tensor{'s' if len(bad) > 1 else ''}"
        more = ", ..." if len(bad) > 5 else ""
        raise NonFiniteError(
            f"{what} hold NaN or infinite values in {count}: {', '.join(bad[:5])}{more}"
        )


class GuardedStep:
    """Backward pass, clipping and update, with a check for non-finite values in between.

    Used in a loop, on one process or many, with gradient accumulation or without::

        guard = GuardedStep(accelerator, optimizer, parameters, policy="skip", max_grad_norm=1.0)
        for batch in loader:
            with accelerator.accumulate(model):
                loss = criterion(model(batch["lq"]), batch["gt"])
                guard.backward(loss, sample_ids=batch["index"].tolist())
                if accelerator.sync_gradients:
                    updated = guard.step(step)
                    step += 1
        guard.check_trained()

    With ``policy="skip"`` the bad step makes no update but counts as a step, so that data order and
    schedule go on as they would have; with ``"stop"`` it raises. Under fp16 an infinite gradient of
    a finite loss is how the loss scaler finds its scale: it is skipped and counted under either
    policy.

    Args:
        accelerator: The run's accelerator.
        optimizer: The prepared optimizer.
        parameters: What is trained; a list, since a generator would be empty the second time.
        policy: What to do about a non-finite step.
        max_grad_norm: Upper limit of the total gradient norm; None does not clip.

    Attributes:
        skipped: Steps without an update so far.
        last_loss: Mean loss of the last step over all its samples, those of other processes and of
            earlier micro-batches included.
        running_loss: Moving average of the losses of steps that made an update.
        last_grad_norm: Total gradient norm of the last step, before clipping.

    Raises:
        ConfigError: If the policy is unknown or there is no parameter.
    """

    may_be_missing = True  # from a checkpoint: earlier versions did not keep its state

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer | AcceleratedOptimizer,
        parameters: Sequence[nn.Parameter],
        *,
        policy: NonFinitePolicy,
        max_grad_norm: float | None = None,
    ) -> None:
        if policy not in get_args(NonFinitePolicy):
            raise unknown_name("policy for non-finite steps", policy, get_args(NonFinitePolicy))
        self._parameters = list(parameters)
        if not self._parameters:
            raise ConfigError("there is no parameter to train; check which set is trainable")
        self._accelerator = accelerator
        self._optimizer = optimizer
        self._policy = policy
        self._max_norm = math.inf if max_grad_norm is None else max_grad_norm
        self._bad_losses = torch.zeros((), device=accelerator.device)
        self._ids: list[tuple[Tensor, list[int]]] = []
        self._loss_sum = torch.zeros((), device=accelerator.device)
        self._updates = 0
        self.skipped = 0
        self.last_loss = math.nan
        self.running_loss = math.nan
        self.last_grad_norm = math.nan

    def backward(self, loss: Tensor, sample_ids: Iterable[int]) -> None:
        """Run the backward pass of one micro-batch and remember whether its loss was finite.

        Args:
            loss: Scalar loss of the micro-batch.
            sample_ids: Global indices of its samples, for the message of a stop.
        """
        bad = ~torch.isfinite(loss.detach()).all()
        self._bad_losses += bad
        self._loss_sum += loss.detach()
        self._ids.append((bad, [int(i) for i in sample_ids]))
        self._accelerator.backward(loss)

    def step(self, step: int) -> bool:
        """Update the parameters unless something was not finite.

        Collective; call it on all processes, when ``accelerator.sync_gradients`` is true.

        Args:
            step: Optimizer steps done before, from 0; for the message.

        Returns:
            Whether the parameters were updated; the same on all processes.

        Raises:
            NonFiniteError: Under the policy ``stop``; it names the step and the samples: those of
                the micro-batches with a bad loss, or, where only a gradient is bad, all samples of
                the step.
            RuntimeError: If called while gradients are still being accumulated.
        """
        accelerator = self._accelerator
        if not accelerator.sync_gradients:
            raise RuntimeError(
                "GuardedStep.step needs all micro-batches of the step: call it if sync_gradients"
            )
        norm = accelerator.clip_grad_norm_(self._parameters, self._max_norm)
        sums = torch.stack(
            [self._bad_losses, (~torch.isfinite(norm)).to(self._bad_losses), self._loss_sum]
        )
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums, reduction="sum")
        bad_losses, bad_norms, loss_sum = sums.tolist()
        self.last_grad_norm = float(norm)
        self.last_loss = loss_sum / (len(self._ids) * accelerator.num_processes)
        ids, self._ids = self._ids, []
        self._bad_losses.zero_()
        self._loss_sum.zero_()
        finite = not (bad_losses or bad_norms)
        if finite:
            self._optimizer.step()
            self._updates += 1
            self._average_loss()
        else:
            self._stop_if_asked(step, ids, loss_is_bad=bad_losses > 0)
            self.skipped += 1
            if accelerator.scaler is not None:
                accelerator.scaler.update()  # clipping has shown it the gradients; lower the scale
        self._optimizer.zero_grad()
        return finite

    def state_dict(self) -> dict[str, float]:
        """Skipped steps and losses so far; a run that is continued goes on from them."""
        return {
            "skipped": self.skipped,
            "last_loss": self.last_loss,
            "running_loss": self.running_loss,
        }

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from an earlier part of the run."""
        self.skipped = int(state["skipped"])
        self.last_loss, self.running_loss = state["last_loss"], state["running_loss"]

    def check_trained(self) -> None:
        """Refuse to end a training in which every step was skipped; call it after the loop.

        The updates of earlier parts of a resumed run count: they left their traces in the
        optimizer's state, which its checkpoint brings back.

        Raises:
            NonFiniteError: If there was no update, so that nothing was trained.

        Example:
            >>> weight = nn.Parameter(torch.ones(1))
            >>> accelerator = Accelerator(cpu=True)
            >>> optimizer = accelerator.prepare(torch.optim.Adam([weight]))
            >>> guard = GuardedStep(accelerator, optimizer, [weight], policy="skip")
            >>> guard.backward((weight * math.nan).sum(), sample_ids=[0])
            >>> guard.step(0)
            False
            >>> guard.check_trained()
            Traceback (most recent call last):
            ucip_adapt.errors.NonFiniteError: no result is written: every step was skipped, its \
loss or gradient being NaN or infinite, and nothing is trained. Lower the learning rate, set \
max_grad_norm, or look at the samples that nonfinite 'stop' names.
        """
        if not self._updates and not self._optimizer.state:
            raise NonFiniteError(
                "no result is written: every step was skipped, its loss or gradient being NaN or "
                "infinite, and nothing is trained. Lower the learning rate, set max_grad_norm, or "
                "look at the samples that nonfinite 'stop' names."
            )

    def _average_loss(self) -> None:
        before = self.last_loss if math.isnan(self.running_loss) else self.running_loss
        self.running_loss = _MEMORY * before + (1 - _MEMORY) * self.last_loss

    def _stop_if_asked(
        self, step: int, ids: list[tuple[Tensor, list[int]]], *, loss_is_bad: bool
    ) -> None:
        if self._policy != "stop" or (self._accelerator.scaler is not None and not loss_is_bad):
            return
        mine = [i for bad, batch in ids if bool(bad) or not loss_is_bad for i in batch]
        every = sorted(gather_object(mine)) if self._accelerator.num_processes > 1 else sorted(mine)
        kind = "loss" if loss_is_bad else "gradient of a finite loss"
        raise NonFiniteError(
            f"step {step}: the {kind} is NaN or infinite; samples {', '.join(map(str, every))}. "
            "The weights are as before this step. Lower the learning rate, set max_grad_norm, look "
            "at these samples, or skip such steps."
        )
