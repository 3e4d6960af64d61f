"""The networks of the tiny codecs: transforms, side information, and the order of coding.

A latent ``y`` of mean ``m`` and step ``s`` is coded as a whole number, ``q = round((y - m) / s)``,
under a gaussian whose standard deviation comes from a table; the decoder has ``m + q s``. Steps
belong to a rate and a channel (the gain vectors that let one network serve all rates), means and
table rows to every single latent. How they are predicted is what the two architectures differ in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucip_adapt.codecs.learned.cascade import CascadeAnalysis, CascadeSynthesis
from ucip_adapt.codecs.learned.fixed_point import SnapConv2d, leaky
from ucip_adapt.codecs.learned.likelihoods import LogisticMixture, gaussian_bits, index_of
from ucip_adapt.codecs.learned.transforms import Analysis, RateScale, Synthesis, dct_basis

__all__ = ["Architecture", "NetworkConfig", "Part", "TinyNetwork", "TrainingPass", "build_network"]

Architecture = Literal["hyperprior", "groups"]

STRIDE = 8
"""Pixels per latent, along each side."""

# Channels of the groups, in order of coding: few and important ones first, as in ELIC.
_GROUPS = (4, 4, 8, 16, 32)
INDEX_SPREAD = 8.0
"""Table rows in one unit of a predicted scale, so that all weights learn at one pace."""


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a network.

    Attributes:
        architecture: ``"hyperprior"`` (mean and scale from side information alone) or ``"groups"``
            (also from channels and neighbours that are decoded already).
        rates: Number of rates.
        luma: Luma filters of the block transform.
        chroma: Filters of each chroma axis.
        width: Channels of the transforms' networks.
        hyper_width: Channels of the networks for side information.
        hyper_latents: Channels of the side information.
    """

    architecture: Architecture
    rates: int
    luma: int = 48
    chroma: int = 16
    width: int = 64
    hyper_width: int = 40
    hyper_latents: int = 16


class Part(NamedTuple):
    """Latents that are coded together.

    Attributes:
        channels: Their channels.
        mask: Their places, ``(h, w)`` bool; None for all.
    """

    channels: slice
    mask: Tensor | None


class Resolve(Protocol):
    """Turns predictions into decoded latents: by coding, by decoding, or for training."""

    def __call__(self, mean: Tensor, index: Tensor, part: Part) -> Tensor:
        """Give the decoded latents of a part, zero outside its mask.

        Args:
            mean: Shape ``(B, channels of the part, h, w)``.
            index: Scale of each, the same shape: table rows over :data:`INDEX_SPREAD`, before the
                rate's shift.
            part: Which latents.
        """
        ...


class HyperSynthesis(nn.Module):
    """Side information to features for every latent; exact in float64."""

    def __init__(self, config: NetworkConfig, outputs: int) -> None:
        super().__init__()
        width = config.hyper_width
        self.first = SnapConv2d(config.hyper_latents, width)
        self.rate_shift = nn.Parameter(torch.zeros(config.rates, width))
        self.second = SnapConv2d(width, width)
        self.third = SnapConv2d(width, outputs)

    def forward(self, z: Tensor, rate: Tensor, size: tuple[int, int]) -> Tensor:
        """``(B, hyper latents, h / 4, w / 4)`` to ``(B, outputs, h, w)`` of the size given."""
        half = (-(-size[0] // 2), -(-size[1] // 2))
        x = leaky(self.first(z) + self.rate_shift[rate, :, None, None])
        x = _double(x, half)
        return leaky(self.third(_double(leaky(self.second(x)), size)))


def _double(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat rows and columns, then cut to the size."""
    x = x.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
    return x[..., : size[0], : size[1]]


class HyperpriorPredictor(nn.Module):
    """All latents at once, from the side information."""

    def __init__(self, config: NetworkConfig, latents: int) -> None:
        super().__init__()
        self.features = config.hyper_width + 8
        self.latents = latents
        self.head = SnapConv2d(self.features, 2 * latents, 1)

    def forward(self, features: Tensor, resolve: Resolve) -> Tensor:
        """Walk over the parts in order; returns all decoded latents."""
        mean, index = self.head(features).chunk(2, dim=1)
        return resolve(mean, index, Part(slice(0, self.latents), None))


class GroupPredictor(nn.Module):
    """Uneven channel groups, each in two passes of a checkerboard (He et al., CVPR 2022, the idea).

    A group is predicted from the side information and the groups before it; its second half also
    from the neighbours in its first half.
    """

    def __init__(self, config: NetworkConfig, latents: int) -> None:
        super().__init__()
        self.features = config.hyper_width
        if sum(_GROUPS) != latents:
            raise ValueError(f"groups {_GROUPS} do not make {latents} latents")
        starts = [sum(_GROUPS[:k]) for k in range(len(_GROUPS))]
        self.parts = [slice(a, a + n) for a, n in zip(starts, _GROUPS, strict=True)]
        context = 24
        self.channel = nn.ModuleList(SnapConv2d(a, context) for a in starts[1:])
        self.spatial = nn.ModuleList(SnapConv2d(n, context, 5) for n in _GROUPS)
        self.join = nn.ModuleList(SnapConv2d(self.features + 2 * context, 48, 1) for _ in _GROUPS)
        self.head = nn.ModuleList(SnapConv2d(48, 2 * n, 1) for n in _GROUPS)
        self._context = context

    def forward(self, features: Tensor, resolve: Resolve) -> Tensor:
        """Walk over the ten parts in order; returns all decoded latents."""
        height, width = features.shape[-2:]
        rows = torch.arange(height)[:, None] + torch.arange(width)[None, :]
        first = (rows % 2 == 0).to(features.device)
        nothing = features.new_zeros((len(features), self._context, height, width))
        done: list[Tensor] = []
        for k, channels in enumerate(self.parts):
            before = leaky(self.channel[k - 1](torch.cat(done, dim=1))) if k else nothing
            known = torch.cat([features, before], dim=1)
            anchors = resolve(*self._predict(k, known, nothing), Part(channels, first))
            near = leaky(self.spatial[k](anchors))
            others = resolve(*self._predict(k, known, near), Part(channels, ~first))
            done.append(anchors + others)
        return torch.cat(done, dim=1)

    def _predict(self, k: int, known: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        hidden = leaky(self.join[k](torch.cat([known, near], dim=1)))
        mean, index = self.head[k](hidden).chunk(2, dim=1)
        return mean, index


class TrainingPass(NamedTuple):
    """What a pass for training gives.

    Attributes:
        pixels: Decoded images, ``(B, 3, H, W)``, around [0, 1], not clamped.
        bits: Estimated bits of each image, ``(B,)``.
        latents: Decoded latents.
    """

    pixels: Tensor
    bits: Tensor
    latents: Tensor


class TinyNetwork(nn.Module):
    """One codec's network, for all its rates.

    Args:
        config: Its shape.
    """

    basis: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        basis = dct_basis(STRIDE, config.luma, config.chroma)
        self.latents = latents = len(basis)
        self.register_buffer("basis", basis, persistent=False)
        if config.architecture == "hyperprior":
            self.analysis: nn.Module = Analysis(config.rates, basis, 3 * config.width // 4)
            self.synthesis: nn.Module = Synthesis(config.rates, basis, config.width)
            self.predictor: nn.Module = HyperpriorPredictor(config, latents)
        else:
            self.analysis = CascadeAnalysis(config.rates, basis, config.width)
            self.synthesis = CascadeSynthesis(config.rates, basis, config.width)
            self.predictor = GroupPredictor(config, latents)
        width = config.hyper_width
        self.hyper_in = nn.Conv2d(latents, width, 1)
        self.hyper_rate = RateScale(config.rates, width)
        self.hyper_half = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.hyper_quarter = nn.Conv2d(width, config.hyper_latents, 3, stride=2, padding=1)
        self.prior = LogisticMixture(config.rates, config.hyper_latents)
        self.hyper = HyperSynthesis(config, self.predictor.features)
        self.log_step = nn.Parameter(torch.full((config.rates, latents), math.log(0.25)))
        self.log_hyper_step = nn.Parameter(
            torch.full((config.rates, config.hyper_latents), math.log(0.25))
        )
        self.index_shift = nn.Parameter(torch.zeros(config.rates, latents))

    @torch.no_grad()
    def calibrate(self, images: Tensor, steps: Sequence[float]) -> None:
        """Start from given steps, and from scales that fit some images.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1], sides multiples of 8.
            steps: Step of all channels, for each rate.
        """
        for rate, step in enumerate(steps):
            rows = torch.full((len(images),), rate)
            spread = self.analysis(images - 0.5, rows).square().mean(dim=(0, 2, 3)).sqrt()
            self.index_shift[rate] = index_of(spread / step) / INDEX_SPREAD
            self.log_step[rate] = math.log(step)

    def hyper_analysis(self, y: Tensor, rate: Tensor) -> Tensor:
        """Latents to side information, ``(B, hyper latents, h / 4, w / 4)``, not rounded."""
        x = F.leaky_relu(self.hyper_rate(self.hyper_in(y), rate), 0.125)
        z: Tensor = self.hyper_quarter(F.leaky_relu(self.hyper_half(x), 0.125))
        return z

    def forward(self, images: Tensor, rate: Tensor) -> TrainingPass:
        """Estimate rate and decoded image, with gradients.

        While training, rates see uniform noise and the decoder rounded values with the gradient
        passed through. In evaluation both see rounded values, and the bits are those of a stream
        but for its header; the noise overestimates them, the more the lower the rate.

        Args:
            images: ``(B, 3, H, W)`` in [0, 1], sides multiples of 8.
            rate: Row of each image, ``(B,)``.
        """
        blur = _noisy if self.training else torch.round
        y = self.analysis(images - 0.5, rate)
        step = self.log_hyper_step[rate].exp()[:, :, None, None]
        z = self.hyper_analysis(y, rate) / step
        bits = self.prior.bits(blur(z), rate).sum(dim=(1, 2, 3))
        features = self.hyper(_rounded(z) * step, rate, (y.shape[-2], y.shape[-1]))
        steps = self.log_step[rate].exp()[:, :, None, None]
        shift = self.index_shift[rate][:, :, None, None]
        spent: list[Tensor] = []

        def resolve(mean: Tensor, index: Tensor, part: Part) -> Tensor:
            own = steps[:, part.channels]
            values = (y[:, part.channels] - mean) / own
            cost = gaussian_bits(blur(values), (index + shift[:, part.channels]) * INDEX_SPREAD)
            decoded = mean + _rounded(values) * own
            if part.mask is not None:
                cost, decoded = cost * part.mask, decoded * part.mask
            spent.append(cost.sum(dim=(1, 2, 3)))
            return decoded

        decoded = self.predictor(features, resolve)
        bits = bits + torch.stack(spent).sum(dim=0)
        return TrainingPass(self.synthesis(decoded, rate) + 0.5, bits, decoded)

    def plain(self, latents: Tensor) -> Tensor:
        """Latents to pixels by the cosine transform alone, around [0, 1]."""
        x: Tensor = F.conv_transpose2d(latents, self.basis, stride=STRIDE) + 0.5
        return x


def _noisy(values: Tensor) -> Tensor:
    return values + (torch.rand_like(values) - 0.5)


def _rounded(values: Tensor) -> Tensor:
    return values + (values.round() - values).detach()


def build_network(config: NetworkConfig) -> TinyNetwork:
    """Make a network with untrained weights."""
    return TinyNetwork(config)
