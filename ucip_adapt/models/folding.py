r"""The token mixer's linear maps, folded into one matrix per branch and image.

The fusion weights depend on global averages only, and averaging commutes with a linear map. They
are therefore known before any map has been applied to the pixels, and

.. math::

    P\,(a_h (W_h s_h + b_h) + a_v (W_v s_v + b_v) + a_l x_l) + b_P
    = (P a_h W_h)\, s_h + (P a_v W_v)\, s_v + (P a_l)\, x_l + (P (a_h b_h + a_v b_v) + b_P)

with the fusion weights :math:`a` as diagonal matrices. The same function to rounding, with as many
multiplications, but without full-size tensors in between: the sum is made by the products
themselves, and sampled planes need no copy to pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ucip_adapt.models.token_mixer import TokenMixer

__all__ = [
    "FoldedMixer",
    "UnfoldedMixer",
    "effective",
    "fold_mixer",
    "is_plain",
    "is_traced",
    "needs_graph",
]


def effective(module: nn.Module) -> nn.Module:
    """The module that computes: of a PEFT layer switched off or merged, the base's own.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> effective(layer) is layer
        True
    """
    off, merged = (getattr(module, name, False) for name in ("disable_adapters", "merged"))
    # Switched off while merged, PEFT takes the adapter out at the next call: left to it.
    if off == merged:
        return module
    # What `modules_to_save` wraps around a module passes unknown names on to what it wraps: only
    # its own children tell it from a layer.
    kept = module._modules.get("original_module")
    return cast(nn.Module, module.base_layer) if kept is None else kept


def is_plain(*modules: nn.Module | None) -> bool:
    """Whether modules compute what their class and parameters say, seen by nobody in between.

    An adapter's wrapper, a parametrization or a quantised layer is of another class; hooks, also
    those of libraries that replace ``forward`` on the instance, must see the real calls.

    Args:
        *modules: Modules, looked at with all their children; None counts as plain.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> is_plain(layer)
        True
        >>> handle = layer.register_forward_hook(lambda *_: None)
        >>> is_plain(layer)
        False
    """
    return all(_is_plain(module) for module in modules if module is not None)


def _is_plain(module: nn.Module) -> bool:
    computing = effective(module)
    if any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        or "forward" in part.__dict__
        for part in (module, computing)
    ):
        return False
    own = type(computing).__module__.startswith(("torch.nn.modules.", "ucip_adapt."))
    return own and all(_is_plain(child) for child in computing.children())


def is_traced() -> bool:
    """Whether a compiler or an exporter is looking: sizes may be symbols then."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return torch.compiler.is_compiling() or tracing


def needs_graph(module: nn.Module, *tensors: Tensor) -> bool:
    """Whether autograd is going to record a call of a module on tensors.

    Example:
        >>> needs_graph(nn.Linear(2, 2).requires_grad_(False), torch.zeros(2))
        False
    """
    return torch.is_grad_enabled() and (
        any(tensor.requires_grad for tensor in tensors)
        or any(parameter.requires_grad for parameter in module.parameters())
    )


class FoldedMixer(NamedTuple):
    """What a mixer applies to every pixel of an image, once the global averages are known.

    Attributes:
        matrices: One per branch (horizontal, vertical, and local if there is one), shape
            ``(B, C, C)``; a pixel's row vector is multiplied from the left.
        bias: Shape ``(B, C)``.
    """

    matrices: tuple[Tensor, ...]
    bias: Tensor

    def apply(self, branches: Sequence[Tensor], residual: Tensor | None = None) -> Tensor:
        """Mix branches, a whole image or any part of it.

        Args:
            branches: As :meth:`TokenMixer.branches` returns them, shape ``(B, H, W, C)`` each, in
                any memory layout.
            residual: Added to the result, shape ``(B, H, W, C)``.

        Returns:
            Shape ``(B, H, W, C)``, contiguous.
        """
        batch, height, width, dim = branches[0].shape
        # Planes, seen as pixels, are a transposed matrix, which needs no copy in a product.
        pixels = [branch.flatten(1, 2) for branch in branches]
        device = pixels[0].device.type
        if torch.is_autocast_enabled(device):
            low = torch.get_autocast_dtype(device)
            # One product with a sum in float32; partial sums would be rounded to bfloat16.
            # In the layout that the branches come in: transposing costs more than the product.
            planar = pixels[0].stride(-1) != 1
            shape = (batch, height * width, len(pixels) * dim)
            joined = (
                torch.empty(shape[0], shape[2], shape[1], dtype=low, device=device).transpose(1, 2)
                if planar
                else torch.empty(shape, dtype=low, device=device)
            )
            for k, part in enumerate(pixels):
                joined[..., k * dim : (k + 1) * dim].copy_(part)
            matrix = torch.cat(self.matrices, dim=1).to(low)
            mixed = torch.baddbmm(self.bias[:, None].to(low), joined, matrix)
            mixed = mixed.view(batch, height, width, dim)
            return mixed if residual is None else residual + mixed
        if residual is None:
            total = torch.baddbmm(self.bias[:, None], pixels[0], self.matrices[0])
        else:
            total = (residual + self.bias[:, None, None]).flatten(1, 2)
            total.baddbmm_(pixels[0], self.matrices[0])
        for part, matrix in zip(pixels[1:], self.matrices[1:], strict=True):
            total.baddbmm_(part, matrix)
        return total.view(batch, height, width, dim)


class UnfoldedMixer(NamedTuple):
    """The same for a mixer whose maps are not plain: they are called as they are.

    Attributes:
        mixer: The mixer.
        weights: Fusion weights, shape ``(B, C, branches)``.
    """

    mixer: TokenMixer
    weights: Tensor

    def apply(self, branches: Sequence[Tensor], residual: Tensor | None = None) -> Tensor:
        """Mix branches; see :meth:`FoldedMixer.apply`."""
        mixed = self.mixer.mix(self.mixer.mapped(branches), self.weights)
        return mixed if residual is None else residual + mixed


def fold_mixer(mixer: TokenMixer, means: Sequence[Tensor]) -> FoldedMixer | UnfoldedMixer:
    """Fold a mixer for images with these averages; see :meth:`TokenMixer.fold`."""
    # The modules are called on one "pixel", the average: right for adapters too.
    averages = mixer.mapped([mean[:, None, None] for mean in means])
    weights = mixer.fusion_weights(torch.stack(averages).sum(dim=0)[:, 0, 0])
    if not is_plain(mixer.horizontal, mixer.vertical, mixer.proj):
        return UnfoldedMixer(mixer, weights)
    # Under autocast as well, matrices are made in the weights' own precision.
    horizontal, vertical, proj = (
        cast(nn.Linear, effective(part)) for part in (mixer.horizontal, mixer.vertical, mixer.proj)
    )
    with torch.autocast(weights.device.type, enabled=False):
        a_h, a_v, *a_l = weights.to(proj.weight.dtype).unbind(dim=-1)  # (B, C)
        out = proj.weight.t()  # (C in between, C out)
        matrices = [
            horizontal.weight.t() @ (a_h[:, :, None] * out),
            vertical.weight.t() @ (a_v[:, :, None] * out),
            *(a[:, :, None] * out for a in a_l),
        ]
        inner = torch.addcmul(a_h * horizontal.bias, a_v, vertical.bias)
        bias = torch.addmm(proj.bias, inner, out)
    return FoldedMixer(tuple(matrices), bias)
