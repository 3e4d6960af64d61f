"""Depth-wise convolutions with a backward pass that is quick on a CPU.

oneDNN has a quick way to the weight gradient of depth-wise kernels up to three columns wide. All
gradients of a 5 x 5 take three times as long as those of a 5 x 3, and eight times in bfloat16
(``results/benchmarks/depthwise.json``). Two kernels of three columns hold all five, so their
gradients are taken.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["depthwise", "is_depthwise", "pays"]

_QUICK = 3
"""Columns of a kernel whose weight gradient oneDNN computes quickly."""

_WIDEST = 7
"""Columns of a kernel whose pieces still meet an image of a single column."""


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether :func:`depthwise` knows a convolution: one small kernel per channel, sizes kept.

    Example:
        >>> is_depthwise(nn.Conv2d(4, 4, 5, padding=2, groups=4))
        True
        >>> is_depthwise(nn.Conv2d(4, 4, 5, padding=2))
        False
    """
    height, width = conv.kernel_size
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (height // 2, width // 2)
        and conv.padding_mode == "zeros"
        and height % 2 == width % 2 == 1
        and width <= _WIDEST
        and conv.bias is not None
    )


def pays(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether :func:`depthwise` is the quicker way to train a convolution on ``x``.

    PyTorch's own is quicker for narrow kernels in float32, and was not compared on GPUs.

    Example:
        >>> conv = nn.Conv2d(4, 4, 5, padding=2, groups=4)
        >>> pays(conv, torch.zeros(1, 4, 9, 9))
        True
    """
    slow = conv.kernel_size[1] > _QUICK or torch.is_autocast_enabled("cpu")
    return slow and x.device.type == "cpu" and is_depthwise(conv)


def depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)`` for training on a CPU, in the precision of the weights even under autocast.

    Args:
        conv: A convolution that :func:`is_depthwise`.
        x: Planes ``(B, C, H, W)``.

    Returns:
        ``conv(x)``, in the dtype of the weights.

    Example:
        >>> conv, x = nn.Conv2d(4, 4, 5, padding=2, groups=4), torch.rand(1, 4, 6, 7)
        >>> torch.allclose(depthwise(conv, x), conv(x))
        True
    """
    with torch.autocast(x.device.type, enabled=False):
        convolved: Tensor = _Depthwise.apply(  # type: ignore[no-untyped-call]
            x.to(conv.weight.dtype), conv.weight, conv.bias
        )
    return convolved


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - PyTorch gives it no public type
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        # A frozen convolution needs its input's sizes only.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return torch.conv2d(x, weight, bias, padding=_padding(weight), groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        padding = _padding(weight)
        # Sizes are kept and kernels are odd: the transposed convolution is one with turned kernels.
        of_x = (
            torch.conv2d(grad, weight.flip(2, 3), None, padding=padding, groups=len(weight))
            if for_x
            else None
        )
        of_weight = _weight_gradient(x, grad, weight) if for_weight else None
        return of_x, of_weight, grad.sum(dim=(0, 2, 3)) if for_bias else None


def _padding(weight: Tensor) -> tuple[int, int]:
    return weight.shape[2] // 2, weight.shape[3] // 2


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient of the kernels, ``_QUICK`` columns at a time.

    Column k of a kernel meets the padded image k columns on; the image is padded by hand, since
    oneDNN's quick way ends where a padding is wider than its kernel reaches.
    """
    width = weight.shape[3]
    above, beside = _padding(weight)
    columns = min(_QUICK, width)
    gradient = torch.empty_like(weight)
    # The last piece may share columns with the one before it.
    for first in (min(k, width - columns) for k in range(0, width, columns)):
        left = beside - first
        padded = F.pad(x, (left, columns - 1 - left))
        _, of_narrow, _ = torch.ops.aten.convolution_backward(
            grad,
            padded,
            weight[..., first : first + columns],
            None,
            [1, 1],
            [above, 0],
            [1, 1],
            False,
            [0, 0],
            len(weight),
            [False, True, False],
        )
        gradient[..., first : first + columns] = of_narrow
    return gradient
