"""What training makes small."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LOSSES", "Loss", "psnr_loss"]

Loss = Literal["l1", "psnr"]


def psnr_loss(sr: Tensor, gt: Tensor) -> Tensor:
    """Minus the mean PSNR of images over 20: log10 of the root mean square error.

    The paper trains with L1 (Sec. 4.1), whose best answer, where a codec has left many possible,
    is their median; that of a squared error, which PSNR measures, is their mean. The logarithm
    gives every image the same say: a tenth less error counts as much in a sky as in a meadow.

    Args:
        sr: Images, shape ``(B, 3, H, W)``, values in [0, 1].
        gt: Shape of ``sr``.

    Returns:
        A scalar; 0.05 less is 1 dB more.

    Example:
        >>> round(psnr_loss(torch.full((1, 3, 2, 2), 0.6), torch.full((1, 3, 2, 2), 0.5)).item(), 4)
        -1.0
    """
    squared = (sr - gt).square().mean(dim=(1, 2, 3))
    # An error below half a level of 16 bits counts as none: the logarithm of 0 has no gradient.
    return 0.5 * torch.log10(squared.clamp_min(2.0**-34)).mean()


LOSSES: Mapping[Loss, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"l1": F.l1_loss, "psnr": psnr_loss}
)
"""By the name that ``--loss`` takes."""
