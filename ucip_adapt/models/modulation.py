"""Parts of a PTMM that keep less for backward than autograd would, and pass memory fewer times."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ucip_adapt.models.depthwise import depthwise, pays
from ucip_adapt.models.folding import is_plain, is_traced, needs_graph

__all__ = ["add_convolved", "convolve", "modulate"]

_PIXELS = 128 * 128
"""Pixels above which group norm is not taken on a CPU. It adds up squares one by one: 1 / deviation
is off by 3e-6 of itself here, 2e-4 at 1024 x 1024 and 1e-2 at 4096 x 4096, where a mean, which is
summed pairwise, stays at 1e-7. On crops and windows the mean's way takes up to a third longer."""


def modulate(x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float) -> Tensor:
    """``InstanceNorm(x) * (1 + gamma) + beta``, statistics over the whole image.

    For backward it keeps ``x`` and ``gamma``, and nothing else of their size.

    Args:
        x: Features, shape ``(B, H, W, C)``, contiguous, float32 or float64.
        gamma: Shape of ``x``.
        beta: Shape of ``x``.
        eps: Added to the variance.

    Returns:
        The shape of ``x``, and its dtype.

    Example:
        >>> x = torch.tensor([3.0, 5.0]).view(1, 1, 2, 1)
        >>> modulate(x, torch.ones_like(x), torch.zeros_like(x), eps=0.0).flatten()
        tensor([-2.,  2.])
    """
    if is_traced():
        # Compilers and exporters see plain operations, which they fuse on their own.
        variance, mean = torch.var_mean(x, dim=(1, 2), correction=0, keepdim=True)
        normalised = (x - mean) * torch.rsqrt(variance + eps)
        return torch.addcmul(normalised + beta, normalised, gamma)
    inputs = (x, gamma, beta)
    if torch.is_grad_enabled() and any(value.requires_grad for value in inputs):
        modulated: Tensor = _Modulation.apply(*inputs, eps)  # type: ignore[no-untyped-call]
        return modulated
    normalised, _, _ = _normalise(x, eps)
    return _scale_and_shift(normalised, gamma, beta)


def _scale_and_shift(normalised: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return (normalised + beta).addcmul_(normalised, gamma)


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised features, and mean and 1 / standard deviation of shape ``(B, 1, 1, C)``."""
    if x.device.type != "cpu":
        variance, mean = torch.var_mean(x, dim=(1, 2), correction=0, keepdim=True)
        scale = torch.rsqrt(variance + eps)
        return (x - mean).mul_(scale), mean, scale
    # A variance over all but the last axis takes ten times as long on a CPU as group norm with
    # groups of one channel. That one subtracts the squared mean from the mean square: without the
    # mean taken away first, it would lose digits.
    mean = x.mean(dim=(1, 2), keepdim=True)
    batch, height, width, dim = x.shape
    if height * width > _PIXELS:
        centred = x - mean
        # What the mean's own rounding has left, which group norm takes away as well.
        rest = centred.mean(dim=(1, 2), keepdim=True)
        centred.sub_(rest)
        scale = torch.rsqrt(centred.square().mean(dim=(1, 2), keepdim=True) + eps)
        return centred.mul_(scale), mean + rest, scale
    centred = (x - mean).permute(0, 3, 1, 2)
    normalised, _, scale = torch.native_group_norm(
        centred, None, None, batch, dim, height * width, dim, eps
    )
    return normalised.permute(0, 2, 3, 1), mean, scale.view(batch, 1, 1, dim)


class _Modulation(torch.autograd.Function):
    """The same with a backward pass that makes the normalised features again."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - PyTorch gives it no public type
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        eps: float,
    ) -> Tensor:
        normalised, mean, scale = _normalise(x, eps)
        ctx.save_for_backward(x, gamma, mean, scale)
        ctx.beta_dtype = beta.dtype
        return _scale_and_shift(normalised, gamma, beta)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, gamma, mean, scale = ctx.saved_tensors
        for_x, for_gamma, for_beta, _ = ctx.needs_input_grad
        of_x = of_gamma = of_beta = None
        if for_beta:
            of_beta = grad.to(ctx.beta_dtype)
        if for_x or for_gamma:
            normalised = (x - mean).mul_(scale)
            product = grad * normalised
            if for_gamma:
                of_gamma = product.to(gamma.dtype)
        if for_x:
            scaled = torch.addcmul(grad, grad, gamma)
            mean_scaled = scaled.mean(dim=(1, 2), keepdim=True)
            # scaled * normalised = product * (1 + gamma)
            mean_product = torch.addcmul(product, product, gamma).mean(dim=(1, 2), keepdim=True)
            scaled.sub_(mean_scaled).addcmul_(normalised, mean_product, value=-1)
            of_x = scaled.mul_(scale)
        return of_x, of_gamma, of_beta, None


def add_convolved(
    mixed: Tensor, share: Tensor, convolved: Tensor, z: Tensor, conv: nn.Conv2d
) -> Tensor:
    """``mixed + share * convolved``; backward makes ``convolved`` again instead of keeping it.

    A depth-wise convolution costs little, and its input is kept anyway.

    Args:
        mixed: Shape ``(B, H, W, C)``.
        share: Shape ``(B, 1, 1, C)``.
        convolved: ``conv(z)``, shape ``(B, H, W, C)``.
        z: Input of the convolution, shape ``(B, H, W, C)``.
        conv: The convolution.

    Returns:
        The shape of ``mixed``.

    Example:
        >>> z, conv = torch.ones(1, 3, 3, 2), nn.Conv2d(2, 2, 1, groups=2)
        >>> convolved = conv(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        >>> out = add_convolved(z, torch.full((1, 1, 1, 2), 0.5), convolved, z, conv)
        >>> torch.allclose(out, z + 0.5 * convolved)
        True
    """
    added: Tensor = _AddConvolved.apply(mixed, share, convolved, z.detach(), conv)  # type: ignore[no-untyped-call]
    return added


class _AddConvolved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        mixed: Tensor,
        share: Tensor,
        convolved: Tensor,
        z: Tensor,
        conv: nn.Conv2d,
    ) -> Tensor:
        ctx.save_for_backward(share, z, conv.weight, conv.bias)
        ctx.conv = conv
        ctx.dtypes = mixed.dtype, convolved.dtype
        return torch.addcmul(mixed, convolved, share)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        share, z, weight, bias = ctx.saved_tensors
        mixed_dtype, dtype = ctx.dtypes
        planes = z.permute(0, 3, 1, 2).to(dtype)
        convolved = torch.conv2d(
            planes,
            weight.to(dtype),
            bias.to(dtype),
            padding=ctx.conv.padding,
            groups=ctx.conv.groups,
        ).permute(0, 2, 3, 1)
        of_share = (grad * convolved).sum(dim=(1, 2), keepdim=True).to(share.dtype)
        return grad.to(mixed_dtype), of_share, (grad * share).to(dtype), None, None


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)``, which does not keep ``x`` for backward where the convolution is frozen.

    Depth-wise convolutions take a quicker way backward on a CPU, see :mod:`.depthwise`.

    Args:
        conv: A convolution with a bias.
        x: Planes ``(B, C, H, W)``.

    Returns:
        ``conv(x)``.

    Example:
        >>> conv = nn.Conv2d(2, 3, 3).requires_grad_(False)
        >>> convolve(conv, torch.zeros(1, 2, 5, 5)).shape
        torch.Size([1, 3, 3, 3])
    """
    recorded = needs_graph(conv, x) and not is_traced() and is_plain(conv)
    if recorded and pays(conv, x):
        return depthwise(conv, x)
    if recorded and not any(parameter.requires_grad for parameter in conv.parameters()):
        convolved: Tensor = _FrozenConvolution.apply(x, conv)  # type: ignore[no-untyped-call]
        return convolved
    return cast(Tensor, conv(x))


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        conv: nn.Conv2d,
    ) -> Tensor:
        out = cast(Tensor, conv(x))
        ctx.save_for_backward(conv.weight)
        ctx.conv, ctx.layout, ctx.dtypes = conv, (x.shape, x.stride()), (x.dtype, out.dtype)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        conv, (x_dtype, dtype) = ctx.conv, ctx.dtypes
        # The values of the input are not read, only its size and its layout.
        size, stride = ctx.layout
        of_x, _, _ = torch.ops.aten.convolution_backward(
            grad.to(dtype),
            torch.empty_strided(size, stride, dtype=dtype, device=grad.device),
            weight.to(dtype),
            None,
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            [0, 0],
            conv.groups,
            [True, False, False],
        )
        return of_x.to(x_dtype), None
