r"""One-dimensional deformable sampling: the token gathering of UCIP's mixer.

The paper moves every token along one axis by a predicted, fractional number of pixels (Sec. 3.2;
the mixer follows ActiveMLP's "active token mixer", arXiv 2203.06108). For the horizontal axis,

.. math::

    y[c, i, j] = \sum_k \max(0, 1 - |p - k|)\, x[c, i, k], \qquad
    p = j + o[\lfloor c / S \rfloor, i, j],

where ``k`` runs over the pixels of row ``i``: linear interpolation with zeros outside, which fades
linearly over ``(-1, 0)`` and ``(n - 1, n)`` as in torchvision's ``deform_conv2d``. It is not
clamped.

:func:`deform_sample_1d` moves along one axis, :func:`deform_sample_axes` along both; ``method``
chooses between the plain reference and two faster ways:

``"gather"``
    The reference, written from the equation. Autograd keeps 17 times the features.
``"grid"``
    The default: ``grid_sample`` on channel groups folded into the batch. Nothing but the inputs is
    kept for backward; the grid is made again there.
``"fused"``
    The operator ``ucip_adapt::deform_sample`` (:mod:`ucip_adapt.kernels`): Triton on CUDA, C++
    compiled on demand on the CPU, and ``"grid"`` with one message where neither can be had.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ucip_adapt.errors import unknown_name

__all__ = ["Axis", "Sampler", "deform_sample_1d", "deform_sample_axes"]

Axis = Literal["horizontal", "vertical"]
Sampler = Literal["grid", "gather", "fused"]

_log = logging.getLogger(__name__)


def deform_sample_1d(x: Tensor, offset: Tensor, *, axis: Axis, method: Sampler = "grid") -> Tensor:
    """Sample each channel of an image along one axis at fractional positions.

    Args:
        x: Features, shape ``(B, C, H, W)``.
        offset: Displacement in feature pixels, unbounded, shape ``(B, C // S, H, W)``; ``S``
            neighbouring channels share one. Positions are always computed in float32 (float64 for
            float64 input): a bfloat16 position near 500 is off by more than a pixel.
        axis: ``"horizontal"`` moves along W, ``"vertical"`` along H.
        method: ``"grid"``, ``"gather"`` or ``"fused"``: one function to rounding, see the module.

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
    (sampled,) = _sample(x, offset, (axis,), method)
    return sampled


def deform_sample_axes(
    x: Tensor, offset: Tensor, *, method: Sampler = "grid"
) -> tuple[Tensor, Tensor]:
    """Sample along both axes; faster than two calls of :func:`deform_sample_1d`.

    Args:
        x: Features, shape ``(B, C, H, W)``. ``"grid"`` works on planes and returns planes;
            ``"fused"`` works on channels-last memory and returns that. The other kind is copied.
        offset: Displacements, shape ``(B, 2 C // S, H, W)``: first all horizontal, then all
            vertical ones.
        method: See :func:`deform_sample_1d`.

    Returns:
        Features sampled horizontally and vertically, each of the shape and dtype of ``x``.

    Raises:
        ValueError: If the shapes do not fit together.
        UnknownNameError: If ``method`` is unknown.

    Example:
        >>> x = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]])
        >>> along_rows, along_columns = deform_sample_axes(x, torch.full((1, 2, 2, 2), 0.5))
        >>> along_columns
        tensor([[[[2.0000, 3.5000],
                  [1.5000, 2.5000]]]])
    """
    horizontal, vertical = _sample(x, offset, get_args(Axis), method)
    return horizontal, vertical


def _sample(x: Tensor, offset: Tensor, axes: Sequence[Axis], method: Sampler) -> Sequence[Tensor]:
    if method not in _METHODS:
        raise unknown_name("sampling method", method, _METHODS)
    if x.dim() != 4 or offset.dim() != 4:
        raise ValueError(
            f"x and offset must be (B, C, H, W), not {tuple(x.shape)} and {tuple(offset.shape)}"
        )
    # Not divmod: sizes may be symbols of an export.
    groups, rest = offset.shape[1] // len(axes), offset.shape[1] % len(axes)
    fits = x.shape[0] == offset.shape[0] and x.shape[2:] == offset.shape[2:]
    if not fits or rest or not groups or x.shape[1] % groups:
        raise ValueError(
            f"x of shape {tuple(x.shape)} and offset of shape {tuple(offset.shape)} do not fit: "
            "batch, height and width must be equal and the channels of x a multiple of those of "
            f"{'offset' if len(axes) == 1 else 'half of the offsets'}"
        )
    position_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    compute, positions = _METHODS[method], offset.to(position_dtype)
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return compute(x, positions, axes)  # no needless block in an exported graph
    # Positions and weights stay in full precision whatever autocast says.
    with torch.autocast(device, enabled=False):
        return compute(x, positions, axes)


def _pixel_index(size: int, like: Tensor, dim: int) -> Tensor:
    """0, 1, .., size - 1 along dimension ``dim`` of a 4-D tensor."""
    shape = [1, 1, 1, 1]
    shape[dim] = size
    return torch.arange(size, device=like.device, dtype=like.dtype).view(shape)


def _sample_gather(x: Tensor, offset: Tensor, axes: Sequence[Axis]) -> Sequence[Tensor]:
    parts = offset.chunk(len(axes), dim=1)
    return [_gather_one(x, part, axis) for part, axis in zip(parts, axes, strict=True)]


def _gather_one(x: Tensor, offset: Tensor, axis: Axis) -> Tensor:
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


def _sample_grid(x: Tensor, offset: Tensor, axes: Sequence[Axis]) -> Sequence[Tensor]:
    # Compilers and exporters see plain operations, which they can fuse and differentiate.
    if torch.compiler.is_compiling():
        parts = offset.chunk(len(axes), dim=1)
        return [_grid_one(x, part, axis) for part, axis in zip(parts, axes, strict=True)]
    apply: Callable[..., tuple[Tensor, ...]] = _GridSample.apply
    return apply(x, offset, tuple(axes))


def _grid(offset: Tensor, axis: Axis) -> Tensor:
    """The normalised positions ``(B G, H, W, 2)`` that ``grid_sample`` reads."""
    batch, groups, height, width = offset.shape
    dim, other_dim = (3, 2) if axis == "horizontal" else (2, 3)
    size, other = offset.shape[dim], offset.shape[other_dim]
    # align_corners=False maps pixel p to (2 p + 1) / n - 1, which also holds for n = 1. Positions
    # two pixels outside stand for all that are farther: zeros with zero gradients.
    start = (2 * _pixel_index(size, offset, dim) + 1) / size - 1
    moved = torch.add(start, offset.contiguous(), alpha=2 / size)
    moved = moved.clamp_(-1 - 3 / size, 1 + 3 / size)
    fixed = ((2 * _pixel_index(other, offset, other_dim) + 1) / other - 1).expand_as(moved)
    pair = (moved, fixed) if axis == "horizontal" else (fixed, moved)
    if torch.compiler.is_compiling():
        grid = torch.stack(pair, dim=-1)
    else:
        # The same interleaving, three times faster.
        grid = torch.view_as_real(torch.complex(*pair))
    return grid.view(batch * groups, height, width, 2)


def _fold(x: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Channel groups as images ``(B G, S, H, W)``, planes contiguous.

    ``grid_sample`` in bfloat16 is twice slower than in float32 on a CPU, and it wants x and grid of
    one dtype.
    """
    batch, channels, height, width = x.shape
    return x.to(dtype).reshape(batch * groups, channels // groups, height, width).contiguous()


def _grid_one(x: Tensor, offset: Tensor, axis: Axis) -> Tensor:
    folded = _fold(x, offset.shape[1], offset.dtype)
    sampled = F.grid_sample(
        folded, _grid(offset, axis), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.view(x.shape).to(x.dtype)


class _GridSample(torch.autograd.Function):
    """``grid_sample`` that keeps its inputs and makes the grid again in backward."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - PyTorch gives it no public type
        x: Tensor,
        offset: Tensor,
        axes: tuple[Axis, ...],
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, offset)
        ctx.axes = axes
        parts = offset.chunk(len(axes), dim=1)
        planes = x.contiguous()
        return tuple(_grid_one(planes, part, axis) for part, axis in zip(parts, axes, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor, None]:
        x, offset = ctx.saved_tensors
        offset_gradient = torch.empty_like(offset, memory_format=torch.contiguous_format)
        parts, targets = (t.chunk(len(ctx.axes), dim=1) for t in (offset, offset_gradient))
        folded = _fold(x, parts[0].shape[1], offset.dtype)
        total = None
        for gradient, part, target, axis in zip(gradients, parts, targets, ctx.axes, strict=True):
            of_folded, of_grid = torch.ops.aten.grid_sampler_2d_backward(
                _fold(gradient, part.shape[1], offset.dtype),
                folded,
                _grid(part, axis),
                0,  # bilinear
                0,  # zeros outside
                False,  # align_corners
                (True, True),
            )
            total = of_folded if total is None else total.add_(of_folded)
            moved, size = (0, x.shape[3]) if axis == "horizontal" else (1, x.shape[2])
            torch.mul(of_grid[..., moved].view(part.shape), 2 / size, out=target)
        assert total is not None  # noqa: S101 - there is an axis
        return total.view(x.shape).to(x.dtype), offset_gradient, None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _problem_of(device_type: str) -> str | None:
    """What :func:`operator.unavailable` says; compilers take it as it is instead of tracing it."""
    from ucip_adapt.kernels import operator

    return operator.unavailable(device_type)


def _sample_fused(x: Tensor, offset: Tensor, axes: Sequence[Axis]) -> Sequence[Tensor]:
    # Registers the operator, so it is imported only where it is asked for.
    from ucip_adapt.kernels import operator

    problem = _problem_of(x.device.type)
    if problem is not None:
        _say_once(problem)
        return _sample_grid(x, offset, axes)
    sampled: list[Tensor] = operator.deform_sample(x, offset, "+".join(axes))
    return sampled


_said: set[str] = set()


def _say_once(problem: str) -> None:
    if problem not in _said:
        _said.add(problem)
        _log.warning("sampler='fused' computes as 'grid' here: %s", problem)


_METHODS = {"grid": _sample_grid, "gather": _sample_gather, "fused": _sample_fused}
