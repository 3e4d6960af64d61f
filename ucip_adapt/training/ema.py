"""Exponential moving average of the trained parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ucip_adapt.errors import CheckpointError, ConfigError

__all__ = ["EMA"]


class EMA:
    """Moving average of parameters, kept in float32 whatever the parameters' own type.

    After ``n`` finished updates the average follows ``ema = d * ema + (1 - d) * parameter`` with
    ``d = min(decay, (1 + n) / (10 + n))``: the usual warm-up, without which a short run would
    mostly average its random start. ``n`` is the optimizer step, so nothing but the averages
    themselves has to be saved.

    Register it with ``accelerator.register_for_checkpointing(ema)``. Build it after
    ``accelerator.prepare`` from the unwrapped model, so that the averages lie on the right device
    and names carry no ``module.`` prefix.

    Args:
        named_parameters: Names and parameters to follow, usually those with ``requires_grad``.
        decay: Upper limit of ``d``, in [0, 1); 0.999 is common.

    Raises:
        ConfigError: If there is nothing to average, a name comes twice or ``decay`` is out of
            range.

    Example:
        >>> weight = nn.Parameter(torch.tensor([0.0]))
        >>> ema = EMA([("weight", weight)], decay=0.9)
        >>> with torch.no_grad():
        ...     _ = weight.fill_(1.0)
        >>> ema.update(0)  # d = 1 / 10
        >>> with ema.applied():
        ...     print(weight.data)
        tensor([0.9000])
        >>> weight.data
        tensor([1.])
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> None:
        pairs = list(named_parameters)
        self._parameters = dict(pairs)
        if not pairs or len(pairs) != len(self._parameters):
            raise ConfigError(
                f"EMA needs parameters under different names, got {[name for name, _ in pairs]}"
            )
        if not 0.0 <= decay < 1.0:
            raise ConfigError(f"EMA decay must lie in [0, 1), got {decay}")
        self.decay = decay
        # clone() also where the type already fits: the average must not share memory with the
        # parameter.
        self.averages = {name: p.detach().to(torch.float32).clone() for name, p in pairs}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters.

        Args:
            step: Optimizer steps finished before the one just made, so 0 at the first call.
        """
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self._parameters.items():
            self.averages[name].lerp_(parameter.detach().to(torch.float32), weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model; its own come back exactly, also after an error."""
        kept = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        try:
            self._assign(self.averages)
            yield
        finally:
            self._assign(kept)

    def write_back(self) -> None:
        """Put the averages into the model for good, at the end of a run."""
        self._assign(self.averages)

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        """Averages and decay, for a checkpoint."""
        return {"decay": self.decay, "averages": dict(self.averages)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave; the decay of this object stays.

        Raises:
            CheckpointError: If names or shapes differ from the parameters followed here.
        """
        averages: dict[str, Tensor] = state["averages"]
        if averages.keys() != self.averages.keys():
            missing = sorted(self.averages.keys() - averages.keys())
            extra = sorted(averages.keys() - self.averages.keys())
            raise CheckpointError(
                f"EMA state is of another set of parameters: missing {missing}, unexpected {extra}"
            )
        for name, average in self.averages.items():
            if averages[name].shape != average.shape:
                shapes = f"{tuple(averages[name].shape)}, expected {tuple(average.shape)}"
                raise CheckpointError(f"EMA state of {name} has shape {shapes}")
        for name, average in self.averages.items():
            average.copy_(averages[name])
