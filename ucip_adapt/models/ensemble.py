"""Self-ensemble: a picture is restored in all eight orientations, and the results averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

__all__ = ["self_ensemble"]


def self_ensemble(upscale: Callable[[Tensor], Tensor], lq: Tensor) -> Tensor:
    """Average what a network makes of an image's four turns and their mirror images.

    A network sees the eight as different pictures and errs differently on each; what it restores is
    the same. Eight times the time, at one orientation's memory and two results' more. Timofte et
    al., "Seven ways to improve example-based single image super resolution" (CVPR 2016); the "+" of
    EDSR+ (Lim et al., CVPR workshops 2017) and its successors.

    Args:
        upscale: From ``(B, 3, H, W)`` to ``(B, 3, s * H, s * W)``, for any H and W.
        lq: Images, shape ``(B, 3, H, W)``.

    Returns:
        The mean of the eight results, turned back, shape and dtype of ``upscale(lq)``.

    Example:
        >>> lq = torch.rand(1, 3, 4, 6)
        >>> def darker_left(x):
        ...     return x * torch.linspace(0, 1, x.shape[-1])
        >>> torch.allclose(self_ensemble(darker_left, torch.ones(1, 3, 4, 6)), torch.tensor(0.5))
        True
    """
    total: Tensor | None = None
    for mirrored in (False, True):
        for turns in range(4):
            seen = torch.rot90(lq.flip(-1) if mirrored else lq, turns, (-2, -1))
            sr = torch.rot90(upscale(seen), -turns, (-2, -1))
            sr = sr.flip(-1) if mirrored else sr
            total = sr if total is None else total.add_(sr)
            del sr  # or it would stay beside the next one's workspace
    return cast(Tensor, total).div_(8)
