"""The sampling kernels for GPUs, in Triton; tested by its interpreter, never yet run on a GPU.

A line is one row or one column of one image, channels are lanes. Positions are float32 (float64 for
float64 features). No kernel adds to memory that another program adds to: the gradient of the
features is gathered, every program reading the positions of its line and weighing them by the hat
function, so results do not depend on the order in which programs run. That is ``n`` products per
value for a line of ``n`` pixels, which costs no more than the memory traffic for the lines of
training crops; longer lines go in segments, and a segment leaves out what reads elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Importable without Triton, so that tools which read every module can; nothing runs then, and the
# operator says why.
try:
    import triton
    import triton.language as tl
except ModuleNotFoundError:
    triton = tl = None

__all__ = ["backward", "forward"]

_POSITIONS = 32
_LANES = 32
_SEGMENT = 64


def _jit(function: Callable[..., Any]) -> Any:  # noqa: ANN401
    return function if triton is None else triton.jit(function)


@_jit
def _position(offset: tl.tensor, j: tl.tensor, length: int) -> tl.tensor:
    """Where position j reads; what is two or more pixels outside becomes exactly that."""
    p = j.to(offset.dtype) + offset
    # Comparisons, not minimum and maximum, so that a NaN stays one.
    p = tl.where(p < -2, -2.0, p)
    return tl.where(p > length, tl.zeros_like(p) + length, p)


@_jit
def _taps(
    x: tl.tensor, p: tl.tensor, step: int, length: int, mask: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The two pixels around p, zero outside, and the share of the upper one."""
    floor = tl.floor(p)
    k = tl.where(floor >= -2, floor, -2.0).to(tl.int64)
    lower = tl.load(x + k * step, mask=mask & (k >= 0) & (k < length), other=0.0)
    upper = tl.load(x + (k + 1) * step, mask=mask & (k >= -1) & (k < length - 1), other=0.0)
    return lower.to(p.dtype), upper.to(p.dtype), p - floor


@_jit
def _forward_kernel(
    x: tl.tensor, x_image: int, x_line: int, x_step: int,
    offset: tl.tensor, o_image: int, o_line: int, o_step: int,
    y: tl.tensor, y_image: int, y_line: int, y_step: int,
    lines: int, length: int, channels: int, share: int,
    POSITIONS: tl.constexpr, LANES: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Write y = (1 - f) x[floor p] + f x[floor p + 1] for a tile of positions and channels."""
    image = (tl.program_id(0) // lines).to(tl.int64)
    line = (tl.program_id(0) % lines).to(tl.int64)
    j = (tl.program_id(1) * POSITIONS + tl.arange(0, POSITIONS))[:, None]
    c = (tl.program_id(2) * LANES + tl.arange(0, LANES))[None, :]
    inside = (j < length) & (c < channels)
    at = image * o_image + line * o_line + j.to(tl.int64) * o_step + c // share
    p = _position(tl.load(offset + at, mask=inside, other=0.0), j, length)
    base = x + image * x_image + line * x_line + c
    lower, upper, fraction = _taps(base, p, x_step, length, inside)
    value = lower * (1 - fraction) + upper * fraction
    to = y + image * y_image + line * y_line + j.to(tl.int64) * y_step + c
    tl.store(to, value.to(y.dtype.element_ty), mask=inside)


@_jit
def _offset_gradient_kernel(
    x: tl.tensor, x_image: int, x_line: int, x_step: int,
    offset: tl.tensor, o_image: int, o_line: int, o_step: int,
    gy: tl.tensor, g_image: int, g_line: int, g_step: int,
    go: tl.tensor, t_image: int, t_line: int, t_step: int,
    lines: int, length: int, groups: int, share: int,
    POSITIONS: tl.constexpr, LANES: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """The slope between the two taps times the gradient, summed over the channels of a group."""
    image = (tl.program_id(0) // lines).to(tl.int64)
    line = (tl.program_id(0) % lines).to(tl.int64)
    j = (tl.program_id(1) * POSITIONS + tl.arange(0, POSITIONS))[:, None]
    group = (tl.program_id(2) * LANES + tl.arange(0, LANES))[None, :]
    inside = (j < length) & (group < groups)
    far = j.to(tl.int64)
    at = offset + image * o_image + line * o_line + far * o_step + group
    p = _position(tl.load(at, mask=inside, other=0.0), j, length)
    total = tl.zeros_like(p)
    for s in range(share):
        c = group * share + s
        base = x + image * x_image + line * x_line + c
        lower, upper, _ = _taps(base, p, x_step, length, inside)
        from_ = gy + image * g_image + line * g_line + far * g_step + c
        total += tl.load(from_, mask=inside, other=0.0).to(p.dtype) * (upper - lower)
    tl.store(go + image * t_image + line * t_line + far * t_step + group, total, mask=inside)


@_jit
def _feature_gradient_kernel(
    offset: tl.tensor, o_image: int, o_line: int, o_step: int,
    gy: tl.tensor, g_image: int, g_line: int, g_step: int,
    gx: tl.tensor, t_image: int, t_line: int, t_step: int,
    lines: int, length: int, channels: int, share: int,
    SEGMENT: tl.constexpr, POSITIONS: tl.constexpr, LANES: tl.constexpr,  # noqa: N803
    LONG: tl.constexpr, ADD: tl.constexpr,  # noqa: N803
) -> None:  # fmt: skip
    """Write gx[k] = sum over j of max(0, 1 - |p[j] - k|) g[j], for one segment of a line."""
    image = (tl.program_id(0) // lines).to(tl.int64)
    line = (tl.program_id(0) % lines).to(tl.int64)
    first = tl.program_id(1) * SEGMENT
    k = (first + tl.arange(0, SEGMENT))[:, None]
    lane = tl.program_id(2) * LANES + tl.arange(0, LANES)
    valid = lane < channels
    o_line_start = offset + image * o_image + line * o_line
    g_line_start = gy + image * g_image + line * g_line + lane
    total = tl.zeros((SEGMENT, LANES), offset.dtype.element_ty)
    for start in range(0, length, POSITIONS):
        stop = tl.minimum(start + POSITIONS, length)
        if LONG:
            j = (start + tl.arange(0, POSITIONS))[:, None]
            known = (j < length) & valid[None, :]
            at = o_line_start + j.to(tl.int64) * o_step + (lane // share)[None, :]
            reads = _position(tl.load(at, mask=known, other=0.0), j, length)
            # Not (outside), so that a NaN is read.
            elsewhere = (reads <= first - 1) | (reads >= first + SEGMENT)
            stop = tl.where(tl.max((known & ~elsewhere).to(tl.int32)) > 0, stop, start)
        for j_one in range(start, stop):
            # The loop's counter may be a plain number; as a tensor it is 64 bits wide.
            j_wide = tl.zeros_like(lane).to(tl.int64) + j_one
            o = tl.load(o_line_start + j_wide * o_step + lane // share, mask=valid, other=0.0)
            p = _position(o, j_wide, length)
            g = tl.load(g_line_start + j_wide * g_step, mask=valid, other=0.0).to(p.dtype)
            weight = tl.maximum(1 - tl.abs(p[None, :] - k.to(p.dtype)), 0.0)
            total += g[None, :] * weight
    to = gx + image * t_image + line * t_line + k.to(tl.int64) * t_step + lane[None, :]
    mask = (k < length) & valid[None, :]
    if ADD:
        total += tl.load(to, mask=mask, other=0.0).to(total.dtype)
    tl.store(to, total.to(gx.dtype.element_ty), mask=mask)


def forward(x: Tensor, offset: Tensor, output: Tensor, *, dim: int) -> None:
    """Sample along one axis.

    Args:
        x: Features, shape ``(B, C, H, W)``; channels must have stride 1, here and in all other
            tensors.
        offset: Shape ``(B, G, H, W)``, float32, or float64 for float64 ``x``.
        output: Written; shape and dtype of ``x``.
        dim: 3 for horizontal, 2 for vertical.
    """
    lines, length, channels, share = _sizes(x, offset, dim)
    grid = (
        len(x) * lines, triton.cdiv(length, _POSITIONS), triton.cdiv(channels, _LANES)
    )  # fmt: skip
    with _on_device(x):
        _forward_kernel[grid](
            x, *_steps(x, dim), offset, *_steps(offset, dim), output, *_steps(output, dim),
            lines, length, channels, share, POSITIONS=_POSITIONS, LANES=_LANES,
        )  # fmt: skip


def backward(
    x: Tensor,
    offset: Tensor,
    gradient: Tensor,
    x_gradient: Tensor,
    offset_gradient: Tensor,
    *,
    dim: int,
    add: bool,
) -> None:
    """Gradients of :func:`forward`.

    Args:
        x: As there.
        offset: As there.
        gradient: Gradient of the output.
        x_gradient: Written, or added to; shape and dtype of ``x``.
        offset_gradient: Written; shape and dtype of ``offset``.
        dim: As there.
        add: True adds to ``x_gradient``.
    """
    lines, length, channels, share = _sizes(x, offset, dim)
    groups = offset.shape[1]
    with _on_device(x):
        grid = (
            len(x) * lines, triton.cdiv(length, _POSITIONS), triton.cdiv(groups, _LANES)
        )  # fmt: skip
        _offset_gradient_kernel[grid](
            x, *_steps(x, dim), offset, *_steps(offset, dim), gradient, *_steps(gradient, dim),
            offset_gradient, *_steps(offset_gradient, dim),
            lines, length, groups, share, POSITIONS=_POSITIONS, LANES=_LANES,
        )  # fmt: skip
        grid = (
            len(x) * lines, triton.cdiv(length, _SEGMENT), triton.cdiv(channels, _LANES)
        )  # fmt: skip
        _feature_gradient_kernel[grid](
            offset, *_steps(offset, dim), gradient, *_steps(gradient, dim),
            x_gradient, *_steps(x_gradient, dim), lines, length, channels, share,
            SEGMENT=_SEGMENT, POSITIONS=_POSITIONS, LANES=_LANES, LONG=length > _SEGMENT, ADD=add,
        )  # fmt: skip


def _sizes(x: Tensor, offset: Tensor, dim: int) -> tuple[int, int, int, int]:
    """Lines of an image, pixels of a line, channels, channels that share an offset."""
    channels = x.shape[1]
    return x.shape[5 - dim], x.shape[dim], channels, channels // offset.shape[1]


def _steps(tensor: Tensor, dim: int) -> tuple[int, int, int]:
    """Elements to the next image, the next line and the next position on a line."""
    return tensor.stride(0), tensor.stride(5 - dim), tensor.stride(dim)


def _on_device(x: Tensor) -> torch.cuda.device:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(x.device if x.is_cuda else -1)
