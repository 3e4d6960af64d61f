r"""One-dimensional deformable sampling: the token gathering of UCIP's mixer.

The paper moves every token along one axis by a predicted, fractional number of pixels (Sec. 3.2;
the mixer follows ActiveMLP's "active token mixer", arXiv 2203.06108). For the horizontal axis,

.. math::

    y[c, i, j] = \sum_k \max(0, 1 - |p - k|)\, x[c, i, k], \qquad
    p = j + o[\lfloor c / S \rfloor, i, j],

where ``k`` runs over the pixels of row ``i``: linear interpolation with zeros outside, which fades
linearly over ``(-1, 0)`` and ``(n - 1, n)`` as in torchvision's ``deform_conv2d``. It is not
clamped.

:func:`deform_sample_1d` is the only entry; ``method`` chooses between the plain reference and the
fast path.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ucip_adapt.errors import unknown_name

__all__ = ["Axis", "Sampler", "deform_sample_1d"]

Axis = Literal["horizontal", "vertical"]
Sampler = Literal["grid", "gather"]


def deform_sample_1d(x: Tensor, offset: Tensor, *, axis: Axis, method: Sampler = "grid") -> Tensor:
    """Sample each channel of an image along one axis at fractional positions.

    Args:
        x: Features, shape ``(B, C, H, W)``.
        offset: Displacement in feature pixels, unbounded, shape ``(B, C // S, H, W)``; ``S``
            neighbouring channels share one. Positions are always computed in float32 (float64 for
            float64 input): a bfloat16 position near 500 is off by more than a pixel.
        axis: ``"horizontal"`` moves along W, ``"vertical"`` along H.
        method: ``"gather"`` is the reference, written from the equation; ``"grid"`` gives the same
            values to rounding by ``grid_sample`` on channel groups folded into the batch, and keeps
            a quarter of the memory for backward.

    Returns:
        Sampled features, shape and dtype of ``x``.

    Raises:
        ValueError: If the shapes do not fit together.
        UnknownNameError: If ``axis`` or ``method`` is unknown.

    Example:
        >>> row = torch.tensor([[[[1.0, 2.0, 4.0]]]])
        >>> deform_sample_1d(row, torch.full_like(row, -0.5), axis="horizontal")
        tensor([[[[0.5000, 1.5000, 3.0000]]]])
    """
    if axis not in get_args(Axis):
        raise unknown_name("axis", axis, get_args(Axis))
    if method not in _METHODS:
        raise unknown_name("sampling method", method, _METHODS)
    groups = offset.shape[1]
    if x.shape[0] != offset.shape[0] or x.shape[2:] != offset.shape[2:] or x.shape[1] % groups:
        raise ValueError(
            f"x of shape {tuple(x.shape)} and offset of shape {tuple(offset.shape)} do not fit: "
            "batch, height and width must be equal and the channels of x a multiple of those of "
            "offset"
        )
    position_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    # Positions and weights stay in full precision whatever autocast says.
    with torch.autocast(x.device.type, enabled=False):
        return _METHODS[method](x, offset.to(position_dtype), axis)


def _pixel_index(size: int, like: Tensor, dim: int) -> Tensor:
    """0, 1, .., size - 1 along dimension ``dim`` of a 4-D tensor."""
    shape = [1, 1, 1, 1]
    shape[dim] = size
    return torch.arange(size, device=like.device, dtype=like.dtype).view(shape)


def _sample_gather(x: Tensor, offset: Tensor, axis: Axis) -> Tensor:
    dim = 3 if axis == "horizontal" else 2
    size = x.shape[dim]
    share = x.shape[1] // offset.shape[1]
    # Beyond one pixel outside everything is zero, so the clamp changes no value and no gradient,
    # and it keeps the integer cast defined for any offset.
    position = (_pixel_index(size, offset, dim) + offset).clamp(-2, size + 1)
    position = position.repeat_interleave(share, dim=1)  # (B, C, H, W)
    lower = position.floor()
    fraction = position - lower
    index = lower.long()

    def tap(k: Tensor) -> Tensor:
        inside = (k >= 0) & (k < size)
        return x.gather(dim, k.clamp(0, size - 1)).to(position.dtype) * inside

    return (tap(index) * (1 - fraction) + tap(index + 1) * fraction).to(x.dtype)


def _sample_grid(x: Tensor, offset: Tensor, axis: Axis) -> Tensor:
    batch, channels, height, width = x.shape
    groups = offset.shape[1]
    dim, size = (3, width) if axis == "horizontal" else (2, height)
    position = (_pixel_index(size, offset, dim) + offset).clamp(-2, size + 1)
    # align_corners=False maps pixel p to (2 p + 1) / n - 1, which also holds for n = 1.
    moved = (2 * position + 1) / size - 1
    other_dim, other = (2, height) if axis == "horizontal" else (3, width)
    fixed = ((2 * _pixel_index(other, offset, other_dim) + 1) / other - 1).expand_as(moved)
    pair = (moved, fixed) if axis == "horizontal" else (fixed, moved)
    grid = torch.stack(pair, dim=-1).view(batch * groups, height, width, 2)
    # grid_sample in bfloat16 is twice slower than in float32 on a CPU, and it wants x and grid of
    # one dtype.
    folded = x.reshape(batch * groups, channels // groups, height, width).to(grid.dtype)
    sampled = F.grid_sample(
        folded, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.view(batch, channels, height, width).to(x.dtype)


_METHODS = {"grid": _sample_grid, "gather": _sample_gather}
