"""PTMM, the prompt-guided token mixer module, and its parts (Sec. 3.2 and Fig. 2 of the paper).

Tensors between the parts are channels last, ``(B, H, W, C)``: linear maps and norms then need no
copy, and a permuted view is what convolutions call ``torch.channels_last``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucip_adapt.models.folding import (
    FoldedMixer,
    UnfoldedMixer,
    effective,
    fold_mixer,
    is_plain,
    is_traced,
    needs_graph,
)
from ucip_adapt.models.modulation import add_convolved, convolve, modulate
from ucip_adapt.models.sampling import Sampler, deform_sample_axes

__all__ = [
    "MLP",
    "PTMM",
    "SPADE",
    "OffsetLayer",
    "TokenMixer",
    "to_channels_first",
    "to_channels_last",
]

_PIXELS = 2048
"""Pixels that go through an MLP at once on a CPU, where nothing is kept for backward."""


def to_channels_first(x: Tensor) -> Tensor:
    """View ``(B, H, W, C)`` as ``(B, C, H, W)`` in channels-last memory; no copy.

    Example:
        >>> to_channels_first(torch.zeros(1, 5, 7, 16)).shape
        torch.Size([1, 16, 5, 7])
    """
    return x.permute(0, 3, 1, 2)


def to_channels_last(x: Tensor) -> Tensor:
    """View ``(B, C, H, W)`` as ``(B, H, W, C)``; contiguous if the memory is channels last.

    Example:
        >>> to_channels_last(torch.zeros(1, 16, 5, 7)).shape
        torch.Size([1, 5, 7, 16])
    """
    return x.permute(0, 2, 3, 1)


class OffsetLayer(nn.Module):
    """Predict how far every token is fetched from, out of features and prompt (Eq. 2).

    Args:
        dim: Channels C of the features.
        prompt_dim: Channels C_p of the prompt.
        share: Neighbouring channels S that share one offset (2 in the released code).
        planar: Memory layout of the result: planes, or channels last.

    Example:
        >>> layer = OffsetLayer(dim=16, prompt_dim=8, share=2)
        >>> layer(torch.zeros(1, 5, 7, 16), torch.zeros(1, 5, 7, 8)).shape
        torch.Size([1, 16, 5, 7])
    """

    def __init__(self, dim: int, prompt_dim: int, share: int, *, planar: bool = True) -> None:
        super().__init__()
        self.planar = planar
        self.dim = dim
        self.prompt_dim = prompt_dim
        self.share = share
        self.norm = nn.LayerNorm(dim + prompt_dim)
        self.linear = nn.Linear(dim + prompt_dim, 2 * dim // share)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Offsets ``(B, 2C/S, H, W)``, horizontal first, of features and prompts, channels last.

        Unit: feature pixels, unbounded. Computed in float32 even under autocast: a bfloat16 offset
        of 20 pixels has steps of an eighth of a pixel.
        """
        with torch.autocast(x.device.type, enabled=False):
            dtype = self.linear.weight.dtype
            joined = self.norm(torch.cat([x.to(dtype), prompt.to(dtype)], dim=-1))
            if not self.planar:
                return to_channels_first(self.linear(joined))
            if is_traced() or not is_plain(self.linear):
                return to_channels_first(self.linear(joined)).contiguous()
            # The product writes planes at once, where linear would write pixels to be copied.
            linear = cast(nn.Linear, effective(self.linear))
            batch, height, width, inputs = joined.shape
            planes = torch.baddbmm(
                linear.bias[:, None],
                linear.weight.expand(batch, -1, -1),
                joined.view(batch, height * width, inputs).transpose(1, 2),
            )
            return planes.view(batch, -1, height, width)


class TokenMixer(nn.Module):
    """Mix tokens along both axes and locally; fuse by global statistics (Eq. 3 and 4).

    Args:
        dim: Channels C.
        local: False leaves out the depth-wise 5 x 5 branch (Table 5); two branches are fused then.
        sampler: Which implementation of the one-dimensional sampling to use.

    Example:
        >>> mixer = TokenMixer(dim=16)
        >>> mixer(torch.zeros(1, 5, 7, 16), torch.zeros(1, 16, 5, 7)).shape
        torch.Size([1, 5, 7, 16])
    """

    def __init__(self, dim: int, *, local: bool = True, sampler: Sampler = "grid") -> None:
        super().__init__()
        self.dim = dim
        self.sampler: Sampler = sampler
        self.horizontal = nn.Linear(dim, dim)
        self.vertical = nn.Linear(dim, dim)
        self.local = nn.Conv2d(dim, dim, 5, padding=2, groups=dim) if local else None
        self.branches = 3 if local else 2
        self.fusion = MLP(dim, dim // 4, self.branches * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, z: Tensor, offset: Tensor, residual: Tensor | None = None) -> Tensor:
        """Mix normalised ``(B, H, W, C)`` at offsets ``(B, 2C/S, H, W)`` into ``(B, H, W, C)``.

        ``residual``, of the shape of the result, is added to it. Where autograd records nothing,
        the linear maps are folded (:meth:`fold`); in training that gained nothing.
        """
        branches = self.branches_of(z, offset)
        maps = self.horizontal, self.vertical, self.proj
        if not (needs_graph(self, z, offset) or is_traced()) and is_plain(*maps):
            means = [branch.mean(dim=(1, 2)) for branch in branches]
            return self.fold(*means).apply(branches, residual)
        mapped = self.mapped(branches)
        pooled = torch.stack([branch.mean(dim=(1, 2)) for branch in mapped]).sum(dim=0)  # (B, C)
        mixed = self.mix(mapped, self.fusion_weights(pooled), z)
        return mixed if residual is None else residual + mixed

    def branches_of(self, z: Tensor, offset: Tensor) -> list[Tensor]:
        """Sampled along W, sampled along H, convolved: what the linear maps are applied to.

        Shape ``(B, H, W, C)`` each; the sampled ones may be views of planes. A mixer without local
        branch has two.
        """
        planes = to_channels_first(z)
        # Without a graph nobody needs the sampled features as pixels, and planes are quicker.
        planar = self.sampler != "fused" and not needs_graph(self, z, offset)
        source = planes.contiguous() if planar else planes
        sampled = deform_sample_axes(source, offset, method=self.sampler)
        branches = [to_channels_last(part) for part in sampled]
        if self.local is not None:
            # In channels-last memory: of planes, oneDNN's depth-wise convolution is slower.
            branches.append(to_channels_last(convolve(self.local, planes)))
        return branches

    def mapped(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Apply W_h and W_v to the sampled branches (Eq. 3)."""
        sampled_h, sampled_v, *local = branches
        return [self.horizontal(sampled_h), self.vertical(sampled_v), *local]

    def fusion_weights(self, pooled: Tensor) -> Tensor:
        """Shares ``(B, C, branches)`` out of the branches' summed averages ``(B, C)`` (Eq. 4)."""
        units: Tensor = self.fusion(pooled)
        return units.view(-1, self.dim, self.branches).softmax(dim=-1)  # unit c * 3 + k

    def mix(self, mapped: Sequence[Tensor], weights: Tensor, z: Tensor | None = None) -> Tensor:
        """Weigh the mapped branches and project their sum (Eq. 4).

        Given the mixer's input ``z``, the local branch is not kept for backward but made again.
        """
        shares = weights[:, None, None].unbind(dim=-1)
        mixed = mapped[0] * shares[0]
        for branch, share in zip(mapped[1:], shares[1:], strict=True):
            if branch is mapped[-1] and z is not None and self._may_repeat_local():
                mixed = add_convolved(mixed, share, branch, z, cast(nn.Conv2d, self.local))
            else:
                mixed = torch.addcmul(mixed, branch, share)
        out: Tensor = self.proj(mixed)
        return out

    def _may_repeat_local(self) -> bool:
        return self.local is not None and is_plain(self.local) and not is_traced()

    def fold(
        self, mean_h: Tensor, mean_v: Tensor, mean_local: Tensor | None = None
    ) -> FoldedMixer | UnfoldedMixer:
        """What is to be applied per pixel, given the averages over the whole image.

        Args:
            mean_h: Average of the branch sampled along W, before its linear map, shape ``(B, C)``.
            mean_v: The same along H.
            mean_local: Average of the convolved branch; None without a local branch.

        Returns:
            One matrix per branch and a bias. Where a linear map is wrapped (LoRA) or carries hooks,
            the maps as they are; both have the method ``apply(branches, residual=None)``.

        Example:
            >>> mixer = TokenMixer(dim=16)
            >>> z, offset = torch.rand(1, 5, 7, 16), torch.rand(1, 16, 5, 7)
            >>> branches = mixer.branches_of(z, offset)
            >>> folded = mixer.fold(*(branch.mean(dim=(1, 2)) for branch in branches))
            >>> rows = folded.apply([branch[:, :2] for branch in branches])
            >>> torch.allclose(rows, mixer(z, offset)[:, :2], atol=1e-6)
            True
        """
        means = [mean_h, mean_v] if mean_local is None else [mean_h, mean_v, mean_local]
        return fold_mixer(self, means)


class MLP(nn.Module):
    """Linear, exact GELU, Linear on the last axis.

    Args:
        dim: Input channels.
        hidden_dim: Channels in between.
        out_dim: Output channels; default ``dim``.

    Example:
        >>> MLP(16, 32)(torch.zeros(1, 5, 7, 16)).shape
        torch.Size([1, 5, 7, 16])
    """

    def __init__(self, dim: int, hidden_dim: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim or dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(.., dim)`` to ``(.., out_dim)``."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SPADE(nn.Module):
    """Replace the features' global statistics by what the prompt says, pixel by pixel (Eq. 5).

    ``InstanceNorm(x) * (1 + gamma(P)) + beta(P)`` without affine parameters, running statistics or
    a residual (spatially adaptive normalisation, arXiv 1903.07291).

    Args:
        dim: Channels C of the features.
        prompt_dim: Channels C_p of the prompt.
        eps: Added to the variance.

    Example:
        >>> spade = SPADE(dim=16, prompt_dim=8)
        >>> spade(torch.rand(1, 5, 7, 16), torch.zeros(1, 5, 7, 8)).shape
        torch.Size([1, 5, 7, 16])
    """

    def __init__(self, dim: int, prompt_dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.dim = dim
        self.prompt_dim = prompt_dim
        self.eps = eps
        self.shared = nn.Conv2d(prompt_dim, prompt_dim // 2, 3, padding=1)
        self.gamma = nn.Conv2d(prompt_dim // 2, dim, 3, padding=1)
        self.beta = nn.Conv2d(prompt_dim // 2, dim, 3, padding=1)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Modulate ``(B, H, W, C)`` by prompts ``(B, H, W, C_p)``; returns the shape of ``x``."""
        # Statistics over a whole image in bfloat16 lose digits; autocast would leave them there.
        values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        activation = F.relu(convolve(self.shared, to_channels_first(prompt)))
        gamma = to_channels_last(self.gamma(activation))
        beta = to_channels_last(self.beta(activation))
        return modulate(values, gamma, beta, eps=self.eps)


class PTMM(nn.Module):
    """Prompt-guided token mixer module: mixer and MLP with residuals, SPADE without (Eq. 5).

    Args:
        dim: Channels C.
        prompt_dim: Channels C_p of the prompt.
        mlp_ratio: Hidden channels of the MLP over C.
        share: Channels that share an offset.
        has_offset: True where new offsets are predicted ("every two", Sec. 3.2); the next PTMM
            reuses them.
        local: See :class:`TokenMixer`.
        sampler: See :class:`TokenMixer`.

    Example:
        >>> ptmm = PTMM(
        ...     16, 8, mlp_ratio=2, share=2, has_offset=True, local=True, sampler="grid"
        ... )
        >>> x, prompt = torch.rand(1, 5, 7, 16), torch.zeros(1, 5, 7, 8)
        >>> ptmm(x, prompt, ptmm.offset(x, prompt)).shape
        torch.Size([1, 5, 7, 16])
    """

    def __init__(
        self,
        dim: int,
        prompt_dim: int,
        *,
        mlp_ratio: int,
        share: int,
        has_offset: bool,
        local: bool,
        sampler: Sampler,
    ) -> None:
        super().__init__()
        self.offset = OffsetLayer(dim, prompt_dim, share) if has_offset else None
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = TokenMixer(dim, local=local, sampler=sampler)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, mlp_ratio * dim)
        self.spade = SPADE(dim, prompt_dim)
        self.use_sampler(sampler)

    def use_sampler(self, sampler: Sampler) -> None:
        """Sample by this implementation, and predict offsets in the layout that it reads."""
        self.mixer.sampler = sampler
        for part in self.modules():
            # An adapter's layer has wrapped the base's, and holds its own where no child is found.
            for module in (part, *getattr(part, "replacements", ())):
                if isinstance(module, OffsetLayer):
                    module.planar = sampler != "fused"

    def forward(self, x: Tensor, prompt: Tensor, offset: Tensor) -> Tensor:
        """Map ``(B, H, W, C)`` to the same shape, given the prompt and the offsets in force."""
        x = self.mixer(self.norm1(x), offset, x)
        if needs_graph(self, x) or not is_plain(self) or is_traced():
            x = x + self.mlp(self.norm2(x))
        else:
            self._add_mlp(x)
        modulated: Tensor = self.spade(x, prompt)
        return modulated

    def _add_mlp(self, x: Tensor) -> None:
        """Add norm and MLP in place, a piece at a time: the wide tensor in between stays small."""
        fc1, fc2 = (cast(nn.Linear, effective(part)) for part in (self.mlp.fc1, self.mlp.fc2))
        pixels = x.view(-1, x.shape[-1])
        device = x.device.type
        pieces = torch.split(pixels, _PIXELS if device == "cpu" else len(pixels))
        if device != "cpu" or torch.is_autocast_enabled(device):
            for piece in pieces:
                hidden = fc1(self.norm2(piece))
                torch.ops.aten.gelu_(hidden)
                piece.add_(fc2(hidden))
            return
        # On a CPU, a product with a bias first copies that to every pixel, which takes as long as a
        # sum or longer. The second product adds to where its result is wanted.
        for piece in pieces:
            hidden = torch.mm(self.norm2(piece), fc1.weight.t()).add_(fc1.bias)
            torch.ops.aten.gelu_(hidden)
            piece.addmm_(hidden, fc2.weight.t())
        pixels.add_(fc2.bias)
