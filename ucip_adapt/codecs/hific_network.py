"""The networks of HiFiC (Mentzer et al., "High-Fidelity Generative Image Compression", 2020).

Encoder, generator and the part of the hyperprior that moves the quantisation, written from the
paper's description and the names and shapes of the widely used PyTorch implementation
(Justin-Tan/high-fidelity-generative-compression, Apache-2.0), so that its checkpoints fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Density", "Encoder", "Generator", "HiFiC", "Hyperprior"]

_FILTERS = (60, 120, 240, 480, 960)
_LATENT_CHANNELS = 220
_HYPER_CHANNELS = 320
_SMALLEST_SCALE = 0.11
_SMALLEST_LIKELIHOOD = 1e-9


class ChannelNorm(nn.Module):
    """Normalise each pixel over its channels, with the variance of a sample (``n - 1``)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(B, C, H, W)`` in and out."""
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)
        scaled: Tensor = self.gamma * (x - mean) * torch.rsqrt(variance + 1e-3) + self.beta
        return scaled


class Encoder(nn.Module):
    """Image to latents, a sixteenth of the size.

    Args:
        filters: Channels of the five stages.
        latent_channels: Channels of the result.

    Example:
        >>> sum(p.numel() for p in Encoder().parameters())
        7423420
    """

    def __init__(
        self, filters: Sequence[int] = _FILTERS, latent_channels: int = _LATENT_CHANNELS
    ) -> None:
        super().__init__()
        self.conv_block1 = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, filters[0], 7),
            ChannelNorm(filters[0]),
            nn.ReLU(),
        )
        for index, (narrow, wide) in enumerate(pairwise(filters), start=2):
            block = nn.Sequential(
                nn.ReflectionPad2d((0, 1, 1, 0)),
                nn.Conv2d(narrow, wide, 3, stride=2),
                ChannelNorm(wide),
                nn.ReLU(),
            )
            self.add_module(f"conv_block{index}", block)
        self.conv_block_out = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(filters[-1], latent_channels, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` with sides divisible by 16 -> ``(B, C, H/16, W/16)``."""
        for block in self.children():
            x = block(x)
        return x


class _ResidualBlock(nn.Module):
    """Two convolutions with a normalisation each, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.norm1 = ChannelNorm(channels)
        self.norm2 = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(B, C, H, W)`` in and out."""
        inner = functional.relu(self.norm1(self.conv1(self.pad(x))))
        result: Tensor = x + self.norm2(self.conv2(self.pad(inner)))
        return result


class Generator(nn.Module):
    """Latents to image.

    Args:
        num_blocks: Residual blocks.
        filters: Channels of the five stages, in the order of the encoder.
        latent_channels: Channels of the latents.

    Example:
        >>> small = Generator(num_blocks=1, filters=(4, 4, 4, 4, 8), latent_channels=6)
        >>> small(torch.rand(1, 6, 2, 3)).shape
        torch.Size([1, 3, 32, 48])
    """

    def __init__(
        self,
        num_blocks: int,
        filters: Sequence[int] = _FILTERS,
        latent_channels: int = _LATENT_CHANNELS,
    ) -> None:
        super().__init__()
        self.num_blocks = num_blocks
        self.conv_block_init = nn.Sequential(
            ChannelNorm(latent_channels),
            nn.ReflectionPad2d(1),
            nn.Conv2d(latent_channels, filters[-1], 3),
            ChannelNorm(filters[-1]),
        )
        for index in range(num_blocks):
            self.add_module(f"resblock_{index}", _ResidualBlock(filters[-1]))
        for index, (wide, narrow) in enumerate(pairwise(reversed(filters)), start=1):
            block = nn.Sequential(
                nn.ConvTranspose2d(wide, narrow, 3, stride=2, padding=1, output_padding=1),
                ChannelNorm(narrow),
                nn.ReLU(),
            )
            self.add_module(f"upconv_block{index}", block)
        self.conv_block_out = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(filters[0], 3, 7))

    def forward(self, latents: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, 3, 16 H, 16 W)``, not yet limited to a range."""
        head = self.conv_block_init(latents)
        x = head
        for index in range(self.num_blocks):
            x = self.get_submodule(f"resblock_{index}")(x)
        x = x + head
        for index in range(1, len(_FILTERS)):
            x = self.get_submodule(f"upconv_block{index}")(x)
        image: Tensor = self.conv_block_out(x)
        return image


class _Analysis(nn.Module):
    """Latents to hyperlatents, a quarter of their size."""

    def __init__(self, channels: int, hyper: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hyper, 3, padding=1)
        self.conv2 = nn.Conv2d(hyper, hyper, 5, stride=2, padding=2, padding_mode="reflect")
        self.conv3 = nn.Conv2d(hyper, hyper, 5, stride=2, padding=2, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        result: Tensor = self.conv3(functional.relu(self.conv2(x)))
        return result


class _Synthesis(nn.Module):
    """Hyperlatents to one statistic of the latents."""

    def __init__(self, channels: int, hyper: int) -> None:
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(hyper, hyper, 5, stride=2, padding=2, output_padding=1)
        self.conv2 = nn.ConvTranspose2d(hyper, hyper, 5, stride=2, padding=2, output_padding=1)
        self.conv3 = nn.ConvTranspose2d(hyper, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        result: Tensor = self.conv3(functional.relu(self.conv2(x)))
        return result


class Density(nn.Module):
    """Probability of a rounded hyperlatent, one learnt distribution per channel.

    A monotone network of four small layers gives the cumulative probability (Balle et al.,
    "Variational image compression with a scale hyperprior", 2018, Sec. 6.1).

    Args:
        channels: Channels of the hyperlatents.

    Example:
        >>> likelihood = Density(2).likelihood(torch.arange(-40.0, 41.0).expand(1, 2, 1, 81))
        >>> bool((likelihood.sum(dim=-1) - 1).abs().max() < 0.2)  # of all whole numbers
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (1, 3, 3, 3, 1)
        self.num_layers = len(widths) - 1
        for k, (narrow, wide) in enumerate(pairwise(widths)):
            # Wide enough for values of about 10 before training.
            weight = torch.tensor(1 / (10 ** (1 / self.num_layers) * wide)).expm1().log()
            self.register_parameter(
                f"H_{k}", nn.Parameter(weight.expand(channels, wide, narrow).clone())
            )
            self.register_parameter(f"a_{k}", nn.Parameter(torch.zeros(channels, wide, 1)))
            self.register_parameter(f"b_{k}", nn.Parameter(torch.zeros(channels, wide, 1)))

    def _logits(self, x: Tensor) -> Tensor:
        for k in range(self.num_layers):
            x = functional.softplus(self.get_parameter(f"H_{k}")) @ x + self.get_parameter(f"b_{k}")
            x = x + self.get_parameter(f"a_{k}").tanh() * x.tanh()
        return x

    def likelihood(self, z: Tensor) -> Tensor:
        """Probability of each number, shape ``(B, C, H, W)`` in and out."""
        batch, channels, height, width = z.shape
        columns = z.transpose(0, 1).reshape(channels, 1, -1)
        upper, lower = self._logits(columns + 0.5), self._logits(columns - 0.5)
        # In the tail where both are near 0, so that their difference is not lost.
        sign = -torch.sign(upper + lower)
        mass = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        return mass.reshape(channels, batch, height, width).transpose(0, 1)


class Hyperprior(nn.Module):
    """Side information: mean and spread of each latent.

    Args:
        channels: Channels of the latents.
        hyper: Channels of the hyperlatents.
    """

    def __init__(self, channels: int = _LATENT_CHANNELS, hyper: int = _HYPER_CHANNELS) -> None:
        super().__init__()
        self.analysis_net = _Analysis(channels, hyper)
        self.synthesis_mu = _Synthesis(channels, hyper)
        self.synthesis_std = _Synthesis(channels, hyper)
        self.hyperlatent_likelihood = Density(hyper)

    def forward(self, y: Tensor, *, logistic: bool) -> tuple[Tensor, Tensor]:
        """Round latents about their predicted means.

        Args:
            y: Latents, ``(B, C, H, W)``, sides divisible by 4 and at least 8.
            logistic: Whether the latents' distribution is logistic; else it is gaussian.

        Returns:
            The rounded latents, and the number of bits after the model's probabilities.
        """
        z = torch.floor(self.analysis_net(y) + 0.5)
        mean = self.synthesis_mu(z)
        scale = self.synthesis_std(z).clamp_min(_SMALLEST_SCALE)
        rounded = torch.floor(y - mean + 0.5)
        distance = rounded.abs()
        cumulative = torch.sigmoid if logistic else torch.special.ndtr
        inner = cumulative((0.5 - distance) / scale) - cumulative(-(0.5 + distance) / scale)
        side = self.hyperlatent_likelihood.likelihood(z)
        return rounded + mean, _bits(inner) + _bits(side)


def _bits(likelihood: Tensor) -> Tensor:
    """Information of all symbols, bounded as where the checkpoints are from."""
    bounded = likelihood.clamp_min(_SMALLEST_LIKELIHOOD) + _SMALLEST_LIKELIHOOD
    return -torch.log2(bounded).sum()


class HiFiC(nn.Module):
    """Encoder, hyperprior and generator under the names of the checkpoints.

    Args:
        num_blocks: Residual blocks of the generator.
        normalised: Whether the networks see and make images in [-1, 1] (with tanh) instead of
            [0, 1].
        logistic: Whether the latents' distribution is logistic instead of gaussian.
        filters: Channels of the five stages.
        latent_channels: Channels of the latents.
        hyper_channels: Channels of the hyperlatents.

    Example:
        >>> small = HiFiC(1, filters=(4, 4, 4, 4, 8), latent_channels=6, hyper_channels=5).eval()
        >>> with torch.no_grad():
        ...     image, bits = small(torch.rand(1, 3, 40, 140))
        >>> image.shape
        torch.Size([1, 3, 40, 140])
    """

    def __init__(
        self,
        num_blocks: int = 9,
        *,
        normalised: bool = False,
        logistic: bool = False,
        filters: Sequence[int] = _FILTERS,
        latent_channels: int = _LATENT_CHANNELS,
        hyper_channels: int = _HYPER_CHANNELS,
    ) -> None:
        super().__init__()
        self.normalised, self.logistic = normalised, logistic
        # The names are those of the checkpoints.
        self.Encoder = Encoder(filters, latent_channels)
        self.Generator = Generator(num_blocks, filters, latent_channels)
        self.Hyperprior = Hyperprior(latent_channels, hyper_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Code an image and decode it.

        Args:
            image: ``(1, 3, H, W)`` in [0, 1].

        Returns:
            The decoded image in [0, 1], same shape, and the estimated number of bits.
        """
        height, width = image.shape[-2:]
        x = _extend(_extend_small(image), 16)
        y = _extend(self.Encoder(2 * x - 1 if self.normalised else x), 4)
        rounded, bits = self.Hyperprior(y, logistic=self.logistic)
        decoded = self.Generator(rounded)[..., :height, :width]
        if self.normalised:
            decoded = (decoded.tanh() + 1) / 2
        return decoded.clamp(0.0, 1.0), bits


def _extend_small(x: Tensor) -> Tensor:
    """Repeat the edge of images under 113 pixels a side, up to 128.

    The hyperprior mirrors two pixels at a 128th of the size, which smaller ones do not have: the
    implementation that the checkpoints come from refuses them.
    """
    height, width = x.shape[-2:]
    pad = [128 - side if side < 113 else 0 for side in (width, height)]
    return functional.pad(x, (0, pad[0], 0, pad[1]), mode="replicate")


def _extend(x: Tensor, multiple: int) -> Tensor:
    """Mirror at the right and lower edge, up to a multiple, as the checkpoints' implementation."""
    height, width = x.shape[-2:]
    return functional.pad(x, (0, -width % multiple, 0, -height % multiple), mode="reflect")
