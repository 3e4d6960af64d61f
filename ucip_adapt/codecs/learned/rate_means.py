"""What a training spends and loses at each rate, for the line that it prints now and then."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

__all__ = ["RateMeans"]


class RateMeans:
    """Mean bits and distortion of each rate since they were last taken, over all processes.

    Registered for checkpointing, a continued run counts the steps before its checkpoint as well; a
    checkpoint of a version that did not keep them can be continued all the same.

    Args:
        accelerator: The run's accelerator.
        rates: How many rates there are.

    Example:
        >>> means = RateMeans(Accelerator(cpu=True), rates=2)
        >>> means.add(torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0, 4.0]), torch.ones(3))
        >>> means.take()
        ([1.0, 3.0], [1.0, 1.0])
    """

    may_be_missing = True  # see GuardedStep

    def __init__(self, accelerator: Accelerator, rates: int) -> None:
        self._accelerator = accelerator
        # Images, bpp and distortion of each rate.
        self._sums = torch.zeros(3, rates, device=accelerator.device)

    def add(self, rate: Tensor, bpp: Tensor, distortion: Tensor) -> None:
        """Count a batch; collective.

        Gathered at once and not when they are taken: a checkpoint holds what the main process
        knows, and every process goes on from that.

        Args:
            rate: Rate of each image of this process, from 0, shape ``(B,)``.
            bpp: Bits per pixel of each; finite, or no checkpoint could be published any more.
            distortion: Distortion of each; finite too.
        """
        own = torch.stack([rate.to(bpp), bpp, distortion], dim=1).detach()
        every = self._accelerator.gather(own)  # (B of all processes, 3)
        values = torch.stack([torch.ones_like(every[:, 0]), every[:, 1], every[:, 2]])
        self._sums.index_add_(1, every[:, 0].long(), values)

    def take(self) -> tuple[list[float], list[float]]:
        """Bits per pixel and distortion of each rate, and start anew.

        Returns:
            A mean for each rate; NaN for a rate without an image.
        """
        bpp, distortion = (self._sums[1:] / self._sums[0]).tolist()
        self._sums.zero_()
        return bpp, distortion

    def state_dict(self) -> dict[str, Tensor]:
        """The sums so far."""
        return {"sums": self._sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from the sums of an earlier part of the run."""
        if state["sums"].shape == self._sums.shape:  # --force takes another number of rates too
            self._sums.copy_(state["sums"])
